"""Interventions on texts of random tokens, as tests ask for them."""

import numpy as np
from hooked import columns, taps_at

from microtome.interventions.declared import declared
from microtome.interventions.run import intervene

#: The first and the third are equally long.
TEXTS = [np.random.default_rng(i).integers(3, 101, n) for i, n in enumerate([7, 5, 7])]
TABLE = columns(TEXTS)
MARKS = {
    "in_word": np.concatenate([[0, 0, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]]),
    "masked": np.concatenate([[0, 1, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0, 0]]),
}


class Tokenizer:
    """Token 5 is "<5>"."""

    def encode(self, text, add_special_tokens=True):
        assert not add_special_tokens
        return [int(number) for number in text.strip("<>").split("><")]

    def decode(self, ids):
        return "".join(f"<{token}>" for token in ids)


def swept(checkpoint, entry, table=TABLE, **options):
    """The outcome of one sweep."""
    taps = taps_at(checkpoint)
    return intervene(
        *(checkpoint, table, declared(entry)), taps=taps, tokenizer=Tokenizer(), **options
    )


def at_site(site, change, **more):
    """A declaration for each layer, whose first tokens keep their values and are shared."""
    read = {"logits": "all", "resid_post": "all"}
    entry = {"site": site, "each": ["layer"], "tokens": [2, 3, -1], "change": change}
    return entry | {"read": read} | more
