"""Classification: decision trees on principal components, judged on texts that were left out.

Source: Mike X Cohen, "50 ML projects to understand LLMs", project 30, parts 4 and 6.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr
from sklearn.decomposition import PCA
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.tree import DecisionTreeClassifier

from microtome.errors import MicrotomeError, nearest
from microtome.statistics.distributions import is_constant

#: The share of the texts that a split leaves out, the share of variance that the components keep,
#: and the depth of the trees, as in the notebook.
TEST_SHARE, VARIANCE, DEPTH = 0.2, 0.8, 4
#: The fewest texts of a category, so that a split leaves one of them out.
FEWEST = 5


def of_categories(states: xr.DataArray, labels: Sequence[str]) -> xr.DataArray:
    """Keep the texts of two categories.

    Args:
        states: one token of each text, (…, `sequence`, `d_model`), with `category`.
        labels: the two categories.

    Returns:
        The same in float64, with `label` along `sequence`: 0 for the first, 1 for the second.

    Raises:
        MicrotomeError: an unknown category, or one of so few texts that none could be left out.
    """
    category = states["category"].values.astype(str)
    for label in labels:
        count = int((category == label).sum())
        if not count:
            known = list(dict.fromkeys(category))
            raise MicrotomeError(f"labels: no category {label!r}; {nearest(label, known)}")
        if count < FEWEST:
            raise MicrotomeError(
                f"labels: {label!r} has {count} texts, {FEWEST} are the fewest; add some to the "
                "stimulus file"
            )
    kept = states.isel(sequence=np.flatnonzero(np.isin(category, labels))).astype(np.float64)
    label = (kept["category"].values == labels[1]).astype(np.int8)
    return kept.assign_coords(label=("sequence", label))


def components(fitted: np.ndarray, *others: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Principal components that keep `VARIANCE` of the variance of some rows.

    Args:
        fitted: the rows, (row, column).
        others: rows that are projected on the same components.

    Returns:
        All of them on the components, (row, component), and each component's share of the variance.
        Where the rows are all equal, there is one component, which is 0.
    """
    if is_constant(fitted, 0).all():
        return [np.zeros((len(rows), 1)) for rows in (fitted, *others)], np.zeros(1)
    pca = PCA(n_components=VARIANCE, svd_solver="full").fit(fitted)
    return [pca.transform(rows) for rows in (fitted, *others)], pca.explained_variance_ratio_


def tree(rows: np.ndarray, label: np.ndarray, seed: int) -> DecisionTreeClassifier:
    """A decision tree of at most `DEPTH` levels; the seed chooses among splits equally good."""
    return DecisionTreeClassifier(max_depth=DEPTH, random_state=seed).fit(rows, label)


def accuracy(fitted: DecisionTreeClassifier, rows: np.ndarray, label: np.ndarray) -> float:
    """The share of rows whose label is predicted."""
    return float((fitted.predict(rows) == label).mean())


def random_splits(label: np.ndarray, n: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Training and test rows of n random splits with equal shares of both labels.

    Args:
        label: (row,).
        n: how many.
        seed: of the first split; the others have the numbers after it.
    """
    rows = np.arange(len(label))
    for number in range(n):
        yield tuple(
            train_test_split(rows, test_size=TEST_SHARE, stratify=label, random_state=seed + number)
        )


def split_accuracy(rows: np.ndarray, label: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Accuracies of random splits, with components of the training rows alone.

    Args:
        rows: (row, column).
        label: (row,).
        n: how many splits.
        seed: as in `random_splits`.

    Returns:
        (split, 2), of the training rows and of those left out.
    """
    found = []
    for number, (train, test) in enumerate(random_splits(label, n, seed)):
        (fitted, left_out), _ = components(rows[train], rows[test])
        grown = tree(fitted, label[train], seed + number)
        found.append(
            [accuracy(grown, fitted, label[train]), accuracy(grown, left_out, label[test])]
        )
    return np.array(found)


def cross_validated(
    states: np.ndarray, label: np.ndarray, *, n_folds: int, n_permutations: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cross-validated accuracy, and what it is with labels that mean nothing.

    Each text is left out once; components and tree are those of the others. The labels are permuted
    within each fold, in the same way for all states, so that folds keep their shares of both and
    the accuracies of a permutation can be compared across states.

    Args:
        states: (state, row, column).
        label: (row,).
        n_folds: how many parts the rows are divided into.
        n_permutations: how often the labels are permuted.
        seed: of folds, trees and permutations.

    Returns:
        The accuracies, (state,), and those of permuted labels, (state, permutation).

    Raises:
        MicrotomeError: fewer than two folds, or more than a label has rows.
    """
    most = int(np.bincount(label).min())
    if not 2 <= n_folds <= most:
        raise MicrotomeError(f"n_folds: wants 2 to {most}, the texts of the smaller category")
    folds = list(
        StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(np.zeros(len(label)), label)
    )
    random = np.random.default_rng(seed)
    orders = np.tile(np.arange(len(label)), (1 + n_permutations, 1))
    for order in orders[1:]:
        for _, test in folds:
            order[test] = random.permutation(test)
    right = np.zeros((len(states), 1 + n_permutations))
    for state, rows in enumerate(states):
        for train, test in folds:
            (fitted, left_out), _ = components(rows[train], rows[test])
            for number, order in enumerate(orders):
                grown = tree(fitted, label[order[train]], seed)
                right[state, number] += (grown.predict(left_out) == label[order[test]]).sum()
    found = right / len(label)
    return found[:, 0], found[:, 1:]
