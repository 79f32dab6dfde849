"""Random histories of a task: each image stays in one split and has its newest label, for all ways to ingest drops."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.contents import all_places, content_of
from support.ingest_routes import INGEST_FUNCTIONS, Files, IngestFunction
from support.pictures import png
from support.uploads import task_in

from retrain.errors import DropError
from retrain.store.task_store import open_task_store

PICTURES = [png(number, 4) for number in range(30)]
FIRST = {
    f"{split}/{('cat', 'dog')[number % 2]}/{number}.png": PICTURES[number]
    for number, split in enumerate(["train"] * 6 + ["val"] * 3 + ["test"] * 3)
}
"""The first drop. It has every split."""


class Later(NamedTuple):
    """A later drop: the function that ingests it, whether it has split folders, and its images.

    An image is described by its number, its label, and whether it is held out.
    """

    ingest: IngestFunction
    has_splits: bool
    images: list[tuple[int, str, bool]]

    def files(self) -> Files:
        """Return the drop's files. Copies of an image have different names, and are in train or one held-out split."""
        files = {}
        for copy, (number, name, is_held_out) in enumerate(self.images):
            split = ("val", "test")[number % 2] if is_held_out else "train"
            files[f"{f'{split}/' if self.has_splits else ''}{name}/{number} ({copy}).png"] = PICTURES[number]
        return files

    def labels(self) -> dict[bytes, str]:
        """Return the label of each content, without contents that have two labels."""
        called: dict[int, set[str]] = {}
        for number, name, _ in self.images:
            called.setdefault(number, set()).add(name)
        return {content_of(PICTURES[number]): names.pop() for number, names in called.items() if len(names) == 1}


IMAGES = st.tuples(
    st.integers(0, len(PICTURES) - 1),
    st.sampled_from(["cat", "cat", "cat", "dog", "hen"]),
    st.booleans(),
)
LATER = st.builds(Later, st.sampled_from(INGEST_FUNCTIONS), st.booleans(), st.lists(IMAGES, min_size=1, max_size=20))


@contextmanager
def allow_refusal_of_known_images() -> Iterator[None]:
    """Ignore the refusal of a drop that adds no image."""
    try:
        yield
    except DropError as refused:
        if not any(cause in str(refused) for cause in ("it has no new image", "no sample in it can be used")):
            raise


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(first=st.sampled_from(INGEST_FUNCTIONS), later=st.lists(LATER, min_size=1, max_size=3))
def test_image_stays_in_one_split_with_its_newest_label(first: IngestFunction, later: list[Later]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        task = task_in(Path(folder))
        store = open_task_store(task)
        first(task, store, "drop-0", FIRST)
        labels = {content_of(data): name.split("/")[1] for name, data in FIRST.items()}
        splits: dict[bytes, str] = {}
        for number, drop in enumerate(later, 1):
            with allow_refusal_of_known_images():
                drop.ingest(task, store, f"drop-{number}", drop.files())
            labels |= drop.labels()
            found = all_places(store)
            assert {content: [name for _, name in places] for content, places in found.items()} == {
                content: [name] for content, name in labels.items()
            }
            for content, [(split, _)] in found.items():
                assert splits.setdefault(content, split) == split
