"""Least squares part 4, plainly: do attention's updates follow from those of tokens before?"""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import statsmodels.api as sm
import torch
from common import folders, load, read, save
from torch import Tensor, nn


def attention(folder: Path, text: str) -> np.ndarray:
    """Log norms of what attention adds to each token, (layer, token)."""
    model, tokenizer = load(folder)
    added: list[np.ndarray | None] = [None] * model.config.n_layer

    def keep(layer: int):
        def hook(module: nn.Module, args: tuple, output: tuple[Tensor, ...]) -> None:
            added[layer] = output[0][0].numpy()

        return hook

    for layer, block in enumerate(model.transformer.h):
        block.attn.register_forward_hook(keep(layer))
    ids = tokenizer.encode(text, return_tensors="pt")
    print(f"The text contains {len(text)} characters and {ids.numel()} tokens.")
    for token in ids[0]:
        print(f'Token {token:6}: "{tokenizer.decode([token])}"')
    model(ids)
    return np.log(np.linalg.norm(np.array(added), axis=-1))


def show_norms(norms: np.ndarray, labels: list[str], out: Path) -> None:
    """Every token's norm but the first one's, and the layers' histograms."""
    random = np.random.default_rng(0)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4))
    for layer, row in enumerate(norms[:, 1:]):
        colour = mpl.cm.plasma(layer / len(norms))
        left.plot(
            random.normal(layer, 0.08, len(row)),
            row,
            "wh",
            markerfacecolor=colour,
            markersize=10,
            alpha=0.4,
            linewidth=0.3,
        )
        count, edges = np.histogram(row, bins="fd")
        right.plot(edges[:-1], count, "s-", color=colour)
    left.set(xticks=range(len(norms)), xticklabels=labels, title="Attention norms")
    left.set(xlabel="Transformer block", ylabel="Attention norm (log)")
    right.set(xlabel="Attention norm (log)", ylabel="Count", title="Attention norm distributions")
    plt.tight_layout()
    save(figure, out, "norms")


def design(norms: np.ndarray) -> np.ndarray:
    """For each token from the fourth on: 1 and the norms of the two tokens before it."""
    rows = [(1, norms[t - 1], norms[t - 2]) for t in range(3, len(norms))]
    return np.array(rows)


def regress(norms: np.ndarray) -> None:
    """The model of one layer in full, and numpy's betas beside it."""
    fit = sm.OLS(norms[3:], design(norms)).fit()
    print(fit.summary())
    for beta, p in zip(fit.params, fit.pvalues, strict=True):
        print(f"beta = {beta:7.4f}, p = {p:5.3f}")
    for beta in np.linalg.lstsq(design(norms), norms[3:], rcond=None)[0]:
        print(f"beta = {beta:7.4f}")


def autoregress(norms: np.ndarray, labels: list[str], out: Path) -> None:
    """The betas of all layers."""
    fits = [sm.OLS(row[3:], design(row)).fit() for row in norms]
    betas = np.array([fit.params[1:] for fit in fits])
    p = np.array([fit.pvalues[1:] for fit in fits])
    figure = plt.figure(figsize=(10, 4))
    for lag, marker, colour in ((0, "s", (0.9, 0.7, 0.7)), (1, "o", (0.7, 0.7, 0.9))):
        beta, significant = betas[:, lag], p[:, lag] < 0.05
        plt.plot(beta, color=colour, linewidth=0.6, label=f"t-{lag + 1}")
        plt.plot(np.where(significant)[0], beta[significant], marker, color=colour, markersize=12)
        # White on the notebook's dark ground; black on this white one.
        plt.plot(np.where(~significant)[0], beta[~significant], "kx", markersize=6)
    plt.legend(fontsize=14)
    plt.gca().set(xticks=range(len(norms)), xticklabels=labels)
    plt.gca().set(xlabel="Transformer block", ylabel="Beta")
    plt.gca().set(title="Predicting token update from previous token updates")
    plt.grid(linewidth=0.1, linestyle="--")
    plt.axhline(0, color="gray")
    save(figure, out, "autoregression")


def main(models: Path, out: Path) -> None:
    """Everything."""
    norms = attention(models / "gpt2", read("rock_music")["texts"][0])
    labels = [f"L{layer}" for layer in range(len(norms))]
    show_norms(norms, labels, out)
    regress(norms[0])
    autoregress(norms, labels, out)


if __name__ == "__main__":
    models, figures = folders()
    with torch.no_grad():
        main(models, figures / "attention_norms" / "gpt2")
