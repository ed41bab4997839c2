"""What becomes of the values that an intervention chooses.

A change is a function of the chosen values of one text, (token, head, neuron) where the site has
heads and (token, neuron) elsewhere, and of the case; it returns values of the same shape. Beside
these, some read values of the clean run.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from microtome.errors import MicrotomeError
from microtome.interventions.cases import Branch, Case, Cases, Text, of_layer
from microtome.interventions.declaration import Change, Vector
from microtome.sites import SITES, dimensions

#: The axis of the chosen values that each name means; heads where there are some.
_AXES = {"tokens": 0, "heads": 1, "neurons": -1}

#: The values of each text at the changed site and layer in the clean run, (token, …), by its
#: number.
CleanValues = Mapping[int, Tensor]


class Changes:
    """The changes of all cases of an intervention."""

    def __init__(self, cases: Cases) -> None:
        """Take the cases."""
        self._cases = cases
        self._change = cases.intervention.change

    @property
    def clean_texts(self) -> set[int]:
        """The numbers of the texts whose values in the clean run are wanted."""
        change = self._change
        if change.kind == "patch":
            return {giver for _, giver in change.pairs}
        if "texts" in change.over:
            return {text.number for text in self._cases.texts}
        return set(change.vector.texts) if isinstance(change.vector, Vector) else set()

    def apply(self, values: Tensor, branch: Branch, layer: int, clean: CleanValues) -> int:
        """Change what a case chooses of the values of its text, in place.

        Args:
            values: at the site, (token, head, neuron) or (token, neuron).
            branch: the text as the case changes it.
            layer: the layer.
            clean: of the texts in `clean_texts`.

        Returns:
            The position of the first token that is changed, or the text's length.

        Raises:
            MicrotomeError: a change that does not fit the values, or returns another shape.
        """
        case = branch.at(layer)
        where = self._where(values, case, self._cases.chosen(branch.text, case.position))
        chosen = values[where]
        if not chosen.numel():
            return len(values)
        found = self._changed(chosen, branch, case, clean)
        if not isinstance(found, Tensor) or found.shape != chosen.shape:
            what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise MicrotomeError(
                f"the change returns {what} for values of {tuple(chosen.shape)}; return a tensor "
                "with one for each"
            )
        values[where] = found.to(values.dtype)
        return int(where[0].flatten()[0])

    def _where(
        self, values: Tensor, case: Case, positions: np.ndarray | None = None
    ) -> tuple[Tensor, ...]:
        """The chosen places, as an index for each axis of the values that spans them all.

        Args:
            values: at the site, of a text; or without tokens, if there are no positions.
            case: the case.
            positions: of the chosen tokens.
        """
        axes = [self._cases.neurons(case)]
        if len(SITES[self._cases.intervention.site]) == 2:
            axes.insert(0, self._cases.heads(case))
        if positions is not None:
            axes.insert(0, positions)
        chosen = [
            np.arange(size) if axis is None else axis
            for axis, size in zip(axes, values.shape, strict=True)
        ]
        return tuple(torch.from_numpy(axis).to(values.device) for axis in np.ix_(*chosen))

    def _changed(self, values: Tensor, branch: Branch, case: Case, clean: CleanValues) -> Tensor:
        change = self._change
        match change.kind:
            case "zero":
                return torch.zeros_like(values)
            case "scale":
                return case.amount * values
            case "add":
                return values + case.amount * self._vector(values, case, clean)
            case "noise":
                return _noisy(values, case, change)
            case "patch":
                return self._patched(branch, case, clean)
            case "mean" | "median":
                return self._averaged(values, case, clean)
            case "permute":
                return _permuted(values, case, change)
            case "project":
                return _projected(values, case, change)
            case _:
                assert callable(change.function)  # a name has been looked up by now
                return change.function(values, case)

    def _of_text(self, text: Text, case: Case, clean: CleanValues) -> Tensor:
        """What the case would choose of another text, in the clean run."""
        values = clean[text.number]
        return values[self._where(values, case, self._cases.chosen(text, case.position))]

    def _vector(self, values: Tensor, case: Case, clean: CleanValues) -> Tensor | float:
        """What is added, as one value for all tokens or as one for each place in a token."""
        vector = self._change.vector
        if vector is None:
            return 1.0
        if isinstance(vector, Vector):
            means = [
                clean[number][self._cases.texts[number].positions(vector.tokens)].mean(dim=0)
                for number in vector.texts
            ]
            whole = means[0] - means[1]
        else:
            site = self._cases.intervention.site
            ordered = of_layer(vector, case.layer).transpose(*dimensions(site, self._cases.sizes))
            whole = torch.from_numpy(np.ascontiguousarray(ordered.values))
        whole = whole.to(values.device, values.dtype)
        return whole[self._where(whole, case)]

    def _patched(self, branch: Branch, case: Case, clean: CleanValues) -> Tensor:
        """The values of the giving text, token by token."""
        change, giver = self._change, branch.giver
        assert giver is not None  # a patch has one
        theirs, mine = len(giver.ids), len(branch.text.ids)
        positions = self._cases.chosen(branch.text, case.position)
        if change.position is not None:
            positions = np.full(len(positions), change.position % theirs)
        elif change.align == "end":
            positions = positions - mine + theirs
        values = clean[giver.number]
        return values[self._where(values, case, positions)]

    def _averaged(self, values: Tensor, case: Case, clean: CleanValues) -> Tensor:
        """Their mean or median along some axes; of the largest alone, if it is asked."""
        change = self._change
        axes = [_AXES[axis] % values.ndim for axis in change.over if axis != "texts"]
        among = values
        if "texts" in change.over:
            others = [self._of_text(text, case, clean) for text in self._cases.texts]
            if 0 in axes:  # of all tokens of all texts
                among = torch.cat(others)
            else:
                among, axes = torch.stack(others), [0, *(axis + 1 for axis in axes)]
        middle = _middle(change.kind, among, axes)
        if middle.ndim > values.ndim:
            middle = middle.squeeze(0)
        changed = middle.expand_as(values)
        if case.amount == 1.0:
            return changed
        flat, back = _flattened(values, axes)
        highest = flat.abs() if change.by == "magnitude" else flat
        # A share such as 0.58 of 50 would be 28.999….
        n = int(case.amount * flat.shape[-1] + 1e-9)
        which = highest.sort(dim=-1, descending=True, stable=True).indices[..., :n]
        replaced, _ = _flattened(changed, axes)
        return back(flat.scatter(-1, which, replaced.gather(-1, which)))


def _middle(kind: str, values: Tensor, axes: list[int]) -> Tensor:
    """The mean or median along some axes, which stay as axes of one value."""
    if kind == "mean":
        return values.mean(dim=axes, keepdim=True)
    flat, _ = _flattened(values, axes)
    shape = [1 if axis in axes else size for axis, size in enumerate(values.shape)]
    return flat.median(dim=-1).values.reshape(shape)


def _flattened(values: Tensor, axes: list[int]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Values with some axes joined as the last one, in the values' order; and the way back."""
    axes = sorted(axes)
    order = [axis for axis in range(values.ndim) if axis not in axes] + axes
    moved = values.permute(order)
    back = [order.index(axis) for axis in range(values.ndim)]
    return (
        moved.flatten(values.ndim - len(axes)),
        lambda flat: flat.reshape(moved.shape).permute(back),
    )


def _noisy(values: Tensor, case: Case, change: Change) -> Tensor:
    if change.of_sd and values.numel() == 1:
        raise MicrotomeError(
            "change.of: one value has no standard deviation; choose more of them, or leave `of` out"
        )
    drawn = case.rng.standard_normal(tuple(values.shape), dtype=np.float32)
    sd = case.amount * (values.std() if change.of_sd else 1.0)
    return values + sd * torch.from_numpy(drawn).to(values.device, values.dtype)


def _permuted(values: Tensor, case: Case, change: Change) -> Tensor:
    flat, back = _flattened(values, [_AXES[axis] % values.ndim for axis in change.over])
    order = torch.from_numpy(case.rng.permutation(flat.shape[-1]))
    return back(flat[..., order.to(values.device)])


def _projected(values: Tensor, case: Case, change: Change) -> Tensor:
    """The values as their leading principal components give them, (token, …)."""
    matrix = values.flatten(1).float()
    means = torch.zeros_like(matrix)
    if "tokens" in change.centered:
        means = means + matrix.mean(dim=0, keepdim=True)
    if "neurons" in change.centered:
        means = means + matrix.mean(dim=1, keepdim=True)
    if len(change.centered) == 2:
        means = means - matrix.mean()
    left, singular, right = torch.linalg.svd(matrix - means, full_matrices=False)
    n = int(case.amount)
    if change.by == "variance":
        shares = singular.double().square().cumsum(0) / singular.double().square().sum()
        # Rounded, or the share of all components may be less than 1.
        n = int((shares < case.amount - 1e-12).sum()) + 1
    projected = (left[:, :n] * singular[:n]) @ right[:n] + means
    return projected.reshape(values.shape)
