"""Read a task's drops as training reads them, and identify images by the digest of their content (`content`)."""

from retrain.data.assignment import Assignment
from retrain.data.content import examine_image
from retrain.data.shards import read_shard
from retrain.records import Drop
from retrain.store.task_store import TaskStore

Places = dict[bytes, tuple[str, str]]
"""Split and class of each image, by the digest of its content."""


def content_of(image: bytes) -> bytes:
    """Return the digest of an image file's visible content."""
    return examine_image(image, 8).content


def placed(store: TaskStore, drop: Drop) -> Places:
    """Read a drop as training does, and return the split and the class of each image content.

    Fail if a content is used twice, or if a count in the manifest is wrong.
    """
    found: Places = {}
    assignment = Assignment.of(drop, store)
    for position, one in enumerate(drop.shards):
        with store.objects.open(store.keys.drop_file(drop.id, one.name)) as stream:
            for sample in read_shard(stream, one, one.name, assignment.skipped(position)):
                if place := assignment.place(position, sample.key, sample.class_name):
                    content = content_of(sample.data)
                    assert content not in found
                    found[content] = place
    counted = {(split, name): number for split, each in drop.counts.items() for name, number in each.items()}
    assert counted == {place: list(found.values()).count(place) for place in set(found.values())}
    return found


def all_places(store: TaskStore) -> dict[bytes, list[tuple[str, str]]]:
    """Return every split and class in which each image content occurs in a task's drops."""
    found: dict[bytes, list[tuple[str, str]]] = {}
    for drop in store.drops.all():
        for content, place in placed(store, drop).items():
            found.setdefault(content, []).append(place)
    return found
