"""Read a source: find its samples with their labels, and report all other files."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path, PurePosixPath

from retrain.config import SPLITS, Split
from retrain.config.task import Data
from retrain.data.archives import SUFFIXES
from retrain.data.files import (
    SourceFile,
    expand_archives,
    list_archive,
    list_folder,
    list_store,
    list_stored_archive,
    split_called,
)
from retrain.data.images import EXTENSIONS
from retrain.data.labels import (
    SHAPE,
    FoundFiles,
    Labelled,
    LabelRule,
    Sample,
    Unread,
    choose_rule,
    count_files_beside,
    label_by_file,
    label_by_folder,
    make_sample,
    name_files,
    sort_files,
    split_and_path,
)
from retrain.data.litter import litter_kind
from retrain.data.sample_keys import escape, readable_key
from retrain.data.tables import FORMATS, Row, read_table
from retrain.errors import DropError
from retrain.records import Reading
from retrain.records.drop import compose
from retrain.store import open_store
from retrain.store.base import Missing, ObjectStore
from retrain.utils.text import is_address


@dataclass(frozen=True)
class Source:
    """A source after reading: its samples, the files that could not be read as samples, and a summary."""

    root: str
    samples: tuple[Sample, ...]
    """Sorted by split (train, val, test), class and name."""
    unread: tuple[Unread, ...]
    reading: Reading


def read_source(source: Path) -> tuple[Sample, ...]:
    """Return the samples of folders of classes, or of archives of such folders.

    A class may have the name of a split, because CIFAR-100 has a class `train`. Raises `DropError` for the first file
    that is neither a sample nor a stray file.
    """
    found = survey_source(source, Data(label_from="folder"))
    if found.unread:
        raise DropError(name_files(found.unread))
    return found.samples


def survey_source(source: Path, data: Data) -> Source:
    """Read a folder, an archive (tar, gzipped tar, zip) or a table of labels on this machine.

    Raises `DropError` if there is no such path or no image in it, if it contains links, damaged archives or duplicate
    keys, or if several label rules are possible. `docs/your-data.md` describes every layout.
    """
    try:
        is_there = source.exists()
    except OSError as error:  # for example, its name is too long
        raise DropError(f"{source}: cannot be read: {error.strerror}") from error
    if not is_there:
        is_remote = is_address(str(source))
        what = "not a path on this machine: download it first, or upload it as a drop (docs/your-data.md)"
        raise DropError(f"{source}: {what if is_remote else 'no such file or folder'}")
    extension = source.suffix[1:].lower()
    if source.is_file() and extension in FORMATS:
        return _survey_table(source, extension, data)
    if source.is_file():
        if not source.name.lower().endswith(SUFFIXES):
            raise DropError(
                f"{source}: neither a folder, nor an archive ({', '.join(SUFFIXES)}), nor a table of labels "
                f"({', '.join(FORMATS)}): pass one of these"
            )
        files: Iterable[SourceFile] = _without_wrapper(list_archive(source))
    else:
        files = expand_archives(list_folder(source), lambda file: _nested(list_archive(source / file.name), file))
    return _survey(files, str(source), data)


def survey_upload(store: ObjectStore, prefix: str, excluded: Iterable[str], data: Data) -> Source:
    """Read a producer's uploads below a prefix of a store. The prefix ends in a slash.

    `excluded` are the names of objects that `retrain` itself wrote below this prefix.
    """
    files = [file for file in list_store(store, prefix) if str(file.name) not in excluded]
    root = f"{store.url}/{prefix}".rstrip("/")
    archives = expand_archives(files, lambda file: _nested(list_stored_archive(store, prefix, file), file))
    return _survey(archives, root, data)


def _nested(files: Iterable[SourceFile], archive: SourceFile) -> Iterable[SourceFile]:
    """Return an archive's files without its outer folder. If the archive is in a split's folder, change nothing."""
    return files if len(archive.name.parts) > 1 else _without_wrapper(files)


def _without_wrapper(files: Iterable[SourceFile]) -> list[SourceFile]:
    """Remove an archive's outer folder, such as `pets/` in `pets/cat/1.png`, from all names, if it has all classes."""
    files = list(files)
    paths = [file.name.parts for file in files if not (litter_kind(file.name) or file.is_folder)]
    below = {parts[1] for parts in paths if len(parts) > 2}
    tops = {parts[0] for parts in paths}
    if len(tops) != 1 or any(map(split_called, tops)) or not (len(below) > 1 or any(map(split_called, below))):
        return files
    if any(len(parts) < 3 and PurePosixPath(*parts).suffix[1:].lower() in EXTENSIONS for parts in paths):
        return files
    return [
        replace(file, name=PurePosixPath(*file.name.parts[1:]))
        for file in files
        if litter_kind(file.name) or len(file.name.parts) > 1
    ]


def _survey(files: Iterable[SourceFile], root: str, data: Data) -> Source:
    found = sort_files(files, root)
    rule = choose_rule(data.label_from, found)
    return _arrange(found, rule, _label(found, rule, data.label_from != "auto"), data.aliases)


def _label(found: FoundFiles, rule: LabelRule, asked: bool) -> Iterator[Labelled]:
    if rule.kind == "folder":
        yield from label_by_folder(found, asked)
    elif rule.kind == "csv":
        yield from _label_by_tables(found)
    else:
        yield from label_by_file(found, rule)
    count_files_beside(found, rule)
    found.unread.extend(Unread.of(file, _why_unread(file, rule)) for file in found.others)
    what = "labels" if rule.kind == "csv" else "next to images"
    found.not_samples.update(f"{table.name.name} ({what})" for table in found.tables)


def _why_unread(file: SourceFile, rule: LabelRule) -> str:
    """Return why a file that is no image is not read, with advice."""
    extension = file.name.suffix[1:].lower()
    if extension == rule.kind:
        return "no image has this name: add the image or remove the label"
    if rule.kind != "folder":
        return "it belongs to no image"
    if extension in FORMATS:
        return f"not an image; name a table of labels metadata.{extension}, or pass the table itself"
    return f"not an image of a class; expected {SHAPE}"


def _label_by_tables(found: FoundFiles) -> Iterator[Labelled]:
    """Yield each image with the label in its row. Record images without a row, and rows without an image."""
    if not found.tables:
        raise DropError(
            f"{found.root}: no table of labels in it; expected metadata.csv, .jsonl or .parquet; to read a table "
            "with another name, pass its path instead of the folder's"
        )
    images = {(image.archive, str(image.name)): image for image in found.images}
    composed = {(archive, compose(name)): (archive, name) for archive, name in images}
    named, rows = set[tuple[str, str]](), 0
    for table in found.tables:
        for row in read_table(table.read(), table.name.suffix[1:], str(table)):
            rows += 1
            place = table.archive, str(table.name.parent / row.path)
            if place not in images:  # some systems write é as one character, and others as two
                place = composed.get((place[0], compose(place[1])), place)
            row_place = f"{table.place}: {row.place}"
            if place not in images or place in named:
                cause = f"{row.path!r} is named a second time" if place in named else _why_absent(row.path)
                found.unread.append(Unread(f"{table.root}: {row_place}", row_place, cause))
                continue
            named.add(place)
            split, parts = split_and_path(images[place])
            key = "/".join(map(escape, (*parts[:-1], images[place].name.stem)))
            yield images[place], row.split or split, row.label, escape(row.id) if row.id else key
    if not rows:
        raise DropError(f"{', '.join(map(str, found.tables))}: has no row; expected a row for each image")
    for place, image in images.items():
        if place not in named:
            found.unread.append(Unread.of(image, "no table of labels has a row for it"))


def _why_absent(path: str) -> str:
    """Return the reason why a path in a table next to images names no image."""
    if path.startswith("/") or ".." in path.split("/") or is_address(path):
        return f"{path!r} is not allowed: write the image's path relative to the table, without '..'"
    return f"there is no image {path!r}"


def _survey_table(table: Path, extension: str, data: Data) -> Source:
    """Read a table whose path the caller passed. Its rows name files on this machine, or objects by their addresses."""
    if data.label_from not in ("auto", "csv"):
        raise DropError(f"{table}: labels come from the table; leave out --label-from {data.label_from}")
    found = FoundFiles(str(table))
    open_bucket = cache(open_store)
    labelled: list[Labelled] = []
    for row in read_table(_read_local(table), extension, str(table)):
        file = _file_of_row(row, table, open_bucket)
        if file.problem:
            found.unread.append(Unread(f"{table}: {row.place}", row.place, file.problem))
            continue
        parts = [part for part in (*file.name.parts[:-1], file.name.stem) if part not in NO_PARTS]
        labelled.append((file, row.split, row.label, "/".join(map(escape, [row.id] if row.id else parts))))
    found.not_samples[f"{table.name} (labels)"] = 1
    return _arrange(found, LabelRule("csv"), labelled, data.aliases)


def _read_local(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DropError(f"{path}: cannot be read: {error.strerror}") from error


NO_PARTS = ("/", "..", "s3:", "gs:", "az:")
"""Parts of a path or an address that are left out of a sample's key."""

STORED = re.compile(r"((?:s3|gs|az)://[^/]+)/(.+)")
"""Pattern of an object's address: the bucket's address, and the key."""


def _file_of_row(row: Row, table: Path, open_bucket: Callable[[str], ObjectStore]) -> SourceFile:
    """Return the file or object that a row names.

    It has a `problem` if the row has no path, if the name has no image's extension, if the address is not in S3, Google
    Cloud Storage or Azure, or if the file does not exist.
    """
    name = PurePosixPath(row.path)
    where = str(table)
    if not row.path:
        return SourceFile(where, name, False, 0, bytes, problem="no path in it")
    if name.suffix[1:].lower() not in EXTENSIONS:
        return SourceFile(where, name, False, 0, bytes, problem=f"{row.path!r} has no image's extension")
    if in_store := STORED.match(row.path):
        return SourceFile(where, name, False, 0, partial(_read_url, open_bucket, *in_store.groups()))
    if is_address(row.path):
        problem = f"{row.path!r} is not allowed: write a file's path, or an address with s3://, gs:// or az://"
        return SourceFile(where, name, False, 0, bytes, problem=problem)
    forms = (row.path, *(unicodedata.normalize(form, row.path) for form in ("NFC", "NFD")))  # é may be two characters
    try:
        path = next((path for form in forms if (path := table.parent / form).is_file()), None)
        problem = "" if path else f"there is no file {row.path!r}"
    except OSError as error:
        path, problem = None, f"{row.path!r} cannot be read: {error.strerror}"
    return SourceFile(where, name, False, 0, path.read_bytes if path else bytes, problem=problem)


def _read_url(open_bucket: Callable[[str], ObjectStore], address: str, key: str) -> bytes:
    try:
        return open_bucket(address).read(key)[0]
    except Missing as error:
        raise DropError(f"{address}/{key}: there is no such object") from error


def _arrange(found: FoundFiles, rule: LabelRule, labelled: Iterable[Labelled], aliases: Mapping[str, str]) -> Source:
    """Make samples, and sort them. Raises `DropError` if there are none, if two have the same key, or if
    only some have a split.
    """
    made = [make_sample(*one, aliases, rule.kind == "folder") for one in labelled]
    samples = sorted(
        (one for one in made if isinstance(one, Sample)), key=lambda sample: (sample.sort_key, sample.entry.root)
    )
    unread = (*found.unread, *(one for one in made if isinstance(one, Unread)))
    if not samples:
        if unread:
            raise DropError(name_files(unread))
        if rule.kind == "csv":
            raise DropError(f"{found.root}: its table of labels has no rows: add a row for each image")
        raise DropError(f"{found.root}: no images in it; expected {SHAPE}")
    inside = next((sample.entry.place for sample in samples if sample.split), None)
    outside = next((sample.entry.place for sample in samples if not sample.split), None)
    if inside and outside and rule.kind == "csv":
        raise DropError(
            f"{found.root}: the row of {outside} has no split, but the row of {inside} has one: fill in the column "
            "split in all rows, or in none"
        )
    if inside and outside:
        raise DropError(
            f"{found.root}: some images lie below {', '.join(SPLITS)}, and others outside of them: {inside}, {outside}"
            ". Move all images into these folders, or none"
        )
    first_of: dict[tuple[Split | None, str], Sample] = {}
    for sample in samples:
        first = first_of.setdefault((sample.split, sample.key), sample)
        if first is not sample and rule.kind == "csv" and str(first.entry) == str(sample.entry):
            raise DropError(f"{sample.entry}: two rows name this image: remove one of them")
        if first is not sample:
            raise DropError(
                f"{sample.entry}: duplicate key {readable_key(sample.key)}: {first.entry} has the same name: "
                "rename one of them"
            )
    reading = Reading(
        labels_from=str(rule), not_samples=dict(sorted(found.not_samples.items())), notes=_case_notes(samples)
    )
    return Source(found.root, tuple(samples), unread, reading)


def _case_notes(samples: Iterable[Sample]) -> tuple[str, ...]:
    """Return notes on classes that differ only in upper and lower case."""
    spellings = defaultdict[str, set[str]](set)
    for name in {sample.class_name for sample in samples}:
        spellings[name.casefold()].add(name)
    return tuple(
        f"classes {' and '.join(sorted(names))} differ only in upper and lower case; data.aliases can make them one"
        for _, names in sorted(spellings.items())
        if len(names) > 1
    )
