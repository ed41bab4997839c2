"""What the figure of the study on the losses of a corpus says of a model, in numbers."""

import xarray as xr

from microtome.page.numbers import listed, number


def losses(losses: xr.Dataset) -> str:
    """The loss in the first and the last layer that is looked at."""
    ends = [
        f"{number(losses['loss'].isel(layer=place))} nats in layer "
        f"{losses['layer'].isel(layer=place).item()}"
        for place in dict.fromkeys([0, losses.sizes["layer"] - 1])
    ]
    return f"The mean loss is {listed(ends)}."
