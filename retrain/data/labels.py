"""Read labels by one rule for a whole source. The task states the rule, or the source's files allow only one rule."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import quote

from retrain.config import SPLITS, Split
from retrain.data.files import SourceFile, split_called
from retrain.data.images import EXTENSIONS
from retrain.data.litter import litter_kind
from retrain.data.sample_keys import escape
from retrain.data.tables import TABLES
from retrain.data.tars import MAX_FILE
from retrain.errors import DropError
from retrain.records.drop import canonical_class_name, compose
from retrain.utils.parallel import map_ahead
from retrain.utils.text import pluralize

SHAPE = f"class/name.{{{','.join(sorted(EXTENSIONS))}}}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image of a source. `split` is None if the source has no splits."""

    split: Split | None
    class_name: str
    stem: str
    """Name of the file within its class."""
    extension: str
    """Extension in lower case, without the dot."""
    entry: SourceFile
    key: str
    """Name within the drop, without characters that WebDataset interprets: a dot would start the extension."""

    @property
    def sort_key(self) -> tuple[int, str, str, str]:
        """Return the sort key of samples: split (train, val, test), class and name."""
        return SPLITS.index(self.split or "train"), self.class_name, self.stem, self.key


class Unread(NamedTuple):
    """A file that is neither a sample nor a stray file (`litter.py`), and the reason.

    `place` is the file's name in the source, and `where` also names the source.
    """

    where: str
    place: str
    cause: str

    @classmethod
    def of(cls, file: SourceFile, cause: str) -> "Unread":
        """Return the entry of a file that is not read, with the cause."""
        return cls(str(file), file.place, cause)


NAMED = 10
"""Number of files that an error names. The manifest names all."""


def name_files(unread: Sequence[Unread]) -> str:
    """Return a list of the first `NAMED` files by cause and name, for a message. Each cause is stated once."""
    ranks = {cause: rank for rank, cause in enumerate(dict.fromkeys(bad.cause for bad in unread))}
    by_cause = defaultdict[str, list[Unread]](list)
    for bad in sorted(unread, key=lambda bad: (ranks[bad.cause], bad.place))[:NAMED]:
        by_cause[bad.cause].append(bad)
    named = "; ".join(
        f"{', '.join([files[0].where, *(file.place for file in files[1:])])}: {cause}"
        for cause, files in by_cause.items()
    )
    return named if len(unread) <= NAMED else f"{named}; and {len(unread) - NAMED:,} more"


class LabelRule(NamedTuple):
    """The rule for labels: `folder`, `cls`, `txt`, `json` (with its field), or `csv` for a table of any kind."""

    kind: str
    field: str = ""

    @classmethod
    def parse(cls, text: str) -> "LabelRule":
        """Read a rule as a task states it, such as `json:label`."""
        return cls(*text.split(":", 1))

    def __str__(self) -> str:
        return f"{self.kind}:{self.field}" if self.field else self.kind


Labelled = tuple[SourceFile, Split | None, str, str]
"""An image, its split, its label and its key."""
BarePath = tuple[str, str]
"""An archive, and the path of a file in it without its extension."""


@dataclass
class FoundFiles:
    """The files of a source, by kind."""

    root: str
    images: list[SourceFile] = field(default_factory=list)
    tables: list[SourceFile] = field(default_factory=list)
    beside: dict[BarePath, dict[str, SourceFile]] = field(default_factory=lambda: defaultdict(dict))
    """The files next to each image, by extension."""
    others: list[SourceFile] = field(default_factory=list)
    """Files without an image next to them."""
    folders: list[SourceFile] = field(default_factory=list)
    filled: set[PurePosixPath] = field(default_factory=set)
    """The folders that contain files other than stray files."""
    unread: list[Unread] = field(default_factory=list)
    not_samples: Counter[str] = field(default_factory=Counter)
    """Number of files by kind: stray files, labels and other files next to images."""


def sort_files(files: Iterable[SourceFile], root: str) -> FoundFiles:
    """Divide the files of a source into images, tables, files next to images, and all others."""
    found = FoundFiles(root)
    others = []
    for file in files:
        kind = litter_kind(file.name)
        if file.is_folder:
            if not kind:
                found.folders.append(file)
            continue
        if kind:
            found.not_samples[kind] += 1
            continue
        found.filled.add(file.name.parent)
        if file.problem or file.size > MAX_FILE:
            cause = file.problem or f"{file.size:,} bytes; at most {MAX_FILE:,} are allowed"
            found.unread.append(Unread.of(file, cause))
        elif file.name.suffix[1:].lower() in EXTENSIONS:
            found.images.append(file)
        elif file.name.name in TABLES:
            found.tables.append(file)
        else:
            others.append(file)
    found.filled.update([above for folder in found.filled for above in folder.parents])
    bare_paths = {bare_path(image) for image in found.images} if others else set()
    for file in others:
        place, extension = _beside(file, bare_paths)
        if place is None or extension in found.beside[place]:
            found.others.append(file)
        else:
            found.beside[place][extension] = file
    return found


def bare_path(file: SourceFile) -> BarePath:
    """Return a file's path without its extension. An image and the file with its label have the same bare path."""
    return file.archive, str(file.name.parent / file.name.stem)


def _beside(file: SourceFile, bare_paths: set[BarePath]) -> tuple[BarePath | None, str]:
    """Return the bare path of the image that a file belongs to, and the file's extension.

    For example, `1.json` and `1.mask.npy` belong to `1.png`.
    """
    if (exact := bare_path(file)) in bare_paths:
        return exact, file.name.suffix[1:].lower()
    first, _, rest = file.name.name.partition(".")
    wide = file.archive, str(file.name.parent / first)
    return (wide, rest.lower()) if wide in bare_paths else (None, "")


def choose_rule(asked: str, found: FoundFiles) -> LabelRule:
    """Return the rule that a task states. With `auto`, return the only rule that the files allow.

    Raises `DropError` if several rules are possible. The message names them.
    """
    if asked != "auto":
        return LabelRule.parse(asked)
    if found.tables:
        return LabelRule("csv")
    kinds = {extension for files in found.beside.values() for extension in files}
    if "cls" in kinds or any(file.name.suffix.lower() == ".cls" for file in found.others):
        return LabelRule("cls")
    if doubtful := [kind for kind in ("json", "txt") if kind in kinds]:
        example = next(file for files in found.beside.values() for kind, file in files.items() if kind == doubtful[0])
        raise DropError(
            f"{found.root}: {example.place} may contain a label, and the folders may be labels. Choose with "
            f"--label-from (in a task: data.label_from): folder, txt, cls, csv or json:FIELD{_fields(example)}"
        )
    return LabelRule("folder")


def _fields(example: SourceFile) -> str:
    """Return the fields of a JSON file, for a message."""
    if example.name.suffix.lower() != ".json":
        return ""
    try:
        content = json.loads(example.read())
    except (ValueError, RecursionError):
        return ""
    names = ", ".join(map(str, content)) if isinstance(content, dict) else ""
    return f" ({example.place} has {names})" if names else ""


def label_by_folder(found: FoundFiles, asked: bool) -> Iterator[Labelled]:
    """Yield each image of `[split/]class/name` with its split, class and key. Record all other images as unread.

    Raises `DropError` if no image is in a folder, or if a folder is empty. Also raises it if a class has the name of a
    split and is not in a split's folder, unless the task states the rule `folder` (`asked`).
    """
    if found.images and all(len(image.name.parts) == 1 for image in found.images):
        raise DropError(
            f"{found.root}: {pluralize(len(found.images), 'image')} outside of folders named after classes; "
            f"pass the folder that contains the class folders, as in {SHAPE}"
        )
    for image in found.images:
        parts, split, is_plain = image.name.parts, image.split, len(image.name.parts) == 2
        called = split_called(parts[0])
        if len(parts) == 3 and called and split in (None, called):
            split, parts = called, parts[1:]
        if len(parts) != 2:
            found.unread.append(Unread.of(image, f"not an image of a class; expected {SHAPE}"))
            continue
        if is_plain and called and not asked:
            raise DropError(
                f"{image}: would be of class {parts[0]!r}, but this is a split's name; expected {parts[0]}/{SHAPE}. If "
                "it is a class, choose --label-from folder (in a task: data.label_from)"
            )
        yield image, split, parts[0], f"{escape(parts[0])}/{escape(image.name.stem)}"
    for folder in sorted(found.folders, key=lambda folder: folder.name):
        if folder.name not in found.filled:
            raise DropError(f"{folder}: an empty folder: remove it, or put images into it")


def label_by_file(found: FoundFiles, rule: LabelRule) -> Iterator[Labelled]:
    """Yield each image with its split, its key, and the label in the file next to it. Record all others as unread.

    An image such as `1.mask.png` next to `1.png` is only counted, because it is part of a sample.
    """
    labelled = list(_images_with_label(found, rule))
    texts = map_ahead(lambda pair: _read_label(pair[1], rule), labelled)
    for (image, _), text in zip(labelled, texts, strict=True):
        if isinstance(text, DropError):
            found.unread.append(Unread.of(image, str(text)))
        else:
            split, parts = split_and_path(image)
            yield image, split, text, "/".join(map(escape, (*parts[:-1], image.name.stem)))


def _images_with_label(found: FoundFiles, rule: LabelRule) -> Iterator[tuple[SourceFile, SourceFile]]:
    """Yield each image with the file of its label. Record every other image as unread, or count it as no sample."""
    by_path = defaultdict[BarePath, list[SourceFile]](list)
    for image in found.images:
        by_path[bare_path(image)].append(image)
    for place, images in by_path.items():
        label = found.beside[place].get(rule.kind) if place in found.beside else None
        first, _, rest = images[0].name.name.partition(".")
        shorter = images[0].archive, str(images[0].name.parent / first)
        if len(images) > 1:
            cause = f"{len(images)} images have this name, and only one can have the label: rename or remove the others"
            found.unread.extend(Unread.of(image, cause) for image in images)
        elif label is not None:
            yield images[0], label
        elif shorter != place and shorter in by_path:  # `1.mask.png` belongs to `1.png`
            found.not_samples[f".{rest} (next to images)"] += 1
        else:
            cause = f"no label: there is no {images[0].name.stem}.{rule.kind}"
            found.unread.append(Unread.of(images[0], cause))


def _read_label(file: SourceFile, rule: LabelRule) -> str | DropError:
    """Return the label in a file, or the reason why it has none."""
    data = file.read()
    if rule.kind != "json":
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return DropError("its class name is not text in UTF-8: save the file again in UTF-8")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        return DropError(f"{file.name.name} is not JSON: {error}")
    for name in rule.field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, str | int):
        return DropError(f"{file.name.name}: its field {rule.field!r} must be a text or a whole number")
    return str(value)


def split_and_path(image: SourceFile) -> tuple[Split | None, tuple[str, ...]]:
    """Return the split that an image's archive or topmost folder is named after, and the image's path below it."""
    parts = image.name.parts
    called = split_called(parts[0])
    if len(parts) > 1 and called and image.split in (None, called):
        return called, parts[1:]
    return image.split, parts


def count_files_beside(found: FoundFiles, rule: LabelRule) -> None:
    """Count the files next to images: the files with labels, and the files that are not read."""
    for files in found.beside.values():
        for extension in files:
            what = "labels" if extension == rule.kind else "next to images"
            found.not_samples[f".{extension} ({what})"] += 1


def make_sample(
    image: SourceFile, split: Split | None, label: str, key: str, aliases: Mapping[str, str], by_folder: bool
) -> Sample | Unread:
    """Return a sample with its class's canonical name. If the label cannot name a class, return the image as unread."""
    try:
        name = name_class(label, aliases)
    except DropError as error:
        return Unread.of(image, str(error))
    stem = compose(image.name.stem) if by_folder else quote(key, safe="%")
    return Sample(split, name, stem, image.name.suffix[1:].lower(), image, key)


def name_class(label: str, aliases: Mapping[str, str]) -> str:
    """Return the class of a label, in the form that drops use. Raises `DropError` if the label cannot name a class."""
    name = canonical_class_name(label)
    return canonical_class_name(aliases[name]) if name in aliases else name
