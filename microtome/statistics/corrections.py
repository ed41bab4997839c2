"""p-values corrected for how many tests there are."""

import numpy as np
from statsmodels.stats.multitest import multipletests


def holm(p: np.ndarray) -> np.ndarray:
    """Correct p-values after Holm, which allows for tests that depend on each other.

    Args:
        p: of any shape, all one family of tests. What is NaN stays so and does not count.
    """
    known, found = np.isfinite(p), np.array(p, np.float64)
    if known.any():
        found[known] = multipletests(p[known], method="holm")[1]
    return found
