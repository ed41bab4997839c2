"""The outcome of an intervention: what is read of every case and of the clean run, as a dataset."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from microtome.interventions.cases import Branch, Cases
from microtome.interventions.declaration import COMPARED, SiteRead, Tokens
from microtome.options import layer_numbers
from microtome.sites import dimensions
from microtome.texts.tokens import token_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: In the place of a token id where no token follows.
NOTHING = -1

#: An index of an array that is filled.
Place = tuple[int | slice, ...]


class Rows:
    """The tokens of the changed texts at which something is read.

    Attributes:
        positions: of each text that a case changes, the positions of its tokens, (n,) each.
        size: how many rows there are; of a pair, where each is a case.
    """

    def __init__(self, cases: Cases, tokens: Tokens, name: str) -> None:
        """Find the rows.

        Args:
            cases: the cases.
            tokens: which tokens of a text.
            name: the rows' dimension.
        """
        self._name, self._paired = name, "pair" in cases.coordinates
        self._texts = [text for text, _ in cases.runs]
        self.positions = [text.positions(tokens) for text in self._texts]
        counts = [len(found) for found in self.positions]
        self._starts = np.zeros(len(counts), int) if self._paired else np.cumsum([0, *counts[:-1]])
        self.size = max(counts) if self._paired else sum(counts)

    def span(self, run: int) -> slice:
        """Where a text's rows lie along their dimension."""
        return slice(self._starts[run], self._starts[run] + len(self.positions[run]))

    def clean(self, run: int) -> Place:
        """Where a text's rows lie in an array of the clean run."""
        return (run, self.span(run)) if self._paired else (self.span(run),)

    @property
    def clean_sizes(self) -> dict[str, int]:
        """The dimensions of the clean run's rows, and their sizes."""
        return ({"pair": len(self._texts)} if self._paired else {}) | {self._name: self.size}

    def coordinates(self, columns: Mapping[str, np.ndarray], prefix: str) -> dict[str, Any]:
        """The columns of the token table at the rows, as coordinates.

        Args:
            columns: the token table's columns by name, (token,) each.
            prefix: what their names begin with.
        """
        found = zip(self._texts, self.positions, strict=True)
        rows = [text.rows[positions] for text, positions in found]
        index = np.stack(rows) if self._paired else np.concatenate(rows)
        return {
            f"{prefix}{name}": (tuple(self.clean_sizes), np.asarray(values)[index])
            for name, values in columns.items()
            if name != "row"
        }


class Outcome:
    """What is read, in arrays that are filled while the sweep goes on.

    Attributes:
        predicted: the rows at which predictions are read.
        read: the rows at which sites are read.
        read_layers: the layers at which sites are read, ascending.
    """

    def __init__(
        self,
        cases: Cases,
        sizes: Mapping[str, int],
        columns: Mapping[str, np.ndarray],
        tokenizer: "PreTrainedTokenizerBase | None",
        target_ids: Sequence[int] = (),
    ) -> None:
        """Make room for what the intervention reads.

        Args:
            cases: the cases.
            sizes: the model's dimensions.
            columns: the token table's columns by name, (token,) each.
            tokenizer: the model's own, where targets or the highest are read.
            target_ids: the token ids of the targets, unless they differ from token to token.
        """
        self._cases, self._columns, self._tokenizer = cases, columns, tokenizer
        self._asked = asked = cases.intervention.read
        self.predicted = Rows(cases, asked.tokens, "token")
        of_sites = next(iter(asked.sites.values()), SiteRead(Tokens(), (), ()))
        self.read = Rows(cases, of_sites.tokens, "read_token")
        self.read_layers = list(layer_numbers(of_sites.layers, sizes["n_layers"]))
        self._arrays: dict[str, np.ndarray] = {}
        self._dims: dict[str, tuple[str, ...]] = {}
        self._targets: dict[int, Tensor] = {}  # of each run, (token, target)
        self._clean: dict[int, Tensor] = {}  # the clean run's logits, (token, d_vocab)
        if target_ids:
            for run, positions in enumerate(self.predicted.positions):
                self._targets[run] = torch.tensor(target_ids).expand(len(positions), -1)
        if asked.targets == "next":
            for run, (text, _) in enumerate(cases.runs):
                following = np.append(text.ids[1:], NOTHING)[self.predicted.positions[run]]
                self._targets[run] = torch.from_numpy(following)[:, None].long()
        self._varying = dict(zip(cases.coordinates, cases.shape, strict=True))
        self._make_room(sizes)

    def _make_room(self, sizes: Mapping[str, int]) -> None:
        asked, n_runs = self._asked, len(self._cases.runs)
        paired = "pair" in self._varying
        clean, rows = self.predicted.clean_sizes, {"token": self.predicted.size}
        for name, of_one, dtype in self._read_of_each_token(sizes):
            self._array(name, self._varying | rows | of_one, dtype)
            if name not in COMPARED:
                self._array(f"clean_{name}", clean | of_one, dtype)
        if asked.targets == "clean":
            self._array("target_id", clean, np.int32)
        if asked.loss:
            runs = {"pair" if paired else "stimulus": n_runs}
            self._array("loss", self._varying | runs)
            self._array("clean_loss", runs)
        rows = {"read_layer": len(self.read_layers), "read_token": self.read.size}
        for site, of_site in asked.sites.items():
            width = {name: sizes[name] for name in dimensions(site, sizes)}
            if "values" in of_site.kept:
                self._array(site, self._varying | rows | width)
                self._array(f"clean_{site}", ({"pair": n_runs} if paired else {}) | rows | width)
            # Where a change cannot reach, these are those of the clean run.
            if "difference" in of_site.kept:
                self._array(f"{site}_difference", self._varying | rows)
            if "cosine" in of_site.kept:
                self._array(f"{site}_cosine", self._varying | rows).fill(1.0)

    def _read_of_each_token(
        self, sizes: Mapping[str, int]
    ) -> Iterator[tuple[str, dict[str, int], type]]:
        """What is read of a prediction: its name, the dimensions at one token, and its dtype."""
        asked = self._asked
        for name in asked.predictions:
            if name in COMPARED or isinstance(asked.targets, str):
                yield name, {}, np.float32
            elif asked.targets:
                yield name, {"target": len(asked.targets)}, np.float32
            elif not asked.top:
                yield name, {"d_vocab": sizes["d_vocab"]}, np.float32
            if asked.top and name not in COMPARED:
                yield f"top_{name}", {"rank": asked.top}, np.float32
        if asked.top:
            yield "top_token_id", {"rank": asked.top}, np.int32

    def _array(self, name: str, sizes: Mapping[str, int], dtype: type = np.float32) -> np.ndarray:
        self._dims[name] = tuple(sizes)
        self._arrays[name] = np.zeros(list(sizes.values()), dtype)
        return self._arrays[name]

    def take_clean_site(self, site: str, layer: int, run: int, values: Tensor) -> None:
        """Take what a site holds of a text in the clean run, (token, …)."""
        if "values" in self._asked.sites[site].kept:
            place = self.read_layers.index(layer)
            kept = _numpy(values)
            *pair, span = self.read.clean(run)
            self._arrays[f"clean_{site}"][(*pair, place, span)] = kept
            # Of every case; those that reach this far take their own values' place.
            cases = (run if name == "pair" else slice(None) for name in self._varying)
            self._arrays[site][(*cases, place, self.read.span(run))] = kept

    def take_site(
        self, site: str, layer: int, branch: Branch, values: Tensor, clean: Tensor
    ) -> None:
        """Take what a site holds of a branch, and of its text in the clean run, (token, …)."""
        kept = self._asked.sites[site].kept
        place: Place = (*branch.index, self.read_layers.index(layer), self.read.span(branch.run))
        if "values" in kept:
            self._arrays[site][place] = _numpy(values)
        values, clean = values.flatten(1).float(), clean.flatten(1).float()
        if "difference" in kept:
            self._arrays[f"{site}_difference"][place] = _numpy((values - clean).norm(dim=-1))
        if "cosine" in kept:
            cosine = torch.nn.functional.cosine_similarity(values, clean, dim=-1)
            self._arrays[f"{site}_cosine"][place] = _numpy(cosine)

    def take_clean_prediction(self, run: int, logits: Tensor) -> None:
        """Take the logits of a text in the clean run, (token, d_vocab)."""
        place = self.predicted.clean(run)
        if self._asked.targets == "clean":
            self._targets[run] = logits.argmax(dim=-1, keepdim=True)
            self._arrays["target_id"][place] = _numpy(self._targets[run][:, 0])
        for name, values in self._of_prediction(run, logits).items():
            self._arrays[f"clean_{name}"][place] = values
        if any(name in COMPARED for name in self._asked.predictions):
            self._clean[run] = logits.clone()

    def take_prediction(self, branch: Branch, logits: Tensor) -> None:
        """Take the logits of a branch, (token, d_vocab)."""
        place: Place = (*branch.index, self.predicted.span(branch.run))
        for name, values in self._of_prediction(branch.run, logits).items():
            self._arrays[name][place] = values
        if "kl" in self._asked.predictions:
            # In float32, the smallest divergences would be rounding alone.
            clean, changed = (
                each.double().log_softmax(dim=-1) for each in (self._clean[branch.run], logits)
            )
            kl = (clean.exp() * (clean - changed)).sum(dim=-1)
            self._arrays["kl"][place] = _numpy(kl)
        if "logits_difference" in self._asked.predictions:
            difference = (logits - self._clean[branch.run]).norm(dim=-1)
            self._arrays["logits_difference"][place] = _numpy(difference)

    def _of_prediction(self, run: int, logits: Tensor) -> dict[str, np.ndarray]:
        asked, found = self._asked, {}
        given = {"logits": logits}
        if "log_probabilities" in asked.predictions:
            given["log_probabilities"] = logits.log_softmax(dim=-1)
        highest = logits.topk(asked.top, dim=-1).indices if asked.top else None
        for name in asked.predictions:
            if name in COMPARED:
                continue
            values = given[name]
            if asked.targets:
                targets = self._targets[run].to(values.device)
                chosen = values.gather(-1, targets.clamp(min=0))
                chosen = chosen.where(targets != NOTHING, torch.nan)
                found[name] = _numpy(chosen[:, 0] if isinstance(asked.targets, str) else chosen)
            elif highest is None:
                found[name] = _numpy(values)
            if highest is not None:
                found[f"top_{name}"] = _numpy(values.gather(-1, highest))
        if highest is not None:
            found["top_token_id"] = _numpy(highest)
        return found

    def take_loss(self, branch: Branch, loss: float) -> None:
        """Take the loss of a branch."""
        paired = "pair" in self._varying
        self._arrays["loss"][branch.index if paired else (*branch.index, branch.run)] = loss

    def take_clean_loss(self, run: int, loss: float) -> None:
        """Take the loss of a text in the clean run."""
        self._arrays["clean_loss"][run] = loss

    def dataset(self) -> xr.Dataset:
        """All that was taken, labelled as docs/interventions.md says."""
        coordinates: dict[str, Any] = {
            name: (name, np.array(list(values))) for name, values in self._cases.coordinates.items()
        }
        if "position" in coordinates:
            coordinates |= self._positions()
        if "pair" in coordinates:
            pairs = np.array(self._cases.intervention.change.pairs)
            coordinates |= {"receiver": ("pair", pairs[:, 0]), "giver": ("pair", pairs[:, 1])}
        if self._asked.predictions:
            of_tokens = self.predicted.coordinates(self._columns, "")
            # Beside the dimension of that name, the column has another one.
            if "position" in coordinates and "position" in of_tokens:
                of_tokens["token_position"] = of_tokens.pop("position")
            coordinates |= of_tokens
        if self._asked.sites:
            coordinates["read_layer"] = ("read_layer", np.array(self.read_layers))
            coordinates |= self.read.coordinates(self._columns, "read_")
        if self._asked.loss and "pair" not in coordinates:
            numbers = [text.number for text, _ in self._cases.runs]
            coordinates["stimulus"] = ("stimulus", np.array(numbers))
        if self._asked.top:
            coordinates["rank"] = ("rank", np.arange(1, self._asked.top + 1))
        if isinstance(self._asked.targets, tuple) and self._asked.targets:
            coordinates["target"] = ("target", np.array(self._asked.targets, dtype=object))
        variables = {name: (self._dims[name], values) for name, values in self._arrays.items()}
        # Not a set: its order, and so the file's bytes, would differ from run to run.
        for name in ("top_token_id", "clean_top_token_id", "target_id"):
            if name not in variables:
                continue
            dims, ids = variables[name]
            text = name.replace("token_id", "text").replace("target_id", "target_text")
            variables[text] = (dims, self._texts(ids))
        for name in ("target_id", "target_text"):
            if name in variables:
                coordinates[name] = variables.pop(name)
        return xr.Dataset(variables, coordinates)

    def _positions(self) -> dict[str, Any]:
        """The positions that are cases, and, of a single text, the tokens there."""
        chosen = [self._cases.chosen(text) for text, _ in self._cases.runs]
        found: dict[str, Any] = {}
        if all(np.array_equal(chosen[0], other) for other in chosen):
            found["position"] = ("position", chosen[0])
        if len(self._cases.runs) == 1 and "text" in self._columns:
            rows = self._cases.runs[0][0].rows[chosen[0]]
            found["position_text"] = ("position", np.asarray(self._columns["text"])[rows])
        return found

    def _texts(self, ids: np.ndarray) -> np.ndarray:
        """Token ids as texts."""
        assert self._tokenizer is not None  # it is given where texts are asked for
        known, which = np.unique(ids, return_inverse=True)
        texts = np.array([token_text(self._tokenizer, int(i)) for i in known], dtype=object)
        return texts[which].reshape(ids.shape)


def _numpy(values: Tensor) -> np.ndarray:
    values = values.float() if values.is_floating_point() else values
    return values.cpu().numpy()
