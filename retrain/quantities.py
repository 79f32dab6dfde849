"""Quantities of bytes as Kubernetes writes them."""

from typing import Annotated

from pydantic import Field

Bytes = Annotated[str, Field(pattern=r"^[1-9][0-9]*([KMGTPE]i?)?$")]
"""Such as 512Mi or 16Gi."""

UNITS = "KMGTPE"


def bytes_of(quantity: Bytes) -> int:
    """Return how many bytes that is: Ki, Mi, ... are powers of 1024, K, M, ... powers of 1000."""
    number = quantity.rstrip(f"{UNITS}i")
    unit = quantity.removeprefix(number)
    base, power = (1024 if unit.endswith("i") else 1000), (UNITS.index(unit[0]) + 1 if unit else 0)
    return int(number) * int(base**power)


def said(size: float) -> str:
    """Return so many bytes as people write them, in powers of 1000: 3.1 MB, 192.0 GB."""
    units = ("kB", "MB", "GB", "TB")
    power = min(len(units), max(1, (len(f"{size:.0f}") - 1) // 3))
    return f"{size / 1000**power:.1f} {units[power - 1]}"
