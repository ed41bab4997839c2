"""A tap: one place inside a block where a site is read.

Kept apart from the table of all architectures, so that what reads a model depends on the taps it is
given and on no others.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from microtome.errors import MicrotomeError, nearest
from microtome.sites import SITES

#: A block's input and output, which need no tap.
ENDS = ("resid_pre", "resid_post")


class Tap(NamedTuple):
    """One place to read a tensor of shape (batch, position, width).

    Attributes:
        path: the submodule, from the block.
        side: its first argument, its output (the first element, where it is a tuple), or what the
            attention function inside it is called with.
        part: which of q, k, v is cut out of a fused projection.
        fused: how a fused projection lays them out: one after another over the whole width
            ("blocks": GPT-2), or one after another within every head ("heads": GPT-NeoX).
    """

    path: str
    side: Literal["input", "output", "attention"] = "output"
    part: Literal["q", "k", "v"] | None = None
    fused: Literal["blocks", "heads"] = "blocks"


def from_plain(entries: Mapping[str, Sequence[str | None]]) -> dict[str, Tap]:
    """Taps from the lists that `microtome.models.architectures.plain_taps` makes of them."""
    return {site: Tap(*entry) for site, entry in entries.items()}


def check_sites(sites: Iterable[str], taps: Mapping[str, Tap], architecture: str | None) -> None:
    """Refuse sites that do not exist, or that an architecture does not have.

    Args:
        sites: names of `SITES`.
        taps: where the architecture's sites lie.
        architecture: its name, for the message.

    Raises:
        MicrotomeError: the first such site.
    """
    for site in sites:
        if site not in SITES:
            raise MicrotomeError(f"site {site!r} does not exist; {nearest(site, list(SITES))}")
        if site not in taps and site not in ENDS:
            raise MicrotomeError(
                f"site {site!r} is not known for the architecture {architecture!r}; leave it out, "
                "or add it to microtome/models/architectures.py"
            )
