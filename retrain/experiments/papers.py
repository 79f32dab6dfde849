"""The papers' figures and claims in a study's file, and whether its runs agree with them."""

from typing import Annotated, Literal

from pydantic import Field

from retrain.config.fields import ConfigModel

Agrees = Literal["yes", "partly", "no", "not tested"]


class PaperRow(ConfigModel):
    """One row of a paper's table, with the study's method that repeats it."""

    row: Annotated[str, Field(min_length=1)]
    """Name of the row in the paper."""
    figures: Annotated[dict[str, str], Field(min_length=1)]
    """Its figures by column, as printed; / means not reached. Columns that a study also has: accuracy and Max Acc
    in percent, L_99, L_100 (also `L_100 against` one of its methods), and time."""
    method: str = ""
    """The study's method, if it has one."""
    split: str = ""
    """The study's split (default: its first)."""
    variant: str = ""
    """The study's variant (default: its first)."""


def parse_column(column: str) -> tuple[str, str]:
    """Return a column's figure, and the method it is against (`L_100 against scratch`) or an empty text."""
    figure, _, other = column.partition(" against ")
    return figure, other


class Claim(ConfigModel):
    """One claim of a paper, or a goal of our own, and what the study's runs show about it."""

    item: Annotated[str, Field(min_length=1)]
    """The table or figure, as `retrain study list` names it."""
    paper: Annotated[str, Field(min_length=1)]
    """What the paper shows, what was expected before the runs, or what was to be found out."""
    ours: Annotated[str, Field(min_length=1)]
    """What the study's runs show."""
    agrees: Agrees
    """Whether they agree. not tested: the runs do not decide it."""
