"""Book project 38, plainly: Q, K and V of three categories of words."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from common import folders, load, read, save
from scipy.stats import ttest_ind
from torch import Tensor, nn

LAYER = 6
SITES = "QKV"
PAIRS = (("Q", "K"), ("Q", "V"), ("K", "V"))
FILLS = ((0.9, 0.7, 0.7), (0.7, 0.9, 0.7), (0.7, 0.7, 0.9))
LINES = ("rs-", "go-", "b^-")

#: Of each layer, one matrix per site.
Sites = dict[str, np.ndarray]


def activations(folder: Path, words: list[str], template: str) -> list[Sites]:
    """Q, K and V of every layer, (word, token, width)."""
    model, tokenizer = load(folder)
    acts: list[Sites] = [{} for _ in model.transformer.h]

    def keep(layer: int):
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            parts = output.split(model.config.n_embd, dim=2)
            acts[layer] = {site: part.numpy() for site, part in zip(SITES, parts, strict=True)}

        return hook

    for layer, block in enumerate(model.transformer.h):
        block.attn.c_attn.register_forward_hook(keep(layer))
    prompts = [template.format(word=word) for word in words]
    model(torch.tensor([tokenizer.encode(prompt) for prompt in prompts]))
    return acts


def profile(axes: plt.Axes, values: np.ndarray, labels: list[str], ylabel: str) -> None:
    """Three series over the layers."""
    for series, line, fill, label in zip(values.T, LINES, FILLS, labels, strict=True):
        axes.plot(series, line, markerfacecolor=(*fill, 0.7), markersize=8, label=label)
    axes.set(xlabel="Transformer layer", ylabel=ylabel)
    axes.legend()


def masks(categories: np.ndarray, out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs of words are within a category, and which across two."""
    same = categories[:, None] == categories
    upper = np.triu(np.ones_like(same), 1)
    within, across = same & upper, ~same & upper
    figure, panels = plt.subplots(2, 2, figsize=(10, 6))
    for axes, mask, title in zip(
        panels.flat,
        (same, upper, within, across),
        ("A) Same-category", "B) Upper-triangular", "C) Within-category", "D) Across-category"),
        strict=True,
    ):
        axes.imshow(mask)
        axes.set(xlabel="Words", ylabel="Words", title=f"{title} mask")
    plt.tight_layout()
    save(figure, out, "masks")
    return within, across


def correlate(acts: list[Sites], out: Path) -> None:
    """Q, K and V of token 1 against each other: in one layer as dots, in all as r."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.5))
    for axes, (a, b), fill in zip(panels, PAIRS, FILLS, strict=True):
        x, y = (acts[LAYER][site][:, 1].flatten() for site in (a, b))
        r = np.corrcoef(x, y)[0, 1]
        axes.plot(x, y, "k.", markeredgewidth=0.4, markerfacecolor=(*fill, 0.3))
        axes.set(xlabel=f"{a} activations", ylabel=f"{b} activations")
        axes.set(title=f"{a} by {b} (r = {r:.3f})")
    plt.tight_layout()
    save(figure, out, "qkv_scatter")

    r = np.zeros((len(acts), 3))
    for layer, sites in enumerate(acts):
        for pair, (a, b) in enumerate(PAIRS):
            x, y = (sites[site][:, 1].flatten() for site in (a, b))
            r[layer, pair] = np.corrcoef(x, y)[0, 1]
    figure = plt.figure(figsize=(10, 3))
    profile(plt.gca(), r, [f"{a}-{b}" for a, b in PAIRS], "Correlation coefficient")
    plt.tight_layout()
    save(figure, out, "qkv_profile")


def similarities(acts: np.ndarray) -> np.ndarray:
    """Cosine similarity of each two words at the last token."""
    unit = acts[:, -1] / np.linalg.norm(acts[:, -1], axis=1, keepdims=True)
    return unit @ unit.T


def compare_matrices(cosines: list[Sites], out: Path) -> None:
    """The matrices of one layer, and how far those of Q, K and V agree, here and in all layers."""
    figure, panels = plt.subplots(1, 3, figsize=(10, 4))
    for axes, letter, site in zip(panels, "ABC", SITES, strict=True):
        image = axes.imshow(cosines[LAYER][site], vmin=0.3, vmax=1, cmap="magma")
        axes.set(xlabel="Words", ylabel="Words", xticks=[])
        axes.set(title=f"{letter}) {site} cosine similarities")
        figure.colorbar(image, ax=axes, orientation="horizontal", shrink=0.8)
    plt.tight_layout()
    save(figure, out, "cosine_matrices")

    upper = np.triu_indices(len(cosines[LAYER]["Q"]), 1)
    rsa = np.zeros((len(cosines), 3))
    for layer, matrices in enumerate(cosines):
        for pair, (a, b) in enumerate(PAIRS):
            rsa[layer, pair] = np.corrcoef(matrices[a][upper], matrices[b][upper])[0, 1]

    figure, panels = plt.subplots(1, 3, figsize=(10, 3))
    for axes, (a, b), fill, r in zip(panels, PAIRS, FILLS, rsa[LAYER], strict=True):
        axes.plot(
            cosines[LAYER][a][upper],
            cosines[LAYER][b][upper],
            "k.",
            markeredgewidth=0.4,
            markersize=8,
            markerfacecolor=(*fill, 0.7),
        )
        axes.set(xlabel=f"{a} cossim", ylabel=f"{b} cossim", title=f"{a} and {b} (r = {r:.3f})")
    plt.tight_layout()
    save(figure, out, "rsa_scatter")

    figure = plt.figure(figsize=(10, 3))
    profile(plt.gca(), rsa, [f"{a}-{b}" for a, b in PAIRS], "RSA scores")
    plt.tight_layout()
    save(figure, out, "rsa_profile")


def distributions(matrices: Sites, within: np.ndarray, across: np.ndarray, out: Path) -> None:
    """Similarities within and across categories, in one layer."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 3))
    for axes, letter, site in zip(panels, "ABC", SITES, strict=True):
        t = ttest_ind(matrices[site][within], matrices[site][across]).statistic
        for mask, label in ((within, "Within"), (across, "Across")):
            y, x = np.histogram(matrices[site][mask], bins="fd", density=True)
            axes.plot(x[:-1], y, linewidth=2, label=label)
        axes.legend()
        axes.set(
            xlabel="Cosine similarity", ylabel="Density", title=f"{letter}) {site} (t = {t:.2f})"
        )
        axes.set_ylim(0, None)
    title = f"Category-specific similarity distributions, layer {LAYER}"
    plt.suptitle(title, fontsize=15, fontweight="bold")
    plt.tight_layout()
    save(figure, out, "similarity_distributions")


def selectivity(
    cosines: list[Sites], within: np.ndarray, across: np.ndarray, fisher: bool, out: Path
) -> None:
    """How well every layer keeps categories apart, by cosines or by their Fisher-z."""
    found = np.zeros((3, len(cosines), 3))  # differences, t, averages
    for layer, matrices in enumerate(cosines):
        for place, site in enumerate(SITES):
            w, a = matrices[site][within], matrices[site][across]
            if fisher:
                w, a = np.arctanh(w), np.arctanh(a)
            t = ttest_ind(w, a).statistic
            found[:, layer, place] = w.mean() - a.mean(), t, (w.mean() + a.mean()) / 2
    differences, t, averages = found
    suffix = "_fisher_z" if fisher else ""

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3))
    profile(left, differences, list(SITES), "Differences")
    profile(right, t, list(SITES), "Selectivity (t-stat)")
    left.set(title="A) Within - Across")
    right.set(title="B) T values")
    plt.tight_layout()
    save(figure, out, f"selectivity_profile{suffix}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
    norm = mpl.colors.Normalize(0, len(cosines))
    for layer in range(len(cosines)):
        look = {"markerfacecolor": mpl.cm.rainbow(norm(layer)), "alpha": 0.7}
        left.plot(differences[layer], averages[layer], "ko", **look)
        right.plot(t[layer], averages[layer], "ks", **look)
    bar = plt.colorbar(mpl.cm.ScalarMappable(norm, "rainbow"), ax=right, pad=0.01)
    bar.set_label("Transformer layer")
    if fisher:
        left.set(xlabel="Fisher-z(cos.sim) diffs", ylabel="Fisher-z(cos.sim) ave.")
        right.set(xlabel="T-values", ylabel="Fisher-z(cos.sim) ave.")
    else:
        left.set(xlabel="Cosine similarity differences", ylabel="Average cosine similarity")
        right.set(xlabel="T-values", ylabel="Average cosine similarity")
    left.set(title="A) Differences vs. averages")
    right.set(title="B) T-values vs. averages")
    plt.tight_layout()
    save(figure, out, f"selectivity_scatter{suffix}")


def fisher_z(out: Path) -> None:
    """What Fisher's z does to evenly distributed values."""
    r = np.random.default_rng(0).uniform(-1, 1, size=10_000)
    z = np.arctanh(r)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    left.plot(r, z, "ko", markerfacecolor=(0.7, 0.9, 0.7, 0.3))
    left.axline((-1, -1), slope=1, linestyle="--", color="k")
    left.grid(linestyle="--", linewidth=0.3)
    left.set(xlabel="Cosine similarity", ylabel="Fisher-z transform")
    left.set(title="A) Impact of transformation")
    for values, label in ((r, "Cos. similarities"), (z, "Fisher-z")):
        count, edges = np.histogram(values, bins="fd")
        right.plot(edges[:-1], count, linewidth=2, label=label)
    right.set(xlabel="Similarity or Fisher-z value", ylabel="Count", title="B) Distributions")
    right.legend()
    plt.tight_layout()
    save(figure, out, "fisher_z")


def main(models: Path, figures: Path) -> None:
    """Everything."""
    out = figures / "gpt2-xl"
    stimuli = read("categories")
    words = [word for members in stimuli["words"].values() for word in members]
    sizes = [len(members) for members in stimuli["words"].values()]
    within, across = masks(np.repeat(np.arange(len(sizes)), sizes), out)

    acts = activations(models / "gpt2-xl", words, stimuli["template"])
    correlate(acts, out)
    cosines = [{site: similarities(values) for site, values in sites.items()} for sites in acts]
    compare_matrices(cosines, out)
    distributions(cosines[LAYER], within, across, out)
    for fisher in (False, True):
        selectivity(cosines, within, across, fisher, out)
    fisher_z(figures)


if __name__ == "__main__":
    models, figures = folders()
    with torch.no_grad():
        main(models, figures / "category_selectivity")
