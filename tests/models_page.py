"""Makes docs/models.md: PYTHONPATH=. python tests/models_page.py > docs/models.md"""

import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import by_hand
import transformers
import zoo
from transformers.utils.logging import disable_progress_bar

from microtome.models.anatomy import find_sites
from microtome.models.taps import ENDS, Sites
from microtome.sites import SITES

INSIDE = [site for site in SITES if site not in ENDS]
#: Why a site is absent where the architecture has no such thing; what matches the first four is not
#: told for each architecture.
BY_NATURE = (
    *("no experts", "its MLP is not gated", "attention and MLP run in parallel"),
    "its MLP ends in no projection, as that of experts",
    *("put together of parts of", "no attention in its blocks"),
    "one module is all that its blocks add",
)
INTRO = """# Architectures

{models} tiny models with random weights of {tried} architectures: every causal LM and encoder of
transformers {version} that is not left out below, and some structures that flags of a config make.
{swept} architectures can be swept: their hidden states, final norm and logits are those of
transformers' forward, bit for bit. Of {complete} every site is found; what else they lack they do
not have by nature. In {by_hand} of the models each site is compared, bit for bit, with hooks on
modules that are named by hand ([by_hand.py](../tests/by_hand.py)).

This page is made by `PYTHONPATH=. .venv/bin/python tests/models_page.py > docs/models.md`.
[test_zoo.py](../tests/core/test_zoo.py) makes it again and fails where they differ. Microtome reads
no such list: an architecture that is not here is searched for its sites in the same way when its
model is fetched.

All have `resid_pre` and `resid_post`. Of the others, ● lies in every block, ◐ in some blocks. Four
reasons for an empty field are not told: there are no experts (`router`); the MLP is not gated
(`pre_linear`); attention and MLP run in parallel (`resid_mid`); the MLP is one of experts, of which
each reads some tokens only (`pre`, `pre_linear`, `post`).
"""


def row(name: str, sites: Sites) -> str:
    """The row of an architecture."""
    cells = []
    for site in INSIDE:
        tap = sites.taps.get(site)
        cells.append("" if tap is None else "●" if tap.layers is None else "◐")
    reasons: dict[str, list[str]] = {}
    for site, why in sites.absent.items():
        if not why.startswith(BY_NATURE[:4]):
            reasons.setdefault(why, []).append(f"`{site}`")
    lacks = "; ".join(f"{' '.join(of)}: {why}" for why, of in reasons.items())
    return f"| {name} | {' | '.join(cells)} | {lacks} |"


def page(found: Mapping[str, Sites]) -> str:
    """The whole page.

    Args:
        found: the sites of all architectures that can be swept, by name.
    """
    complete = [
        name
        for name, sites in found.items()
        if all(why.startswith(BY_NATURE) for why in sites.absent.values())
    ]
    intro = INTRO.format(
        models=len(zoo.names()),
        tried=_architectures(zoo.names()),
        version=transformers.__version__,
        swept=_architectures(found),
        complete=_architectures(complete),
        by_hand=len(by_hand.PLACES),
    )
    head = ["architecture", *(f"`{site}`" for site in INSIDE), "lacks"]
    table = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    refused = [f"| {name} | {_plain(line)} |" for name, line in sorted(zoo.REFUSED.items())]
    out = [f"| {name} | {why} |" for name, why in sorted(zoo.left_out().items())]
    return "\n".join(
        [
            *(intro, *table, *(row(name, found[name]) for name in sorted(found)), ""),
            *("## What cannot be swept", "", "| architecture | because |", "|---|---|"),
            *(*refused, ""),
            *("## What was not tried", "", "| architecture | because |", "|---|---|"),
            *(*out, ""),
        ]
    )


def _architectures(names: Iterable[str]) -> int:
    return len({zoo.VARIANTS.get(name, (name,))[0] for name in names})


def _plain(pattern: str) -> str:
    """What a pattern matches."""
    return re.sub(r"\\(.)", r"\1", pattern)


def main() -> None:
    """Print the page."""
    disable_progress_bar()
    found = {}
    for name in zoo.names():
        if name not in zoo.REFUSED:
            print(name, file=sys.stderr)
            with tempfile.TemporaryDirectory() as folder:
                found[name] = find_sites(zoo.fetched(name, Path(folder)))
    print(page(found), end="")


if __name__ == "__main__":
    main()
