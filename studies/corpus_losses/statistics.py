"""Statistics of the study on the losses of a corpus, made in the sweep; see README.md."""

from typing import Annotated

import xarray as xr

from microtome.options import NEXT_TOKEN, POSITIONS, ResidualSite
from microtome.statistics.lens import Lens, Losses
from microtome.statistics.streamed import Streamed


def losses(
    lens: Lens, tokens: Annotated[xr.Dataset, POSITIONS, NEXT_TOKEN], *, site: ResidualSite
) -> Streamed:
    """How uncertain each layer is of the next token, and how wrong.

    Returns:
        (`layer`,): the mean `entropy` of its predictions and their mean `loss`, in nats; `n` and
        `n_followed`, how many predictions there are, and how many tokens to predict.
    """
    return Losses(lens, tokens, site=site)
