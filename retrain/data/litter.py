"""List the files that operating systems, tools and stores leave next to images. Readers of sources skip these."""

from pathlib import PurePosixPath

FOLDERS = frozenset(
    {"__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information"}
)
"""Folders all of whose files are litter."""
FILES = {
    "thumbs.db": "Thumbs.db",
    "ehthumbs.db": "Thumbs.db",
    "desktop.ini": "desktop.ini",
    "md5sums": "checksums",
    "sha256sums": "checksums",
}
"""Other files in lower case, and the kind that they count as."""
FOLDER_MARKER = "folder markers"
"""Empty objects that stand for folders in S3."""


def litter_kind(name: PurePosixPath) -> str | None:
    """Return which kind of litter a file or folder is, or None if it is a producer's own.

    Hidden files and folders are litter. So is all that lies in a folder of litter.
    """
    for part in name.parts:
        if part in FOLDERS:
            return part
        if part.startswith("._"):
            return "._*"
        if part.startswith("."):
            return ".DS_Store" if part == ".DS_Store" else "hidden"
    return _kind_of_file(name.name)


def _kind_of_file(name: str) -> str | None:
    if name.endswith("_$folder$"):
        return FOLDER_MARKER
    if name == "Icon\r":
        return "Icon"
    if name == "_SUCCESS":
        return name
    return FILES.get(name.lower())
