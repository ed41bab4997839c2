"""Statistics of the study on sentiment; see README.md."""

from typing import Annotated, Any

import numpy as np
import xarray as xr
from scipy import stats
from statsmodels.stats.multitest import multipletests

from microtome.options import CATEGORIES, POSITIONS, Alpha, Count, LabelPair, Position, Seed
from microtome.statistics import classification, regression
from microtome.statistics.distributions import is_constant
from microtome.statistics.layers import stack_hidden_states
from microtome.statistics.positions import at_position
from microtome.texts.rows import sequences, token_columns

#: How the tests of several hidden states are corrected: for any false positive, for their share.
CORRECTIONS = {"holm": "holm", "benjamini_hochberg": "fdr_bh"}


def batches(tokens: xr.Dataset, *, batch_size: Count) -> xr.Dataset:
    """How many texts there are in a batch, and how many tokens each is padded to.

    Returns:
        `n_texts` and `n_tokens`, the length of the longest text, (`batch`,).
    """
    lengths = [len(ids) for ids in sequences(token_columns(tokens))]
    parts = [lengths[i : i + batch_size] for i in range(0, len(lengths), batch_size)]
    return xr.Dataset(
        {
            "n_texts": ("batch", [len(part) for part in parts]),
            "n_tokens": ("batch", [max(part) for part in parts]),
        }
    )


def means(
    resid_pre: Annotated[xr.DataArray, CATEGORIES, POSITIONS],
    ln_final: xr.DataArray,
    *,
    token: Position,
    labels: LabelPair,
    alpha: Alpha,
) -> xr.Dataset:
    """The mean activation of one token of each text in every hidden state, compared between labels.

    Returns:
        `mean` over d_model, (`hidden`, `sequence`), with `label` (0, 1); `t` and `p`, (`test`,
        `hidden`), of the first category minus the second: of Student's test with pooled variance,
        as in the notebook, and of Welch's; `significant`, (`test`, `correction`, `hidden`), over
        the hidden states. Where the means do not vary, t and p are NaN. Attributes: `labels`.
    """
    states = _states(resid_pre, ln_final, token, labels)
    mean, label = states.mean("d_model"), states["label"].values
    samples = [mean.values[:, label == number] for number in (0, 1)]
    # The mean that leaves a norm without learned weights is 0, but for float32's rounding: 1e-7 of
    # the activations, a thousand times what `is_constant` takes for it.
    scale = 1e3 * np.abs(states.values).max(axis=(1, 2))
    undefined = is_constant(mean.values, 1, scale)
    varying = [np.where(undefined[:, None], np.nan, sample) for sample in samples]
    tests = [stats.ttest_ind(*varying, axis=1, equal_var=equal) for equal in (True, False)]
    p = np.stack([test.pvalue for test in tests])
    significant = np.zeros((2, len(CORRECTIONS), len(mean)), np.int8)
    for test, values in enumerate(p):
        for number, method in enumerate(CORRECTIONS.values()):
            found = multipletests(values[~undefined], alpha, method)[0] if any(~undefined) else []
            significant[test, number, ~undefined] = found
    return xr.Dataset(
        {
            "mean": mean,
            "t": (("test", "hidden"), np.stack([test.statistic for test in tests])),
            "p": (("test", "hidden"), p),
            "significant": (("test", "correction", "hidden"), significant),
        },
        {"test": ["student", "welch"], "correction": list(CORRECTIONS)},
        {"labels": list(labels), "alpha": alpha},
    )


def splits(
    ln_final: Annotated[xr.DataArray, CATEGORIES, POSITIONS],
    *,
    token: Position,
    labels: LabelPair,
    n_runs: Count,
    seed: Seed,
) -> xr.Dataset:
    """How well trees tell the labels apart in the last hidden state, for random splits.

    Returns:
        Accuracies (`run`,): `train` and `test` with components of all texts, as in the notebook,
        and `train_own` and `test_own` with those of the training texts alone. Of the components of
        all texts, (`component`,): `explained`, the share of variance, and `importance` in the last
        run's tree. That tree, (`node`,): `left` and `right`, the next nodes, -1 at leaves;
        `feature`, the component, and `threshold`, below which it goes left; `impurity` (Gini); and
        `n`, (`node`, `label`), the training texts. Attributes: `labels`.
    """
    states = classification.of_categories(at_position(ln_final, token), labels)
    rows, label = states.values, states["label"].values
    (reduced,), explained = classification.components(rows)
    found = []
    for run, (train, test) in enumerate(classification.random_splits(label, n_runs, seed)):
        grown = classification.tree(reduced[train], label[train], seed + run)
        parts = ((reduced[part], label[part]) for part in (train, test))
        found.append([classification.accuracy(grown, *part) for part in parts])
    accuracies = np.hstack([found, classification.split_accuracy(rows, label, n_runs, seed)])
    nodes = grown.tree_
    names = ("train", "test", "train_own", "test_own")
    return xr.Dataset(
        {name: ("run", column) for name, column in zip(names, accuracies.T, strict=True)}
        | {
            "explained": ("component", explained),
            "importance": ("component", grown.feature_importances_),
            "left": ("node", nodes.children_left),
            "right": ("node", nodes.children_right),
            "feature": ("node", nodes.feature),
            "threshold": ("node", nodes.threshold),
            "impurity": ("node", nodes.impurity),
            "n": (("node", "label"), _counts(nodes)),
        },
        {"label": list(labels)},
        {"n_texts": len(label)},
    )


def laminar_accuracy(
    resid_pre: Annotated[xr.DataArray, CATEGORIES, POSITIONS],
    ln_final: xr.DataArray,
    *,
    token: Position,
    labels: LabelPair,
    n_repetitions: Count,
    n_folds: Count,
    n_permutations: Count,
    seed: Seed,
) -> xr.Dataset:
    """How well trees tell the labels apart in every hidden state.

    Returns:
        (`hidden`,): `train` and `test`, means over random splits, with components of the training
        texts; `cross_validated`, every text left out once; of labels that were permuted,
        `null_mean` and `null_high`, the mean and the 95th percentile of the same; `p`, the share of
        permutations, the true labels among them, that do as well, and `p_corrected`, the share in
        which the best hidden state does. Attribute `majority`: the share of the larger category.
    """
    states = _states(resid_pre, ln_final, token, labels)
    label = states["label"].values
    repeated = [
        classification.split_accuracy(rows, label, n_repetitions, seed).mean(axis=0)
        for rows in states.values
    ]
    train, test = np.transpose(repeated)
    folds = {"n_folds": n_folds, "n_permutations": n_permutations, "seed": seed}
    true, null = classification.cross_validated(states.values, label, **folds)
    reached = (null >= true[:, None]).sum(axis=1)
    best_reached = (null.max(axis=0) >= true[:, None]).sum(axis=1)
    columns = {
        "train": train,
        "test": test,
        "cross_validated": true,
        "null_mean": null.mean(axis=1),
        "null_high": np.quantile(null, 0.95, axis=1),
        "p": (1 + reached) / (1 + n_permutations),
        "p_corrected": (1 + best_reached) / (1 + n_permutations),
    }
    return xr.Dataset(
        {name: ("hidden", values) for name, values in columns.items()},
        {"hidden": states["hidden"]},
        {"majority": max(label.mean(), 1 - label.mean()), "n_texts": len(label)},
    )


def improvement(laminar_accuracy: xr.Dataset, *, alpha: Alpha) -> xr.Dataset:
    """The line of accuracy over the number of blocks, from the first block on.

    Returns:
        `accuracy` and `fit`, (`n_blocks`,); `const` and `slope`, `r_squared`, the slope's intervals
        `low`, `high` and, after Newey and West, `low_hac`, `high_hac`, with `p_hac`; `step`, the
        mean difference between neighbours, as the notebook prints it. Attribute `alpha`.
    """
    accuracy = laminar_accuracy["test"].values[1:]
    n_blocks = np.arange(1, len(accuracy) + 1)
    found = regression.line(n_blocks, accuracy, alpha)
    fit = found["const"] + found["slope"] * n_blocks
    step = (accuracy[-1] - accuracy[0]) / max(len(accuracy) - 1, 1)
    return xr.Dataset(
        {"accuracy": ("n_blocks", accuracy), "fit": ("n_blocks", fit), **found, "step": step},
        {"n_blocks": n_blocks},
        {"alpha": alpha},
    )


def _states(
    resid_pre: xr.DataArray, ln_final: xr.DataArray, token: int, labels: LabelPair
) -> xr.DataArray:
    """One token of each text of two categories in all hidden states."""
    stacked = stack_hidden_states(at_position(resid_pre, token), at_position(ln_final, token))
    return classification.of_categories(stacked, labels)


def _counts(nodes: Any) -> np.ndarray:
    """Training texts of each label at a tree's nodes, (node, label)."""
    return np.rint(nodes.value[:, 0, :] * nodes.n_node_samples[:, None]).astype(int)
