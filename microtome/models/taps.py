"""A tap: one place inside a block where a site is read.

Kept apart from the search for them, so that what reads a model depends on the taps it is given and
on no others.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from microtome.errors import MicrotomeError, nearest
from microtome.sites import SITES

if TYPE_CHECKING:
    from torch import nn

#: A block's input and output, which need no tap.
ENDS = ("resid_pre", "resid_post")


class Tap(NamedTuple):
    """One place to read a tensor of shape (batch, position, width).

    A site may be a part of what passes there. That of n heads of d_head numbers lies, for head h,
    in the columns from `start` + h // `per` × `stride` + h % `per` × d_head on; without heads, all
    columns from `start` on are the site's.

    Attributes:
        path: the submodule, from the block. Where the blocks of a model differ, several with `|`
            between them; a block's is the first that it has.
        side: its first argument, its output (the first element, where it is a tuple), or what the
            attention function inside it is called with.
        start: the first column.
        stride: columns from one group of heads to the next.
        per: heads that lie one after another in a group; 0 where all heads do.
        scale: what the tensor is multiplied with before it joins the residual stream.
        changed: whether the model changes the tensor in place after it has passed.
        layers: the blocks that have the site; None if all have it.
    """

    path: str
    side: Literal["input", "output", "attention"] = "output"
    start: int = 0
    stride: int = 0
    per: int = 0
    scale: float = 1.0
    changed: bool = False
    layers: tuple[int, ...] | None = None

    def path_in(self, block: "nn.Module") -> str | None:
        """The path of a block's own module; None if it has none of them."""
        for path in self.path.split("|"):
            with suppress(AttributeError):
                block.get_submodule(path)
                return path
        return None


@dataclass(frozen=True)
class Sites:
    """The sites of a model, as `microtome.models.anatomy.find_sites` finds them.

    Attributes:
        taps: where each lies, beside the blocks' ends.
        absent: why the model lacks the others.
    """

    taps: Mapping[str, Tap]
    absent: Mapping[str, str]

    @classmethod
    def read(cls, file: Path) -> "Sites":
        """Read a model's sites.json.

        Raises:
            OSError: the model has not been fetched.
            MicrotomeError: the file is damaged.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            return cls(from_plain(content["taps"]), content["absent"])
        except (ValueError, KeyError, TypeError):
            raise MicrotomeError(f"{file}: damaged; delete it, it is made again") from None

    def write(self, file: Path) -> None:
        """Write a model's sites.json."""
        plain = {site: json.dumps(tap) for site, tap in to_plain(self.taps).items()}
        lines = ",\n  ".join(f"{json.dumps(site)}: {tap}" for site, tap in plain.items())
        absent = json.dumps(self.absent, indent=2).replace("\n", "\n ")
        file.write_text(f'{{\n "taps": {{\n  {lines}\n }},\n "absent": {absent}\n}}\n', "utf-8")


def plain_taps(file: str | Path, sites: Sequence[str]) -> dict[str, list[Any]]:
    """The taps of some sites of a model, as plain lists that a rule takes for a param.

    Only what a job reads is its param, so that a new way of finding sites makes nothing stale that
    it finds where it was. Sites that the model lacks are left out, and so are all if the file is
    damaged; the job says so.

    Args:
        file: the model's sites.json.
        sites: names of `microtome.sites.SITES`.

    Raises:
        FileNotFoundError: the model has not been fetched; it names the file, by which Snakemake
            knows that the param is to come.
    """
    if set(sites) <= set(ENDS):
        return {}
    try:
        taps = Sites.read(Path(file)).taps
    except MicrotomeError:
        return {}
    return to_plain({site: taps[site] for site in sites if site in taps})


def from_plain(entries: Mapping[str, Sequence[Any]]) -> dict[str, Tap]:
    """Taps from the plain lists that a file or a rule's params have of them."""
    taps = {site: Tap(*entry) for site, entry in entries.items()}
    return {
        site: tap._replace(layers=None if tap.layers is None else tuple(tap.layers))
        for site, tap in taps.items()
    }


def to_plain(taps: Mapping[str, Tap]) -> dict[str, list[Any]]:
    """Taps as lists of strings, numbers and lists."""
    return {
        site: [*tap[:-1], None if tap.layers is None else list(tap.layers)]
        for site, tap in taps.items()
    }


def check_sites(
    sites: Iterable[str],
    taps: Mapping[str, Tap],
    architecture: str | None,
    layers: Iterable[int] = (),
    absent: Mapping[str, str] = {},
) -> None:
    """Refuse sites that do not exist, or that a model does not have.

    Args:
        sites: names of `SITES`.
        taps: where the model's sites lie.
        architecture: the model's, for the message.
        layers: the blocks that they are read in.
        absent: why the model lacks a site, by its name.

    Raises:
        MicrotomeError: the first such site.
    """
    for site in sites:
        if site not in SITES:
            raise MicrotomeError(f"site {site!r} does not exist; {nearest(site, list(SITES))}")
        if site in ENDS:
            continue
        if site not in taps:
            why = f" ({absent[site]})" if site in absent else ""
            has = ", ".join(known for known in SITES if known in taps or known in ENDS)
            raise MicrotomeError(
                f"site {site!r}: a {architecture!r} model has none{why}; leave it out, or take one "
                f"of {has}"
            )
        having = taps[site].layers
        if having is None:
            continue
        lacking = [layer for layer in layers if layer not in having]
        if lacking:
            raise MicrotomeError(
                f"site {site!r}: layer {lacking[0]} of a {architecture!r} model has none; name "
                f"layers among {', '.join(map(str, having))}"
            )
