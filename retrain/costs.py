"""What a device costs: with it, savings are told in energy and money too."""

from typing import Annotated

from pydantic import Field, PositiveFloat

from retrain.recipe.settings import Part


class Costs(Part):
    """Rates of one device. A run's record keeps those of its time, so that a new price changes no past figure."""

    price_per_device_hour: PositiveFloat | None = None
    """Money for one device (a GPU, or the CPU) for one hour; without it nothing is told in money."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    """ISO 4217 code of that money."""
    device_watts: PositiveFloat | None = None
    """Mean power of one device in training; without it nothing is told in energy."""
