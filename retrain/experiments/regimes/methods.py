"""The methods that the suite compares in every regime, and the variants that show the effect of each idea."""

from typing import Any, Literal, NamedTuple

FIRST = "first"
"""The scratch run on the first drop. Every method continues from it."""

PLAIN, AVERAGED = "scratch", "scratch-averaged"
"""The two baselines: training from scratch on all drops, evaluated with the last weights or with averaged weights."""

DEFAULT = "default"
"""The default settings, with the target carried from the first drop."""

DEFAULT_TO_PLAIN, DEFAULT_TO_AVERAGED = "default-to-plain", "default-to-averaged"
"""The default settings with a measured target: the final accuracy of plain or averaged scratch on the same data."""

NAIVE, PAPER = "naive", "paper"
"""The presets of these names, with the accuracy of plain scratch as target."""


class Method(NamedTuple):
    """The differences of a method from the default settings."""

    overrides: dict[str, Any]
    target: Literal["none", "carried", "plain", "averaged"]
    """none: no target (a scratch run). carried: the target comes from the run on the first drop. plain, averaged: the
    target is the final accuracy of that scratch run on the same data."""


METHODS = {
    PLAIN: Method({"recipe": {"preset": "naive"}, "training": {"averaging": "none"}}, "none"),
    AVERAGED: Method({"training": {"averaging": {"kind": "power"}}}, "none"),
    DEFAULT: Method({}, "carried"),
    DEFAULT_TO_PLAIN: Method({}, "plain"),
    DEFAULT_TO_AVERAGED: Method({}, "averaged"),
    NAIVE: Method({"recipe": {"preset": "naive"}}, "plain"),
    PAPER: Method({"recipe": {"preset": "paper"}}, "plain"),
}
"""Scratch comes first, because the other methods take their targets from it."""


def _default_with(overrides: dict[str, Any]) -> Method:
    return Method(overrides, "plain")


def _naive_with(recipe: dict[str, Any], training: dict[str, Any] | None = None) -> Method:
    return Method({"recipe": {"preset": "naive", **recipe}, "training": training or {}}, "plain")


WARM = {"name": "warm", "head_rows": "class_means"}
SHRINK = {"name": "shrink_perturb", "alpha": 0.4, "beta": 0.001, "new_rows": "class_means"}

VARIANTS = {
    "default without averaging": _default_with({"training": {"averaging": "none"}}),
    "default with fresh head rows": _default_with(
        {"recipe": {"initialization": {"name": "auto", "head_rows": "fresh"}}}
    ),
    "default, always warm": _default_with({"recipe": {"initialization": WARM}}),
    "default, always shrunk": _default_with({"recipe": {"initialization": SHRINK}}),
    "default with a cosine": _default_with({"recipe": {"schedule": {"name": "cosine"}}}),
    "default with L2-init": _default_with({"recipe": {"objective": {"name": "l2_init", "strength": 0.01}}}),
    "naive + averaging": _naive_with({}, {"averaging": {"kind": "power"}}),
    "naive + head rows": _naive_with({"initialization": WARM}),
    "naive + constant rate": _naive_with({"schedule": {"name": "constant"}}),
    "naive + shrinking": _naive_with({"initialization": {**SHRINK, "new_rows": "fresh"}}),
    "naive + L2-init": _naive_with({"objective": {"name": "l2_init", "strength": 0.01}}),
}
"""The default with one idea removed or changed, and the naive preset with one idea added."""
