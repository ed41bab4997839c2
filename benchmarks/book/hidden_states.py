"""LLM breakdown 4/6, plainly: the hidden states of one text, and what scaling them does."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from common import folders, load, read, save
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKEN, FACTOR, TARGET = 8, 0.8, " insect"


def cosines(vectors: Tensor) -> Tensor:
    """Cosine similarity of each two vectors."""
    return F.cosine_similarity(vectors.unsqueeze(0), vectors.unsqueeze(1), dim=-1)


def inspect(states: tuple[Tensor, ...], texts: list[str], out: Path) -> None:
    """One token through the layers, and similarities of layers and of tokens."""
    n_states, random = len(states), np.random.default_rng(0)
    labels = ["Emb", *(f"L{layer}" for layer in range(n_states - 1))]
    colours = [mpl.cm.plasma((state + 1) / n_states) for state in range(n_states)]
    ticks = {"xticks": range(n_states), "xticklabels": labels}

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4))
    for x, state in enumerate(states):
        acts = state[0, TOKEN]
        jittered = random.normal(x, 0.05, len(acts))
        left.plot(jittered, acts, "wo", markersize=8, markerfacecolor=colours[x], alpha=0.4)
        right.plot(x, acts.var(), "ws", markersize=12, markerfacecolor=colours[x])
    left.set(ylabel="Activation value", xlabel="Hidden layer (model depth)", **ticks)
    left.set(title=f'Hidden state activations for token "{texts[TOKEN]}"')
    right.set(ylabel="Activation variance", xlabel="Hidden layer (model depth)", **ticks)
    right.set(title=f'Activation variances for token "{texts[TOKEN]}"')
    plt.tight_layout()
    save(figure, out, "token_profile")

    figure, panels = plt.subplots(1, 4, layout="constrained", figsize=(12, 3))
    for axes, token in zip(panels, np.linspace(0, len(texts) - 1, 4, dtype=int), strict=True):
        matrix = cosines(torch.stack([state[0, token] for state in states]))
        image = axes.imshow(matrix, cmap="plasma", vmin=0.8, vmax=1, origin="lower")
        axes.set(xticks=range(0, n_states, 3), yticks=range(1, n_states, 3))
        axes.set(title=f'CS matrix for "{texts[token]}"')
    panels[0].set(xlabel="Hidden layer (model depth)", ylabel="Hidden layer (model depth)")
    figure.colorbar(image, ax=panels[-1], label="Cosine similarity", pad=0.02, shrink=0.97)
    save(figure, out, "layer_similarity")

    figure, panels = plt.subplots(1, 4, layout="constrained", figsize=(12, 3))
    for axes, state in zip(panels, np.linspace(0, n_states - 1, 4, dtype=int), strict=True):
        matrix = cosines(states[state][0])
        image = axes.imshow(matrix, cmap="plasma", vmin=0.5, vmax=1, origin="lower")
        axes.set_xticks(range(len(texts)), texts, rotation=90)
        axes.set_yticks(range(len(texts)), texts)
        axes.set(title=f"CS matrix for layer {state}")
    figure.colorbar(image, ax=panels[-1], label="Cosine similarity", pad=0.02, shrink=0.91)
    save(figure, out, "token_similarity")

    figure = plt.figure(figsize=(10, 4))
    for x, state in enumerate(states):
        matrix = cosines(state[0, 1:])
        each = matrix[tuple(torch.triu_indices(*matrix.shape, offset=1))]
        jittered = random.normal(x, 0.05, len(each))
        plt.plot(jittered, each, "wo", markersize=8, markerfacecolor=colours[x], alpha=0.4)
    plt.gca().set(xlabel="Hidden layer (model depth)", ylabel="Cosine similarity", **ticks)
    plt.gca().set(title="Laminar profile of inter-token cosine similarities")
    plt.tight_layout()
    save(figure, out, "similarity_profile")


def manipulate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """The next token of a text, with each block's output in turn made smaller."""
    text = read("metamorphosis")["texts"][0]
    ids = tokenizer.encode(text, return_tensors="pt")
    print(f"{len(text)} characters ({len(set(text))} unique)")
    print(f"{ids.numel()} tokens ({len(ids.unique())} unique)")

    logits = model(ids).logits[0, -1]
    print("Top 21 possible next words:")
    print(", ".join(f'"{tokenizer.decode([token])}"' for token in torch.topk(logits, 21).indices))
    target = tokenizer.encode(TARGET)[0]
    clean = F.log_softmax(logits, dim=-1)[target].item()

    def scale(module: torch.nn.Module, args: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
        (output[0] if isinstance(output, tuple) else output).mul_(FACTOR)

    scaled = []
    for block in model.transformer.h:
        handle = block.register_forward_hook(scale)
        scaled.append(F.log_softmax(model(ids).logits[0, -1], dim=-1)[target].item())
        handle.remove()

    figure = plt.figure(figsize=(9, 3))
    plt.plot(scaled, "kh", markersize=14, markerfacecolor=(0.9, 0.7, 0.7))
    plt.axhline(clean, linestyle="--", color=(0.7, 0.7, 0.7), zorder=-3)
    plt.text(0, clean + 0.01, f"Clean: {clean:.2f}", va="bottom")
    layers = range(len(scaled))
    plt.gca().set(xticks=layers, xticklabels=[f"L{layer}" for layer in layers])
    plt.gca().set(xlabel="Transformer block", ylabel="Log softmax")
    plt.gca().set(title="Impact of global hidden-state scaling on log-softmax")
    plt.tight_layout()
    save(figure, out, "scaling")


def main(models: Path, out: Path) -> None:
    """Everything."""
    model, tokenizer = load(models / "gpt2")
    tokens = tokenizer(read("penguins")["texts"][0], return_tensors="pt")
    outputs = model(**tokens, output_hidden_states=True)
    print(f"{len(outputs.hidden_states)} hidden states of {outputs.hidden_states[0].shape}")
    texts = [tokenizer.decode([token]) for token in tokens["input_ids"][0]]
    inspect(outputs.hidden_states, texts, out)
    manipulate(model, tokenizer, out)


if __name__ == "__main__":
    models, figures = folders()
    with torch.no_grad():
        main(models, figures / "hidden_states" / "gpt2")
