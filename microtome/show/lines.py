"""Numbers and cells as lines for people."""

from collections.abc import Sequence

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(n_bytes: float) -> str:
    """Bytes in a unit that leaves up to three digits."""
    power = 0
    while n_bytes >= 999.5 and power < len(_UNITS) - 1:
        n_bytes, power = n_bytes / 1000, power + 1
    return f"{n_bytes:.3g} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """A time in days, hours, minutes or seconds."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def count(number: int, thing: str) -> str:
    """A number and what it counts, in the plural where there is not just one."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def some(labels: Sequence[str], most: int = 8) -> str:
    """Labels in a row; where there are more, the first ones and the last one."""
    if len(labels) > most:
        labels = [*labels[: most - 2], "…", labels[-1]]
    return ", ".join(labels)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells, indented, in columns as wide as they have to be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = (zip(row, widths, strict=True) for row in rows)
    return ["  " + "  ".join(cell.ljust(width) for cell, width in row).rstrip() for row in cells]
