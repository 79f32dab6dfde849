"""The optimizers of a training."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from retrain.config.fields import ConfigModel, IdentityIfSet, Share

Decayed = Literal["all", "matrices"]
"""Which parameters weight decay acts on. matrices: not on biases and normalisation, which have one dimension."""


class Adam(ConfigModel):
    """Adam with coupled weight decay, as the papers use it."""

    name: Literal["adam"] = "adam"
    learning_rate: PositiveFloat = 0.001
    """Peak learning rate."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay rates of the two moments."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Coupled weight decay, beside the recipe's objective."""
    decayed: Annotated[Decayed, IdentityIfSet] = "all"
    """Parameters that decay: all, or matrices alone (neither biases nor normalisation)."""


class AdamW(ConfigModel):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019)."""

    name: Literal["adamw"] = "adamw"
    learning_rate: PositiveFloat = 0.001
    """Peak learning rate."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay rates of the two moments."""
    weight_decay: NonNegativeFloat = 0.05
    """Each step shrinks the weights by the learning rate times this."""
    decayed: Decayed = "matrices"
    """Parameters that decay: all, or matrices alone (neither biases nor normalisation)."""


class Sgd(ConfigModel):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    learning_rate: PositiveFloat = 0.1
    """Peak learning rate."""
    momentum: Share = 0.9
    """Momentum."""
    nesterov: bool = False
    """Nesterov's form of momentum."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Coupled weight decay, beside the recipe's objective."""
    decayed: Annotated[Decayed, IdentityIfSet] = "all"
    """Parameters that decay: all, or matrices alone (neither biases nor normalisation)."""


Optimizer = Annotated[Adam | AdamW | Sgd, Field(discriminator="name")]
