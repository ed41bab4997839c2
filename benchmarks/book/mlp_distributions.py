"""Book project 42, plainly: an MLP's weights, and the values at the stages of its computation."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from common import folders, load, read, save
from matplotlib.axes import Axes
from sklearn.manifold import TSNE
from torch import Tensor, nn

LAYER, TSNE_LAYER = 5, 10
STAGES = ("Input", "Expansion", "GELU", "Projection")
WEIGHT_EDGES = torch.linspace(-0.8, 0.8, 201)
ACTIVATION_EDGES = torch.linspace(-3, 3, 201)


def density(values: Tensor, edges: Tensor) -> Tensor:
    """A histogram as density."""
    return torch.histogram(values.flatten(), bins=edges, density=True)[0]


def show_histograms(axes: Axes, rows: Tensor, edges: Tensor, top: float) -> None:
    """Histograms as an image, one per row."""
    axes.imshow(
        rows,
        origin="lower",
        aspect="auto",
        cmap="magma",
        extent=(edges[0], edges[-1], 0, len(rows) - 1),
        vmin=0,
        vmax=top,
    )


def gelu(out: Path) -> None:
    """What GELU does to evenly spaced values."""
    raw = torch.linspace(-4, 4, 51)
    after = F.gelu(raw)
    figure = plt.figure(figsize=(10, 5))
    plt.plot(raw, raw, "k")
    points = plt.scatter(
        raw,
        after,
        60,
        marker="h",
        edgecolor="k",
        alpha=0.7,
        c=(raw - after) ** 2,
        cmap="magma",
        vmin=0,
        vmax=10,
    )
    plt.colorbar(points, pad=0.01)
    plt.grid(linestyle="--", linewidth=0.4)
    plt.gca().set(xlabel='"Raw" activations', ylabel="Post-GELU activations")
    plt.gca().set(title="Impact of GELU nonlinear activation")
    plt.tight_layout()
    save(figure, out, "gelu")


def linear_separation(out: Path) -> None:
    """Two rings that their radius separates."""
    n, random = 100, np.random.default_rng(0)
    theta = np.linspace(0, 2 * np.pi, n, endpoint=False)
    figure = plt.figure(figsize=(12, 5))
    flat = figure.add_subplot(121)
    lifted = figure.add_subplot(122, projection="3d")
    for radius, marker, fill in ((1, "ko", (0.7, 0.9, 0.7)), (2, "ks", (0.9, 0.7, 0.7))):
        x = radius * np.cos(theta) + random.standard_normal(n) / 10
        y = radius * np.sin(theta) + random.standard_normal(n) / 10
        flat.plot(x, y, marker, markerfacecolor=fill, markersize=9)
        lifted.plot(x, y, np.sqrt(x**2 + y**2), marker, markerfacecolor=fill, markersize=9)
    flat.axis("square")
    flat.set(title="A) Non-linearly separable in 2D", xlabel="x", ylabel="y")
    lifted.set(title="B) Linearly separable in 3D", xlabel="x", ylabel="y", zlabel="Radius")
    for axes in (flat, lifted):
        axes.set(xticklabels=[], yticklabels=[])
    lifted.view_init(20, 20)
    save(figure, out, "linear_separation")


def weights(mlps: list[nn.Module], out: Path) -> None:
    """Counts, product and distributions of the weights."""
    mlp = mlps[LAYER]
    parameters = {
        "W1": mlp.c_fc.weight,
        "b1": mlp.c_fc.bias,
        "W2": mlp.c_proj.weight,
        "b2": mlp.c_proj.bias,
    }
    total = sum(values.numel() for values in parameters.values())
    print(" Type |     Size     |   Count    | % total")
    for name, values in parameters.items():
        size, count = list(values.shape), values.numel()
        print(f"  {name}  | {size!s:12} | {count:10,} | {count / total:7.3%}")

    product = mlp.c_fc.weight @ mlp.c_proj.weight
    figure = plt.figure()
    plt.imshow(product**2, vmin=0, vmax=1)
    save(figure, out, "weight_product")

    figure = plt.figure(figsize=(8, 3))
    for label, weight in (("W_1", mlp.c_fc.weight), ("W_2", mlp.c_proj.weight)):
        plt.plot(WEIGHT_EDGES[:-1], density(weight, WEIGHT_EDGES), label=rf"$\mathbf{{{label}}}$")
    plt.legend()
    plt.gca().set(xlabel="Weight value", ylabel="Density", xlim=WEIGHT_EDGES[[0, -1]])
    plt.gca().set_ylim(0, None)
    plt.tight_layout()
    save(figure, out, "weight_histograms")

    figure, panels = plt.subplots(1, 2, figsize=(10, 3.5))
    for axes, part, title in zip(
        panels, ("c_fc", "c_proj"), ("W1 (expansion)", "W2 (contraction)"), strict=True
    ):
        rows = [density(getattr(mlp, part).weight, WEIGHT_EDGES) for mlp in mlps]
        show_histograms(axes, torch.stack(rows), WEIGHT_EDGES, 3)
        axes.set(xlabel="Weight value", ylabel="Layer", title=title)
    plt.tight_layout()
    save(figure, out, "weight_profile")


def stages(acts: list[dict[str, Tensor]], out: Path) -> None:
    """Distributions of the stages: of one layer, of its tokens one by one, of all layers."""
    figure = plt.figure(figsize=(7, 4))
    for stage, values in acts[LAYER].items():
        label = f"{stage} (N = {values.numel():,})"
        plt.plot(ACTIVATION_EDGES[:-1], density(values, ACTIVATION_EDGES), label=label)
    plt.axvline(0, linestyle="--", color="k", linewidth=0.5)
    plt.gca().set(xlabel="Activation value", ylabel="Density", xlim=ACTIVATION_EDGES[[0, -1]])
    plt.gca().set_ylim(0, None)
    plt.legend()
    plt.tight_layout()
    save(figure, out, "activation_histograms")

    figure, panels = plt.subplots(1, 4, figsize=(12, 3.5))
    for axes, letter, stage in zip(panels, "ABCD", STAGES, strict=True):
        rows = [density(token, ACTIVATION_EDGES) for token in acts[LAYER][stage]]
        show_histograms(axes, torch.stack(rows), ACTIVATION_EDGES, 0.5)
        axes.set(xlabel="Activation value", ylabel="Token position", title=f"{letter}) {stage}")
    plt.tight_layout()
    save(figure, out, "token_histograms")

    figure, panels = plt.subplots(1, 4, figsize=(12, 3.5))
    for axes, letter, stage in zip(panels, "ABCD", STAGES, strict=True):
        rows = [density(layer[stage][1:], ACTIVATION_EDGES) for layer in acts]
        show_histograms(axes, torch.stack(rows), ACTIVATION_EDGES, 0.5)
        axes.set(xlabel="Activation value", ylabel="Layer", title=f"{letter}) {stage}")
    plt.tight_layout()
    save(figure, out, "activation_profile")


def embedding(acts: dict[str, Tensor], texts: list[str], out: Path) -> None:
    """The tokens before and after an MLP by t-SNE, and value by value."""
    figure, panels = plt.subplots(1, 3, figsize=(13, 3.5))
    for axes, letter, stage in zip(panels, "AB", ("Input", "Projection"), strict=False):
        places = TSNE(n_components=2, perplexity=4, random_state=0).fit_transform(acts[stage])
        colours = np.linspace(0, 1, len(texts))
        points = axes.scatter(*places.T, s=100, marker="h", edgecolor="k", c=colours, cmap="plasma")
        above = 0.03 * np.diff(axes.get_ylim()).item()
        for (x, y), text in zip(places, texts, strict=True):
            axes.text(x, y + above, text, ha="center", fontsize=9)
        axes.set(xlabel="TSNE dim 1", ylabel="TSNE dim 2", title=f"{letter}) {stage}")
        figure.colorbar(points, ax=axes, pad=0.02, label="Token index", ticks=[])
    before, after = (acts[stage][1:].flatten() for stage in ("Input", "Projection"))
    r = np.corrcoef(before, after)[0, 1]
    panels[2].plot(before, after, "ko", markerfacecolor=(0.7, 0.9, 0.9, 0.5))
    panels[2].set(xlabel="Stage 1 (input)", ylabel="Stage 4 (projection)")
    panels[2].set(title=f"C) Scatter plot (r = {r:.3f})")
    plt.tight_layout()
    save(figure, out, "tsne")


def analyse(folder: Path, out: Path) -> None:
    """Everything about one model."""
    model, tokenizer = load(folder)
    mlps = [block.mlp for block in model.transformer.h]
    weights(mlps, out)

    acts: list[dict[str, Tensor]] = [dict.fromkeys(STAGES) for _ in mlps]

    def keep(layer: int, stage: str):
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            acts[layer][stage] = output[0]

        return hook

    def keep_input(layer: int):
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            acts[layer]["Input"] = args[0][0]

        return hook

    for layer, mlp in enumerate(mlps):
        mlp.register_forward_hook(keep_input(layer))
        mlp.c_fc.register_forward_hook(keep(layer, "Expansion"))
        mlp.act.register_forward_hook(keep(layer, "GELU"))
        mlp.c_proj.register_forward_hook(keep(layer, "Projection"))

    ids = tokenizer.encode(read("strawberry")["texts"][0], return_tensors="pt")
    model(ids)
    for stage, values in acts[LAYER].items():
        print(f'{list(values.shape)} in stage "{stage}"')
    stages(acts, out)
    embedding(acts[TSNE_LAYER], [tokenizer.decode([token]) for token in ids[0]], out)


if __name__ == "__main__":
    models, figures = folders()
    out = figures / "mlp_distributions"
    gelu(out)
    linear_separation(out)
    with torch.no_grad():
        for name in ("gpt2", "gpt2-large"):
            analyse(models / name, out / name)
