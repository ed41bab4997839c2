"""Numbers as captions say them."""

from collections.abc import Sequence
from typing import SupportsFloat

import numpy as np
import xarray as xr


def number(value: SupportsFloat, digits: int = 2) -> str:
    """A number with so many decimals; 1,000 and more have none."""
    value = float(value)
    if not np.isfinite(value):
        return "undefined"
    text = f"{value:,.{0 if abs(value) >= 1000 else digits}f}"
    return (text if float(text.replace(",", "")) else text.lstrip("-")).replace("-", "−")


def significant(value: SupportsFloat) -> str:
    """A number with three digits, however small, as in `4.18 × 10⁻⁷`."""
    value = float(value)
    if not np.isfinite(value) or value == 0 or abs(value) >= 1e-4:
        return number(value, max(2, 2 - int(np.floor(np.log10(abs(value or 1))))))
    digits, power = f"{value:.2e}".split("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{digits.replace('-', '−')} × 10{raised}"


def spread(values: xr.DataArray, digits: int = 2) -> str:
    """The least and the largest of some values, as in `0.26 to 0.97`."""
    known = values.values[np.isfinite(values.values)]
    if not known.size:
        return "undefined"
    ends = [number(known.min(), digits), number(known.max(), digits)]
    return " to ".join(dict.fromkeys(ends))


def peak(values: xr.DataArray, digits: int = 2, *, lowest: bool = False) -> str:
    """Where the largest or the least value along a dimension is, as in `layer 4 (0.97)`."""
    known = values.values
    if not np.isfinite(known).any():
        return "no place"
    place = int(np.nanargmin(known) if lowest else np.nanargmax(known))
    (dimension,) = values.dims
    label = str(values[dimension].values[place])
    where = f"{dimension} {label}" if label.isdigit() else label
    return f"{where} ({number(known[place], digits)})"


def share(part: float) -> str:
    """A share in per cent, as in `81%`."""
    if not np.isfinite(part):
        return "undefined"
    return f"{part:.1%}" if 0 < part < 0.01 else f"{part:.0%}"


def listed(parts: Sequence[str]) -> str:
    """Parts of a sentence, as in `a, b and c`."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def quoted(text: str) -> str:
    """A token between quotation marks, its spaces visible as in the figures."""
    return f"“{text.replace(' ', '␣')}”"
