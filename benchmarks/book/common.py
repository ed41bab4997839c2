"""What the five plain scripts share: where things lie, stimuli, models, the look of figures."""

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
import yaml
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

STIMULI = Path(__file__).resolve().parents[2] / "stimuli"

plt.rcParams.update(
    {
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titleweight": "bold",
        "axes.labelweight": "bold",
    }
)


def folders() -> tuple[Path, Path]:
    """The folders of the command line: of the models, and for the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", type=Path, help="a folder with a folder per model")
    parser.add_argument("figures", type=Path, help="where the figures go")
    options = parser.parse_args()
    return options.models, options.figures


def read(stimuli: str) -> dict[str, Any]:
    """A file of stimuli."""
    return yaml.safe_load((STIMULI / f"{stimuli}.yaml").read_text(encoding="utf-8"))


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def save(figure: plt.Figure, folder: Path, name: str, **options: Any) -> None:
    """Write a figure as SVG and PNG, and forget it."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("svg", "png"):
        figure.savefig(folder / f"{name}.{suffix}", dpi=150, **options)
    plt.close(figure)
