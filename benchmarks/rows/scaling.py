"""The scaling intervention: branches of one sweep beside one full pass per block."""

from benchmarks.row import Bar, Row, Same, Way
from benchmarks.ways import Task

TASK = Task("gpt2", "metamorphosis", layers=tuple(range(12)))

ROWS = (
    Row(
        name="scaling",
        title="GPT-2's shape, each block's output scaled",
        text="The first sentence of The Metamorphosis up to the last word but one of its clause; "
        "the output of one block scaled by 0.8, for each of the 12 blocks, and the next token's "
        "log-probabilities read. *Sweep* is an intervention, which also runs the unchanged text; "
        "*passes* is the notebook's way, a full pass of the hooked model per block. Both load "
        "tokenizer and model after the imports.",
        ways={"sweep": Way("scaling", TASK), "passes": Way("passes", TASK)},
        bars=(
            Bar(
                "after imports: sweep ÷ passes",
                lambda p: p["sweep"]["work"] / p["passes"]["work"],
                0.6,
            ),
            Bar(
                "the whole sweep ÷ the passes alone",
                lambda p: p["sweep"]["work"] / p["passes"]["passes"],
            ),
        ),
        same=(Same("sweep", "passes", within=1e-5),),
    ),
)
