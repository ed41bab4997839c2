"""The course's challenge, plainly: do an MLP's neurons tell nouns from verbs?"""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from common import folders, load, read, save
from scipy import stats

LAYER = 8
PER_LINE = 20


def show_words(verbs: np.ndarray, nouns: np.ndarray, out: Path) -> None:
    """Each verb's activations, and the nouns' mean."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4))
    left.imshow(verbs, aspect="auto", vmin=-2, vmax=1)
    left.set(xlabel="Neurons", ylabel="Verbs (index)", title="Verbs activations")
    right.plot(nouns.mean(axis=0), "ko", markerfacecolor=(0.7, 0.7, 0.7, 0.6))
    right.set(xlim=(-6, nouns.shape[1] + 7), xlabel="Neurons", ylabel="Activation")
    right.set(title="Mean activations over all nouns")
    plt.tight_layout()
    save(figure, out, "word_activations")


def show_tests(t: np.ndarray, p: np.ndarray, out: Path) -> None:
    """Every neuron's t, and whether it is significant by Bonferroni."""
    threshold = 0.05 / len(t)
    figure = plt.figure(figsize=(10, 4))
    for chosen, marker, size, fill, label in (
        (p > threshold, "rs", 4, (0.9, 0.6, 0.6), "Non-significant"),
        (p < threshold, "bo", 6, (0.5, 0.5, 0.9), "Significant"),
    ):
        plt.plot(
            np.where(chosen)[0],
            t[chosen],
            marker,
            markersize=size,
            markerfacecolor=fill,
            label=label,
        )
    plt.legend()
    plt.gca().set(xlabel="Neuron", ylabel="T-value", xlim=(-7, len(t) + 8))
    plt.gca().set(title="Statistical significance of NOUN-VERB in MLP activations")
    save(figure, out, "t_tests")


def show_text(texts: list[str], values: list[np.ndarray], out: Path) -> None:
    """A text, with each token on the colour of its value; once per set of values."""
    # How wide a letter is, in units of the axes.
    figure, axes = plt.subplots(figsize=(10, 2))
    letter = axes.text(0, 0, "n", fontsize=12, fontfamily="monospace")
    box = letter.get_window_extent(renderer=figure.canvas.get_renderer())
    (left, _), (right, _) = axes.transAxes.inverted().transform(box.get_points())
    plt.close(figure)

    figure, panels = plt.subplots(2, 1, figsize=(10, 6))
    for axes, colours, scaled in zip(panels, (mpl.cm.Reds, mpl.cm.Blues), values, strict=True):
        axes.axis("off")
        x, y = 0.0, 1.0
        for index, (text, value) in enumerate(zip(texts, scaled, strict=True)):
            if index and index % PER_LINE == 0:
                x, y = 0.0, y - 0.12
            width = (right - left) * len(text)
            axes.text(
                x + width / 2,
                y,
                text,
                fontsize=12,
                ha="center",
                va="center",
                fontfamily="monospace",
                bbox={
                    "boxstyle": "round,pad=.3",
                    "facecolor": colours(value),
                    "edgecolor": "none",
                    "alpha": 0.8,
                },
            )
            x += width + 0.015
    save(figure, out, "text_heatmap", bbox_inches="tight")  # lines are as long as they are


def main(models: Path, out: Path) -> None:
    """Everything."""
    model, tokenizer = load(models / "gpt-neo-125m")
    latest: dict[str, torch.Tensor] = {}
    model.transformer.h[LAYER].mlp.c_fc.register_forward_hook(
        lambda module, args, output: latest.update(acts=output[0])
    )

    def activations(text: str) -> tuple[torch.Tensor, np.ndarray]:
        ids = tokenizer.encode(text, return_tensors="pt")
        model(ids)
        return ids[0], latest["acts"].numpy()

    words = read("nouns_and_verbs")["words"]
    verbs, nouns = (
        np.array([activations(word)[1].mean(axis=0) for word in words[category]])
        for category in ("verb", "noun")
    )
    show_words(verbs, nouns, out)
    t, p = stats.ttest_1samp(nouns - verbs, popmean=0, axis=0)
    show_tests(t, p, out)

    tuned = [np.argmax(t), np.argmin(t)]
    print(f"Most tuned to nouns and to verbs: neurons {tuned[0]} and {tuned[1]}")
    ids, acts = activations(read("randomness")["texts"][0])
    values = [acts[:, neuron] for neuron in tuned]
    scaled = [(value - value.min()) / (value.max() - value.min()) for value in values]
    show_text([tokenizer.decode([token]) for token in ids], scaled, out)


if __name__ == "__main__":
    models, figures = folders()
    with torch.no_grad():
        main(models, figures / "grammar_tuning" / "gpt-neo-125m")
