"""What the papers report, as a study's file states it beside its own runs, and whether the two agree."""

from typing import Annotated, Literal

from pydantic import Field

from retrain.config.fields import ConfigModel

Agrees = Literal["yes", "partly", "no", "not tested"]


class PaperRow(ConfigModel):
    """One row of a paper's table, and the method of the study that repeats it."""

    row: Annotated[str, Field(min_length=1)]
    """The row, as the paper names it."""
    figures: Annotated[dict[str, str], Field(min_length=1)]
    """Its figures by column, as printed; / stands for not reached. Columns that a study has too: accuracy and Max Acc
    in percent, L_99, L_100 (also `L_100 against` one of its methods), and time."""
    method: str = ""
    """The study's method; absent where it has none."""
    split: str = ""
    """The study's split; its first where absent."""
    variant: str = ""
    """The study's variant; its first where absent."""


def parse_column(column: str) -> tuple[str, str]:
    """Return which figure a column has, and the method that it is against, or nothing: `L_100 against scratch`."""
    figure, _, other = column.partition(" against ")
    return figure, other


class Claim(ConfigModel):
    """One thing that a paper shows, and what the study found of it."""

    item: Annotated[str, Field(min_length=1)]
    """The table or figure, as `retrain study list` names it."""
    paper: Annotated[str, Field(min_length=1)]
    """What the paper shows."""
    ours: Annotated[str, Field(min_length=1)]
    """What the study's runs show."""
    agrees: Agrees
    """Whether they agree; not tested: the runs cannot tell."""
