"""The settings of a regime, read from its YAML file: its images, their drops, and the task."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, ValidationError, model_validator

from retrain.config.fields import ConfigModel, Share
from retrain.config.loading import load_yaml
from retrain.config.task import Task
from retrain.config.validation import describe_problems, validate_document
from retrain.errors import StudyError
from retrain.experiments.files import studies_folder

Shift = Literal["inverted", "blurred", "posterised"]


class Images(ConfigModel):
    """A data set, cut down to a number of images of each class."""

    source: Literal["cifar100", "cifar100-coarse", "digits", "glyphs", "shapes"]
    """cifar100 and cifar100-coarse (its 20 superclasses) lie below --root. The others need no files."""
    classes: PositiveInt
    """Number of classes to use. The seed chooses the classes."""
    train: PositiveInt
    """Training images of each class, over all drops."""
    val: PositiveInt
    """Validation images of each class, over all drops."""
    test: PositiveInt
    """Test images of each class, over all drops."""
    label_noise: Share = 0.0
    """Share of training images with a wrong label (another class of the drops so far). All val and test labels are
    correct."""


class DropSetting(ConfigModel):
    """One drop: new classes, or more images of the classes of earlier drops."""

    new_classes: Annotated[int, Field(ge=0)] = 0
    """Number of new classes in this drop. 0: the drop has images of all earlier classes instead."""
    percent: Annotated[int, Field(ge=1, le=100)] = 100
    """Percentage of the images of each of its classes that this drop contains."""
    shift: tuple[Shift, ...] = ()
    """Changes that are applied to all images of this drop (val and test, too), in this order, to simulate another
    domain."""


class Regime(ConfigModel):
    """A regime: a data set, a network, and the order in which the images arrive as drops.

    Settings that the file does not state have their default values.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    """Name of the regime and of its task."""
    title: str
    """A short description that tables and pictures show."""
    kind: Literal["regime", "journey"] = "regime"
    """journey: four drops and default settings, as in the first project of a new user. regime: all others."""
    is_fitted: bool = False
    """Whether scratch fits its training data and each class has 100 images or more. The goal for L_100 is then
    higher. (L_100 is how many times sooner than scratch a run reaches scratch's final accuracy.)"""
    why: str
    """Purpose of the regime, and the reductions that keep a scratch run under 90 seconds on one core."""
    images: Images
    drops: Annotated[tuple[DropSetting, ...], Field(min_length=2)]
    task: dict[str, Any]
    """Parts of the task's document: data, model, training."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)

    @model_validator(mode="after")
    def _check_drops(self) -> "Regime":
        if (total := sum(drop.new_classes for drop in self.drops)) != self.images.classes:
            raise ValueError(
                f"the drops have {total} new classes in total, but images.classes is {self.images.classes}: make them "
                "equal"
            )
        if not self.drops[0].new_classes:
            raise ValueError("the first drop must have classes: set drops.0.new_classes")
        for number, drop in enumerate(self.drops):
            used = drop.percent + sum(other.percent for other in self.drops[number + 1 :] if not other.new_classes)
            if drop.new_classes and used > 100:
                raise ValueError(
                    f"drop {number + 1}: this drop and later ones use {used} percent of the images of its classes, and "
                    "at most 100 are allowed: reduce `percent`"
                )
        return self


def task_of(regime: Regime, seed: int, overrides: dict[str, Any]) -> Task:
    """Return the task of a regime with a method's overrides. Raises `TaskError`."""
    document = merge(regime.task, overrides) | {"name": regime.name, "seed": seed}
    return validate_document(document, f"regime {regime.name}")


def merge(document: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return a document in which overrides replace single settings, at any depth."""
    merged = dict(document)
    for field, value in overrides.items():
        inner = merged.get(field)
        merged[field] = merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def regimes_folder() -> Path:
    """Return the folder of regime files, regimes/ in the folder of studies."""
    return studies_folder() / "regimes"


def load_regimes(names: Sequence[str] = ()) -> list[Regime]:
    """Read the regimes with these names, or all regimes. Raises `StudyError` if a name or a file is wrong."""
    known = sorted(path.stem for path in regimes_folder().glob("*.yaml"))
    if missing := [name for name in names if name not in known]:
        raise StudyError(f"no regime {missing[0]!r} in {regimes_folder()}; allowed: {', '.join(known) or 'none'}")
    return [read_regime(regimes_folder() / f"{name}.yaml") for name in names or known]


def read_regime(path: Path) -> Regime:
    """Read a regime file. Raises `StudyError` with one line for each problem."""
    try:
        return Regime.model_validate(load_yaml(path.read_text(encoding="utf-8"), str(path)))
    except ValidationError as error:
        raise StudyError(describe_problems(error, Regime, str(path))) from None
