"""Types of a product's options, and what a product needs of its inputs.

A product is a function (see docs/extending.md). Its keyword-only parameters are its options: the
annotation of each says what the config may give it. Its positional parameters are its inputs; what
it needs of the texts or sites that one of them was made from is said by a `Need` in its
annotation::

    def profile(norms: Annotated[xr.Dataset, ALL_TOKENS], *, layer: Layer, alpha: Share = 0.05)

The workflow reads these annotations without importing the function, so that a fault in the config
is found before any work starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from microtome.sites import KEYED_SITES, RESIDUAL, SITES


@dataclass(frozen=True)
class Wanted:
    """What a value of a type has to be.

    Attributes:
        schema: as JSON schema.
        text: the same for a user, after "wants".
    """

    schema: dict[str, Any]
    text: str

    def __repr__(self) -> str:
        """The text, so that `help` of a function can be read."""
        return self.text


@dataclass(frozen=True)
class Need:
    """What a product needs of what an input was made from.

    Attributes:
        name: of the need.
        text: the same for a user, after "wants".
    """

    name: str
    text: str

    def __repr__(self) -> str:
        """The name, so that `help` of a function can be read."""
        return self.name


class Held:
    """How many numbers a streamed statistic holds of each layer, as the product of some sizes.

    It stands beside what the function returns, for the memory that a job asks for::

        def covariances(*, sites: Sites) -> Annotated[Streamed, Held("width", "width")]

    Attributes:
        sizes: their names: `width`, the numbers of a token at all sites together; `key`, the tokens
            of the longest text; `token_id`, the different tokens that there may be; a dimension, as
            `n_heads`; or an option.
    """

    def __init__(self, *sizes: str) -> None:
        """Name the sizes."""
        self.sizes = sizes


ALL_TOKENS = Need("ALL_TOKENS", "all tokens of each text")
ONE_TEXT = Need("ONE_TEXT", "a set of one text")
WORDS = Need("WORDS", "a set with `template:` and `words:`, or cut at words")
SEVERAL_SITES = Need("SEVERAL_SITES", "two or more sites")
POSITIONS = Need("POSITIONS", "tokens, not their mean")
LAST_TOKEN = Need("LAST_TOKEN", "the last token of each text")
CATEGORIES = Need("CATEGORIES", "words or texts in two or more categories")
#: Of the model, not of its texts.
NEXT_TOKEN = Need("NEXT_TOKEN", "a model that predicts the next token")

#: JSON schema has no bound on numbers; beyond this one, squares and widths overflow.
_LARGEST = 1e30
#: As many things as a statistic counts, draws or distinguishes, at most.
_MANY = 1_000_000

#: A share of a model's depth, as a regular expression.
SHARE = "^(100|[1-9]?[0-9])%$"

#: Most functions know no absent keys: they would count NaN in.
_SITE = {"enum": [site for site in SITES if site not in KEYED_SITES]}
_POSITION = {"type": "integer", "minimum": -_MANY, "maximum": _MANY}
_NUMBER = {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST}

Number = Annotated[float, Wanted(_NUMBER, "a number between -1e30 and 1e30")]
Positive = Annotated[
    float,
    Wanted(
        {"type": "number", "exclusiveMinimum": 0, "maximum": _LARGEST},
        "a number above 0, up to 1e30",
    ),
]
NotNegative = Annotated[
    float, Wanted({"type": "number", "minimum": 0, "maximum": _LARGEST}, "a number from 0 to 1e30")
]
#: A level of significance.
Alpha = Annotated[
    float,
    Wanted(
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "a level of significance between 0 and 1",
    ),
]
#: A part of a whole.
Percent = Annotated[
    float,
    Wanted(
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 100},
        "a percentage between 0 and 100",
    ),
]
Count = Annotated[
    int,
    Wanted({"type": "integer", "minimum": 1, "maximum": _MANY}, "a whole number, 1 to 1,000,000"),
]
#: Shares of all values, below which quantiles lie.
Shares = Annotated[
    tuple[float, ...],
    Wanted(
        {
            "type": "array",
            "items": {"type": "number", "minimum": 0, "maximum": 1},
            "minItems": 1,
            "uniqueItems": True,
        },
        "a list of shares from 0 to 1, each once, as in [0.01, 0.5, 0.99]",
    ),
]
#: Edges of bins.
Edges = Annotated[
    int,
    Wanted(
        {"type": "integer", "minimum": 2, "maximum": 100_000},
        "a number of bin edges, 2 to 100,000",
    ),
]
Seed = Annotated[
    int,
    Wanted(
        {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}, "a whole number, 0 to 4294967295"
    ),
]
#: The lower and the upper end of a scale.
Limits = Annotated[
    tuple[float, float],
    Wanted(
        {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2},
        "two numbers between -1e30 and 1e30, the smaller first, as in [0.0, 1.0]",
    ),
]
#: The index of a block, or a share of the model's depth, of which the function is given the index
#: (`layer_number`). A statistic of one `section` with such an option reads that layer.
Layer = Annotated[
    int,
    Wanted(
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": SHARE}]},
        "a layer, as in 6 or 20%",
    ),
]
#: The index of an attention head.
Head = Annotated[int, Wanted({"type": "integer", "minimum": 0}, "a head number")]
#: The index of a dimension of a site.
Dimension = Annotated[int, Wanted({"type": "integer", "minimum": 0}, "a dimension's number")]
#: A token's position in its text, negative from the end.
Position = Annotated[int, Wanted(_POSITION, "a token's position, negative from the end")]
#: A token's place in its word, negative from the end.
WordPosition = Annotated[
    int, Wanted(_POSITION, "a token's place in the word, negative from the end")
]
#: The position of the first token of each text that takes part.
FirstPosition = Annotated[int, Wanted(_POSITION | {"minimum": 0}, "a token's position, 0 or more")]
#: A text that is one token of the model.
Target = Annotated[str, Wanted({"type": "string", "minLength": 1}, "a text that is one token")]
#: Texts that are one token of the model each.
Targets = Annotated[
    tuple[str, ...],
    Wanted(
        {"type": "array", "items": {"type": "string", "minLength": 1}, "uniqueItems": True},
        "a list of texts that are one token, each once",
    ),
]
#: Two labels of words.
LabelPair = Annotated[
    tuple[str, str],
    Wanted(
        {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 2,
            "maxItems": 2,
            "uniqueItems": True,
        },
        "two labels of words, as in [noun, verb]",
    ),
]
#: Sites of blocks; `section` then holds just these, in this order.
Site = Annotated[str, Wanted(_SITE, "one site")]
#: A site of the residual stream, which a `lens` predicts from.
ResidualSite = Annotated[
    str, Wanted({"enum": list(RESIDUAL)}, "resid_pre, resid_mid or resid_post")
]
#: What enters a block, what attention and MLP add to it, and what leaves it.
BlockParts = Annotated[
    tuple[str, str, str, str],
    Wanted(
        {"enum": [["resid_pre", "attn_out", "mlp_out", "resid_post"]]},
        "[resid_pre, attn_out, mlp_out, resid_post]",
    ),
]
#: What enters and what leaves each block: all hidden states, read by a `lens` too.
HiddenSites = Annotated[
    tuple[str, str],
    Wanted({"enum": [["resid_pre", "resid_post"]]}, "[resid_pre, resid_post]"),
]
Sites = Annotated[
    tuple[str, ...],
    Wanted(
        {"type": "array", "items": _SITE, "minItems": 1, "uniqueItems": True},
        "a list of sites, each once",
    ),
]
#: Sites of blocks of a function that leaves out what is NaN: `scores` and `pattern` are among them.
AllSites = Annotated[
    tuple[str, ...],
    Wanted(
        {"type": "array", "items": {"enum": list(SITES)}, "minItems": 1, "uniqueItems": True},
        "a list of sites, each once",
    ),
]
#: Sites with a value for each key.
KeyedSites = Annotated[
    tuple[str, ...],
    Wanted(
        {"type": "array", "items": {"enum": list(KEYED_SITES)}, "minItems": 1, "uniqueItems": True},
        "scores, pattern or both, as in [pattern]",
    ),
]
#: Two or more sites whose values can be compared one by one: all of one width.
ComparableSites = Annotated[
    tuple[str, ...],
    Wanted(
        {"type": "array", "items": _SITE, "minItems": 2, "uniqueItems": True},
        "a list of two or more sites, each once",
    ),
]
SitePair = Annotated[
    tuple[str, str],
    Wanted(
        {"type": "array", "items": _SITE, "minItems": 2, "maxItems": 2, "uniqueItems": True},
        "two sites, as in [ln2_out, mlp_out]",
    ),
]


def layer_number(layer: int | str, n_layers: int) -> int:
    """The number of the layer that an option names.

    Args:
        layer: its number, or a share of the depth: 0% is the first layer, 100% the last one.
            Between two layers, it is the nearer one, or the deeper one of two equally near.
        n_layers: how many layers the model has.
    """
    if isinstance(layer, int):
        return layer
    return (2 * int(layer.removesuffix("%")) * (n_layers - 1) + 100) // 200


def layer_numbers(layers: Sequence[int | str] | None, n_layers: int) -> Sequence[int]:
    """The numbers of the layers that an option names, ascending; None names all.

    Shares of the depth that mean the same layer of a shallow model name it once.

    Args:
        layers: as `layer_number` takes them.
        n_layers: how many layers the model has.
    """
    if layers is None:
        return range(n_layers)
    return sorted({layer_number(n, n_layers) for n in layers})
