"""Find the objects of a drop that contain erased samples: former shards, former sample lists and uploads."""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from retrain.config.frame import Frame
from retrain.data.archives import is_archive
from retrain.data.content import examine_image
from retrain.data.files import SourceFile, list_store, list_stored_archive
from retrain.data.images import EXTENSIONS
from retrain.data.litter import litter_kind
from retrain.data.tables import FORMATS
from retrain.errors import DropError
from retrain.records import Drop
from retrain.store.drops import OWN_FILES
from retrain.store.task_store import TaskStore

STAY = frozenset({"drop.json", "quarantine.json", "_SUCCESS"})
"""Files of a drop that no erasure deletes."""


@dataclass
class Searched:
    """The result of a search of a drop's objects."""

    to_delete: set[str] = field(default_factory=set)
    """Names of the objects that contain erased samples, or may reveal them."""
    unread: list[str] = field(default_factory=list)
    """Objects that could not be searched, with the cause."""


@dataclass(frozen=True)
class Search:
    """A search for samples in the objects of one drop, committed or not."""

    store: TaskStore
    drop_id: str
    drop: Drop | None
    """The drop's manifest. None if there is only an upload."""
    contents: frozenset[bytes]
    """Content digests of the samples."""
    shards: frozenset[str]
    """SHA-256 of the shards that contained the samples."""
    keys: frozenset[str]
    """Keys of the samples that belong to this drop."""
    is_affected: bool
    """Whether the erasure includes samples of this drop."""
    frame: Frame
    """Size of the task's images, at which an image is decoded for its digest."""

    def run(self) -> Searched:
        """Search every object that the manifest does not name, and return the objects to delete.

        An archive that contains an erased sample must be deleted completely. Its other samples are in the drop's
        shards. Tables of labels and stray files such as `Thumbs.db` must be deleted, too, because they may name or show
        erased images.
        """
        prefix, found = self.store.keys.drop_file(self.drop_id, ""), Searched()
        files = [file for file in list_store(self.store.objects, prefix) if str(file.name) not in self._named()]
        for file in files:
            if file.problem:
                found.unread.append(f"{file}: {file.problem}")
                continue
            try:
                if self._must_be_deleted(file):
                    found.to_delete.update(str(other.name) for other in _with_its_files(file, files))
            except DropError as error:
                found.unread.append(str(error))
        return found

    def _named(self) -> set[str]:
        """Return the names of the objects that are not searched: records, and objects that the manifest names."""
        if self.drop is None:
            return {*STAY}
        listed = {self.drop.sample_list.name} if self.drop.sample_list else set()
        return {*STAY, *listed, *(shard.name for shard in self.drop.shards)}

    def _must_be_deleted(self, file: SourceFile) -> bool:
        name = str(file.name)
        if self.is_affected and self.drop and OWN_FILES.fullmatch(name):  # a former list or shard
            return self.drop.erased is not None
        if litter_kind(file.name):
            return self.is_affected
        left_out = self.drop.left_out if self.drop else ()
        if any(bad.key in self.keys and f"{bad.where}/".startswith(f"{name}/") for bad in left_out):
            return True
        extension = file.name.suffix[1:].lower()
        if extension in EXTENSIONS:
            return self._is_erased_image(file.read())
        if is_archive(file.name):
            return self._contains_erased_image(file)
        return self.is_affected and extension in FORMATS

    def _is_erased_image(self, data: bytes) -> bool:
        try:
            return examine_image(data, self.frame).content in self.contents
        except DropError:  # not an image: the caller has already looked for bad samples
            return False

    def _contains_erased_image(self, file: SourceFile) -> bool:
        prefix = self.store.keys.drop_file(self.drop_id, "")
        with self.store.objects.open(f"{prefix}{file.name}") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() in self.shards:  # type: ignore[arg-type]
                return True
        members = list_stored_archive(self.store.objects, prefix, file)
        images = (one for one in members if one.name.suffix[1:].lower() in EXTENSIONS)
        return any(self._is_erased_image(image.read()) for image in images)


def _with_its_files(file: SourceFile, files: Collection[SourceFile]) -> Iterator[SourceFile]:
    """Yield a file. If it is an image, also yield the files of the same name, with any extension, in its folder."""
    yield file
    stem = f"{file.name.stem}."
    if file.name.suffix[1:].lower() in EXTENSIONS:
        yield from (one for one in files if one.name.parent == file.name.parent and one.name.name.startswith(stem))
