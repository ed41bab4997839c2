"""What the figures of the study on sentiment say of a model, in numbers."""

import numpy as np
import xarray as xr

from microtome.page.numbers import number, peak, share


def batches(batches: xr.Dataset) -> str:
    """How many texts there are, and how long a batch is."""
    n_tokens = batches["n_tokens"].values
    return (
        f"{int(batches['n_texts'].sum())} texts in {batches.sizes['batch']} batches of "
        f"{n_tokens.min()} to {n_tokens.max()} tokens."
    )


def violins(means: xr.Dataset) -> str:
    """Which category has the larger mean in the last hidden state."""
    last = means.isel(hidden=-1)
    if np.isnan(last["t"].values).any():
        return "The means do not vary: what leaves the last norm has none but for rounding."
    first, second = means.attrs["labels"]
    values = [last["mean"].values[last["label"].values == label].mean() for label in (0, 1)]
    welch = last["p"].sel(test="welch").item()
    return (
        f"On average {number(values[0], 4)} ({first}) and {number(values[1], 4)} ({second}); "
        f"Welch's test has p = {number(welch, 3)}."
    )


def splits(splits: xr.Dataset) -> str:
    """Mean accuracies, and how much they vary."""
    train, test = splits["train"].values, splits["test"].values
    return (
        f"On average {share(train.mean())} of the training texts and {share(test.mean())} of those "
        f"left out, where single runs have {share(test.min())} to {share(test.max())}."
    )


def importances(splits: xr.Dataset) -> str:
    """Which component matters most, and how many do."""
    importance = splits["importance"].values
    return (
        f"PC{importance.argmax() + 1} has {share(importance.max())} of the importance; "
        f"{int((importance > 0).sum())} of {len(importance)} components are used."
    )


def tree(splits: xr.Dataset) -> str:
    """How many leaves there are, and how pure."""
    leaves = splits["n"].values[splits["left"].values < 0]
    pure = int((leaves.min(axis=1) == 0).sum())
    return f"{len(leaves)} leaves, {pure} of them with texts of one category alone."


def means(means: xr.Dataset) -> str:
    """In how many hidden states the categories differ."""
    found = means["significant"].sel(test="welch", correction="holm")
    return (
        f"The categories differ in {int(found.sum())} of {found.sizes['hidden']} hidden states "
        "(Welch's tests, Holm's correction)."
    )


def laminar_accuracy(laminar_accuracy: xr.Dataset) -> str:
    """Where the categories are told apart best, and in how many hidden states above chance."""
    accuracy = laminar_accuracy["cross_validated"]
    n = int((laminar_accuracy["p_corrected"] <= 0.05).sum())
    return (
        f"The cross-validated accuracy is largest in {peak(accuracy)}, and above that of permuted "
        f"labels in {n} of {accuracy.sizes['hidden']} hidden states (corrected p at most .05)."
    )


def improvement(improvement: xr.Dataset) -> str:
    """How much a block adds, and whether that differs from nothing."""
    slope, low, high = (100 * improvement[name].item() for name in ("slope", "low", "high"))
    return (
        f"A block adds {number(slope)} points of accuracy; the interval is {number(low)} to "
        f"{number(high)}."
    )
