"""Tables of the study on sentiment; see README.md."""

import numpy as np
import pandas as pd
import xarray as xr

from microtome.store.tables import Table


def means(means: xr.Dataset) -> Table:
    """One row per hidden state: mean of each category, t and p of both tests, and corrections.

    In the text how many texts there are of each category.
    """
    labels, label = means.attrs["labels"], means["label"].values
    columns = {
        f"mean_{name}": means["mean"].values[:, label == number].mean(axis=1)
        for number, name in enumerate(labels)
    }
    for test in means["test"].values:
        chosen = means.sel(test=test)
        columns |= {f"t_{test}": chosen["t"].values, f"p_{test}": chosen["p"].values}
        for correction in means["correction"].values:
            found = chosen["significant"].sel(correction=correction).values
            columns[f"significant_{test}_{correction}"] = found
    frame = pd.DataFrame({"hidden": means["hidden"].values, **columns})
    counts = np.bincount(label)
    said = [
        f"{name}: {count} texts ({count / len(label):.1%})"
        for name, count in zip(labels, counts, strict=True)
    ]
    return Table(frame, "\n".join([*said, "", frame.to_string(index=False, float_format="%.4g")]))


def splits(splits: xr.Dataset) -> Table:
    """One row per run: accuracies with components of all texts, and of the training texts alone.

    In the text their means and what the components keep.
    """
    names = ["train", "test", "train_own", "test_own"]
    frame = splits[names].to_dataframe().reset_index()
    explained, n_texts = splits["explained"].values, splits.attrs["n_texts"]
    n = len(explained)
    text = [
        f"{n} components keep {explained.sum():.2%} of the variance; {n_texts} texts, "
        f"{n_texts / n:.1f} to a component",
        "",
        "mean accuracy (standard deviation over runs)",
        *(f"{name}: {frame[name].mean():.2%} ({frame[name].std():.2%})" for name in names),
        "",
        frame.to_string(index=False, float_format="%.3f"),
    ]
    return Table(frame, "\n".join(text))


def laminar_accuracy(laminar_accuracy: xr.Dataset) -> Table:
    """One row per hidden state: the accuracies, those of permuted labels, and p."""
    frame = laminar_accuracy.to_dataframe().reset_index()
    majority, n_texts = (laminar_accuracy.attrs[name] for name in ("majority", "n_texts"))
    text = [
        f"{n_texts} texts, {majority:.1%} of them of the larger category",
        "",
        frame.to_string(index=False, float_format="%.3f"),
    ]
    return Table(frame, "\n".join(text))


def improvement(improvement: xr.Dataset) -> Table:
    """One row: the line of test accuracy over the number of blocks."""
    numbers = {name: found.item() for name, found in improvement.items() if found.ndim == 0}
    share = 1 - improvement.attrs["alpha"]
    text = [
        f"accuracy = {numbers['const']:.3%} + {numbers['slope']:.3%} per block, R² "
        f"{numbers['r_squared']:.2f}",
        f"{share:.0%} interval of the slope: {numbers['low']:.3%} to {numbers['high']:.3%}",
        f"after Newey and West: {numbers['low_hac']:.3%} to {numbers['high_hac']:.3%} "
        f"(p {numbers['p_hac']:.3g})",
        f"mean difference of neighbours: {numbers['step']:.3%}",
    ]
    return Table(pd.DataFrame([numbers]), "\n".join(text))
