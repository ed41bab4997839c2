"""Moments of activations: mean, standard deviation, skewness and kurtosis of a whole corpus."""

from typing import Any

import numpy as np

from microtome.statistics.streamed import Kept, OfValues


class Moments(OfValues):
    """Moments of all values at a site, over tokens and neurons.

    Values are joined by the formulas of Chan, Golub and LeVeque ("Algorithms for computing the
    sample variance", 1983), up to the fourth moment by those of Pébay (SAND2008-6212), in float64.
    It finishes as `mean`, `sd` (of the population), `skewness`, `kurtosis` (3 for a normal
    distribution), `smallest`, `largest` and `n`, how many values, each (`layer`, `site`). Values
    that are all equal have neither skewness nor kurtosis (NaN).
    """

    def of(self, values: np.ndarray) -> Kept:
        """Count, mean, second to fourth powers of deviations from it, and extremes."""
        values = values.astype(np.float64)
        mean = values.mean()
        ends = np.array([values.min(), values.max()])
        values -= mean
        squares: Any = values * values  # numpy's types do not know its products for numbers
        powers = np.array([squares.sum(), squares @ values, squares @ squares])
        return {"n": np.int64(values.size), "mean": mean, "powers": powers, "ends": ends}

    def joined(self, first: Kept, second: Kept) -> Kept:
        """Of both, as the formulas have it."""
        a, b = float(first["n"]), float(second["n"])
        n, d = a + b, second["mean"] - first["mean"]
        (a2, a3, a4), (b2, b3, b4) = first["powers"], second["powers"]
        powers = [
            a2 + b2 + d**2 * a * b / n,
            a3 + b3 + d**3 * a * b * (a - b) / n**2 + 3 * d * (a * b2 - b * a2) / n,
            a4
            + b4
            + d**4 * a * b * (a * a - a * b + b * b) / n**3
            + 6 * d**2 * (a * a * b2 + b * b * a2) / n**2
            + 4 * d * (a * b3 - b * a3) / n,
        ]
        (low, high), (other_low, other_high) = first["ends"], second["ends"]
        return {
            "n": first["n"] + second["n"],
            "mean": first["mean"] + d * b / n,
            "powers": np.array(powers),
            "ends": np.array([min(low, other_low), max(high, other_high)]),
        }

    def finished(self, kept: Kept) -> dict[str, Any]:
        """What is made of what is kept of one layer and site."""
        second, third, fourth = kept["powers"] / kept["n"]
        with np.errstate(invalid="ignore", divide="ignore"):
            skewness, kurtosis = third / second**1.5, fourth / second**2
        return {
            "mean": kept["mean"],
            "sd": second**0.5,
            "skewness": skewness,
            "kurtosis": kurtosis,
            "smallest": kept["ends"][0],
            "largest": kept["ends"][1],
            "n": kept["n"],
        }
