"""Settings of the optimizers."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from retrain.config.fields import ConfigModel, IdentityIfSet, Share

Decayed = Literal["all", "matrices"]
"""Parameters with weight decay. matrices leaves out biases and normalization, because these have one dimension."""


class Adam(ConfigModel):
    """Adam with coupled weight decay: the decay is part of the gradient."""

    name: Literal["adam"] = "adam"
    learning_rate: PositiveFloat = 0.001
    """Peak learning rate."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay rates of the two moments."""
    weight_decay: NonNegativeFloat = 0.0
    """Coupled weight decay, in addition to the recipe's objective."""
    decayed: Annotated[Decayed, IdentityIfSet] = "all"
    """Parameters with weight decay: all, or matrices (neither biases nor normalization)."""


class AdamW(ConfigModel):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019)."""

    name: Literal["adamw"] = "adamw"
    learning_rate: PositiveFloat = 0.001
    """Peak learning rate."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay rates of the two moments."""
    weight_decay: NonNegativeFloat = 0.05
    """Decoupled weight decay. Each step shrinks the weights by weight_decay times the learning rate."""
    decayed: Decayed = "matrices"
    """Parameters with weight decay: all, or matrices (neither biases nor normalization)."""


class Sgd(ConfigModel):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    learning_rate: PositiveFloat = 0.1
    """Peak learning rate."""
    momentum: Share = 0.9
    """Momentum."""
    nesterov: bool = False
    """Use Nesterov momentum."""
    weight_decay: NonNegativeFloat = 0.0
    """Coupled weight decay, in addition to the recipe's objective."""
    decayed: Annotated[Decayed, IdentityIfSet] = "all"
    """Parameters with weight decay: all, or matrices (neither biases nor normalization)."""


Optimizer = Annotated[Adam | AdamW | Sgd, Field(discriminator="name")]
