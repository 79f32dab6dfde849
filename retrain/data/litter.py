"""Recognize litter: stray files that operating systems, tools and stores leave next to images. Readers skip them."""

from pathlib import PurePosixPath

FOLDERS = frozenset(
    {"__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information"}
)
"""Folders that contain only litter."""
FILES = {
    "thumbs.db": "Thumbs.db",
    "ehthumbs.db": "Thumbs.db",
    "desktop.ini": "desktop.ini",
    "md5sums": "checksums",
    "sha256sums": "checksums",
}
"""Names of other litter files in lower case, each with its kind of litter."""
FOLDER_MARKER = "folder markers"
"""Kind of the empty objects that represent folders in S3."""


def litter_kind(name: PurePosixPath) -> str | None:
    """Return the kind of litter, or None for a producer's own file or folder.

    Hidden files and folders are litter. All files in a folder of litter are litter, too.
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
