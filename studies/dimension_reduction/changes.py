"""Changes of the study on dimension reduction."""

import numpy as np
import torch

from microtome.interventions.cases import Case
from microtome.statistics.dimensionality import low_rank


def displaced(values: torch.Tensor, case: Case) -> torch.Tensor:
    """Move each token as far as the reduction to a share of the variance, in a random direction.

    Args:
        values: of the tokens, (token, neuron).
        case: its `amount` is the share, as that of `project`.
    """
    matrix = values.cpu().numpy()
    far = np.linalg.norm(matrix - low_rank(matrix, 100 * case.amount), axis=1, keepdims=True)
    direction = case.rng.standard_normal(matrix.shape)
    moved = matrix + far * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    return torch.from_numpy(moved).to(values.device, values.dtype)
