"""Fields of a study's file: the numbers and claims of a paper, and whether the study's runs agree with them."""

from typing import Annotated, Literal

from pydantic import Field

from retrain.config.fields import ConfigModel

Agrees = Literal["yes", "partly", "no", "not tested"]


class PaperRow(ConfigModel):
    """One row of a paper's table, with the study's method that repeats it."""

    row: Annotated[str, Field(min_length=1)]
    """Name of the row in the paper."""
    figures: Annotated[dict[str, str], Field(min_length=1)]
    """The paper's numbers by column, as printed; / means not reached. The study's number is shown next to the paper's
    in these columns: accuracy and Max Acc (in percent), L_99, L_100 (also `L_100 against METHOD`), and time."""
    method: str = ""
    """The study's method that repeats the row, if there is one."""
    split: str = ""
    """The study's split that repeats the row (default: the first)."""
    variant: str = ""
    """The study's variant that repeats the row (default: the first)."""


def parse_column(column: str) -> tuple[str, str]:
    """Return a column's quantity and reference method, as in `L_100 against scratch`. The method may be empty."""
    figure, _, other = column.partition(" against ")
    return figure, other


class Claim(ConfigModel):
    """One claim of a paper, or one goal of this project, and what the study's runs show about it."""

    item: Annotated[str, Field(min_length=1)]
    """The table or figure, written as in `retrain study list`."""
    paper: Annotated[str, Field(min_length=1)]
    """The paper's result, the expectation before the runs, or the question."""
    ours: Annotated[str, Field(min_length=1)]
    """The result of the study's runs."""
    agrees: Agrees
    """Whether the runs agree with the paper or goal. not tested: no run shows it yet."""
