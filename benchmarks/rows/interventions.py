"""Interventions: all cases in one sweep, beside one hooked forward for each case."""

from collections.abc import Callable

from benchmarks.interventions import Task
from benchmarks.row import Bar, Pair, Row, Same, Way
from benchmarks.rows.xl import ROUNDING

PEERS = ("TransformerLens", "hooks")
MAT = {"log_probabilities": "last", "targets": [" mat"]}
PATCH = {"patch": [[0, 1]]}

HEADS = Task(
    "gpt2-medium",
    "text",
    1,
    26,
    {"site": "z", "each": ["layer", "head"], "change": "zero", "read": MAT},
)
LAST_TOKEN = Task(
    "float32",
    "pair",
    2,
    14,
    {
        "site": "resid_post",
        "each": ["layer"],
        "tokens": "last",
        "change": PATCH,
        "read": {"log_probabilities": "last"},
    },
)
EVERY_TOKEN = Task(
    "gpt2",
    "pair",
    2,
    14,
    {"site": "resid_pre", "each": ["layer", "position"], "change": PATCH, "read": MAT},
)
SCALED = Task(
    "gpt2",
    "text",
    1,
    22,
    {
        "site": "resid_post",
        "each": ["layer"],
        "change": {"scale": 0.8},
        "read": {"log_probabilities": "last"},
    },
)


def ways(task: Task) -> dict[str, Way]:
    """The sweep and its peers."""
    return {
        "sweep": Way("sweep", task),
        "TransformerLens": Way("transformer_lens", task, "transformer-lens"),
        "hooks": Way("hooks", task),
    }


def share(measure: str) -> Callable[[Pair], float]:
    """The sweep's share of the least that a peer took."""
    return lambda p: p["sweep"][measure] / min(p[peer][measure] for peer in PEERS)


def bars(work: float, resident: float) -> tuple[Bar, ...]:
    """The sweep's shares of the least that a peer took, with bars."""
    return (
        Bar("after imports: sweep ÷ the least of the peers", share("work"), work),
        Bar("peak resident: sweep ÷ the least of the peers", share("resident"), resident),
        Bar("peak unreclaimable: sweep ÷ the least of the peers", share("anonymous")),
    )


SAME = (
    Same("sweep", "hooks", within=ROUNDING),
    Same("sweep", "TransformerLens", within=ROUNDING),
)

ROWS = (
    Row(
        name="zero-heads",
        title="GPT-2 medium's shape, each head set to zero",
        text="A text of 26 tokens; what one of the 384 heads gives the output projection (`z`) "
        "is set to zero at all tokens, and the log-probability of *mat* as the next token is read.",
        ways=ways(HEADS),
        bars=bars(work=0.15, resident=1.0),
        same=SAME,
    ),
    Row(
        name="patch-last",
        title="GPT-2 XL's shape, the last token patched",
        text="Two texts of 14 tokens; what one of the 48 blocks returns for the first one's last "
        "token becomes what it returns for the second one's, and the log-probabilities of all "
        "next tokens are read.",
        ways=ways(LAST_TOKEN),
        bars=bars(work=0.10, resident=0.25),
        same=SAME,
    ),
    Row(
        name="patch-tokens",
        title="GPT-2's shape, each token patched in each layer",
        text="Two texts of 14 tokens; what enters one of the 12 blocks for one token of the first "
        "becomes what enters it for the second one's, and the log-probability of *mat* is read.",
        ways=ways(EVERY_TOKEN),
        bars=bars(work=0.25, resident=1.0),
        same=SAME,
    ),
    Row(
        name="scaling",
        title="GPT-2's shape, each block's output scaled",
        text="A text of 22 tokens, as the study hidden_states has one; what one of the 12 blocks "
        "returns is scaled by 0.8, and the log-probabilities of all next tokens are read.",
        ways=ways(SCALED),
        bars=bars(work=0.6, resident=1.0),
        same=SAME,
    ),
)
