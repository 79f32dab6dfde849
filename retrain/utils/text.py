"""Numbers and sizes as people write them."""


def pluralize(number: int, noun: str) -> str:
    """Return a number of things: 1 drop, 2 drops, 3 classes."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def format_bytes(size: float) -> str:
    """Return so many bytes as people write them, in powers of 1000: 3.1 MB, 192.0 GB."""
    units = ("kB", "MB", "GB", "TB")
    power = min(len(units), max(1, (len(f"{size:.0f}") - 1) // 3))
    return f"{size / 1000**power:.1f} {units[power - 1]}"


def is_key(key: str) -> bool:
    """Whether `key` can name an object: a relative path that stays inside the store and begins with no dot."""
    return not (key.startswith(".") or "\0" in key or any(part in ("", ".", "..") for part in key.split("/")))
