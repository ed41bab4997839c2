"""Interventions the slow way: a full forward of the Hugging Face model for each case and text.

Written after docs/interventions.md, to hold the sweep's outcome beside. A declaration is read here
as it is written there. Values of a text are numpy arrays (token, head, neuron) in float32; a site
without heads has one. `hooked.places` says by hand where a site lies.
"""

from itertools import product
from types import SimpleNamespace

import numpy as np
import torch
import xarray as xr
from hooked import at, places

from microtome.sites import SITES

#: The axes of values; several texts are stacked before them.
AXES = {"texts": -4, "tokens": -3, "heads": -2, "neurons": -1}


# The model


class Hooked:
    """A model whose sites can be read and changed."""

    def __init__(self, model, name):
        self.model, self.places = model, places(model, name)
        self.n_layers = model.config.num_hidden_layers
        n_heads = model.config.num_attention_heads
        n_kv_heads = getattr(model.config, "num_key_value_heads", None) or n_heads
        self.heads = {"n_heads": n_heads, "n_kv_heads": n_kv_heads}

    def n_heads(self, site):
        return self.heads.get(SITES[site][0], 1)

    def forward(self, ids, reads=(), changes=None):
        """Run a text.

        Args:
            ids: its token ids.
            reads: sites that are read, in all layers.
            changes: by (layer, site), a function that makes new values of the values there.

        Returns:
            The logits, (token, d_vocab), and by (layer, site) the values read.
        """
        seen, handles = {}, []

        def values_in(tensor, site):
            values = tensor[0].clone().numpy()
            return values.reshape(len(values), self.n_heads(site), -1)

        def hook(key, change=None):
            def read(tensor):
                seen[key] = values_in(tensor, key[1])

            def write(tensor):
                new = change(values_in(tensor, key[1]))
                tensor.copy_(torch.from_numpy(new).reshape(tensor.shape))

            handles.append(at(self.places[key], write if change else read))

        for key, change in (changes or {}).items():  # first, so that what is read is changed
            hook(key, change)
        for key in product(range(self.n_layers), reads):
            hook(key)
        try:
            with torch.no_grad():
                output = self.model(torch.as_tensor(ids)[None], use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return output.logits[0].numpy(), seen


# Texts and tokens


def split(columns):
    """The texts of a token table."""
    columns = {name: np.asarray(column) for name, column in columns.items()}
    texts = []
    for number in range(max(columns["sequence"]) + 1):
        own = {name: column[columns["sequence"] == number] for name, column in columns.items()}
        texts.append(SimpleNamespace(number=number, ids=own["token_id"], columns=own))
    return texts


def positions(tokens, text):
    """The positions in a text that `tokens` names."""
    everything = range(len(text.ids))
    match tokens:
        case {"from": start}:
            first = positions([start] if isinstance(start, int) else start, text)[0]
            return list(everything[first:])
        case "all":
            return list(everything)
        case "last":
            return [everything[-1]]
        case "word" | "mask":
            marked = text.columns[{"word": "in_word", "mask": "masked"}[tokens]]
            return [position for position in everything if marked[position]]
    return sorted(everything[position] for position in tokens)


# What becomes of the chosen values


def along(function, values, axes):
    """Apply a function to each vector that lies along some axes, several of them as one."""
    last = [-len(axes) + i for i in range(len(axes))]
    axes = sorted(AXES[axis] for axis in axes)
    moved = np.moveaxis(values, axes, last)
    vectors = moved.reshape(*moved.shape[: -len(axes)], -1)
    made = np.apply_along_axis(function, -1, vectors)
    return np.moveaxis(made.reshape(moved.shape), last, axes)


def as_list(value):
    return [value] if isinstance(value, str) else list(value)


def mean(vector):
    return vector.mean()


def median(vector):
    """The number in the middle; the lower one of two."""
    return np.sort(vector)[(len(vector) - 1) // 2]


def middle_for(vector, middle, share, by):
    """A vector whose numbers, or the largest share of them, become the mean or median of all."""
    size = abs(vector) if by == "magnitude" else vector
    n = int(share * len(vector) + 1e-9)
    new = vector.copy()
    new[np.argsort(-size, kind="stable")[:n]] = middle(vector)
    return new


def leading_components(values, n_components, share, centered):
    """A text's values on their leading principal components."""
    matrix = values.reshape(len(values), -1).astype(np.float64)
    rest = matrix
    for axis in centered:
        rest = rest - rest.mean(axis=("tokens", "neurons").index(axis), keepdims=True)
    u, s, v = np.linalg.svd(rest, full_matrices=False)
    if share is not None:
        n_components = 1 + np.argmax(np.cumsum(s**2) >= share * np.sum(s**2))
    s[n_components:] = 0
    return ((u * s) @ v + matrix - rest).reshape(values.shape)


def replaced(values, change, case, *, of_texts, given, vector):
    """What becomes of the chosen values of one text at one layer.

    Args:
        values: (token, head, neuron).
        change: the declaration's `change`.
        case: its `amount` and `rng`.
        of_texts: returns the values chosen in each text of the clean run.
        given: returns the values of the giving text that they are patched from.
        vector: returns what is added `amount` times.
    """
    amount, rng = case.amount, case.rng
    match change:
        case {"zero": _}:
            return np.zeros_like(values)
        case {"scale": _}:
            return amount * values
        case {"add": _}:
            return values + amount * vector()
        case {"noise": _}:
            sd = values.std(ddof=1) if change.get("of") == "sd" else 1
            return values + amount * sd * rng.standard_normal(values.shape, dtype=np.float32)
        case {"patch": _}:
            return given()
        case {"mean": axes} | {"median": axes}:
            middle = mean if "mean" in change else median
            share, by = amount if "largest" in change else 1, change.get("by", "value")
            everything = values[None]
            if "texts" in axes and "tokens" in axes:  # the texts as one
                everything = np.concatenate(of_texts())[None]
            elif "texts" in axes:
                everything = np.stack(of_texts())
            new = along(lambda v: middle_for(v, middle, share, by), everything, as_list(axes))
            return new[0, : len(values)]
        case {"permute": axes}:
            order = rng.permutation(np.prod([values.shape[AXES[axis]] for axis in as_list(axes)]))
            return along(lambda v: v[order], values, as_list(axes))
        case {"project": _}:
            number = (None, amount) if change.get("by") == "variance" else (int(amount), None)
            return leading_components(values, *number, as_list(change.get("centered", ["tokens"])))
        case {"use": function}:
            return function(torch.from_numpy(values), case).numpy()


# What each case changes


class Cases:
    """The cases of an intervention on some texts.

    Attributes:
        clean: the clean run of each text.
        pairs: the texts that are changed, each with the one that a patch comes from.
        reads: the sites that are read.
    """

    def __init__(self, hooked, texts, entry):
        self.hooked, self.texts, self.entry = hooked, texts, entry
        self.site, change = entry["site"], entry["change"]
        self.change = change if isinstance(change, dict) else {change: None}
        kind = next(iter(self.change))
        amount = {"mean": "largest", "median": "largest", "use": "amount"}.get(kind, kind)
        self.amounts = self.change.get(amount)
        self.pairs = self.change.get("patch", [(text.number, None) for text in texts])
        self.reads = [site for site in SITES if site in entry["read"]]
        self.clean = [hooked.forward(text.ids, {*self.reads, self.site}) for text in texts]

    def along(self, name):
        """What a dimension of the outcome runs over."""
        match name:
            case "layer":
                return sorted(numbers(self.entry.get("layers", "all"), self.hooked.n_layers))
            case "head":
                return numbers(self.entry.get("heads", "all"), self.hooked.n_heads(self.site))
            case "position":
                return range(len(self.tokens({}, self.texts[self.pairs[0][0]])))
            case "neurons":
                return list(self.entry["neurons"])
            case "amount":
                return self.amounts
            case "seed":
                return self.change["seed"]
            case "pair":
                return range(len(self.pairs))

    def tokens(self, case, text):
        """The positions in a text that are changed."""
        chosen = positions(self.entry.get("tokens", "all"), text)
        return [chosen[case["position"]]] if "position" in case else chosen

    def chosen(self, case, layer, shape):
        """The heads and neurons that are changed."""
        heads, neurons = self.entry.get("heads", "all"), self.entry.get("neurons", "all")
        if "head" in case:
            heads = [case["head"]]
        if "neurons" in case:
            neurons = neurons[case["neurons"]] if isinstance(neurons, dict) else [case["neurons"]]
        return numbers(heads, shape[1], layer), numbers(neurons, shape[2], layer)

    def changes(self, case, text, giver):
        """The functions that change a text's values in a case, by (layer, site)."""
        layers = [case["layer"]] if "layer" in case else self.along("layer")
        return {
            (layer, self.site): lambda values, layer=layer: self.changed(
                values, case, layer, text, giver
            )
            for layer in layers
        }

    def changed(self, values, case, layer, text, giver):
        """All values of a text at a layer, of which the chosen ones are changed."""
        tokens = self.tokens(case, text)
        heads, neurons = self.chosen(case, layer, values.shape)

        def clean(number, tokens):
            """The chosen values of a text's clean run."""
            return self.clean[number][1][layer, self.site][np.ix_(tokens, heads, neurons)]

        def of_texts():
            return [clean(t.number, self.tokens(case, t)) for t in self.texts]

        def given():
            return clean(giver, giving(self.change, tokens, text, self.texts[giver]))

        def vector():
            added = self.change.get("vector")
            if added is None:
                return 1
            if isinstance(added, dict):
                where = added.get("tokens", "last")
                plus, minus = (
                    clean(number, positions(where, self.texts[number])).mean(axis=0)
                    for number in added["texts"]
                )
                return plus - minus
            return at_layer(added, layer).reshape(values.shape[1:])[np.ix_(heads, neurons)]

        seed = case.get("seed", self.change.get("seed", 0))
        told = SimpleNamespace(
            layer=layer,
            head=case.get("head"),
            position=case.get("position"),
            amount=case.get("amount", self.amounts),
            seed=seed,
            text=text.number,
            rng=np.random.default_rng([seed, layer, text.number]),
        )
        new, place = values.copy(), np.ix_(tokens, heads, neurons)
        if not values[place].size:
            return new
        new[place] = replaced(
            values[place], self.change, told, of_texts=of_texts, given=given, vector=vector
        )
        return new


def numbers(chosen, n, layer=None):
    """Layers, heads or neurons: all, by number, or what is true in a statistic's variable."""
    if isinstance(chosen, str):
        return list(range(n))
    if isinstance(chosen, xr.DataArray):
        return np.flatnonzero(at_layer(chosen, layer))
    return list(chosen)


def at_layer(variable, layer):
    """A statistic's variable at a layer, if it differs between layers."""
    return (variable.sel(layer=layer) if "layer" in variable.dims else variable).values


def giving(change, tokens, receiver, giver):
    """The positions in the giving text that tokens of the receiving one are patched from."""
    if "from" in change:
        return [range(len(giver.ids))[change["from"]]] * len(tokens)
    shift = len(giver.ids) - len(receiver.ids) if change.get("align") == "end" else 0
    return [position + shift for position in tokens]


# What is read of a text: dimensions and values, by name

#: How the names end of what is a comparison with the clean run, and not read of that itself.
COMPARED = ("kl", "_difference", "_cosine")


def log_softmax(logits):
    return torch.from_numpy(logits).double().log_softmax(-1).numpy()


def read_text(read, tokenizer, text, changed, clean):
    """What is read of a text's run, (logits, values of sites), beside its clean run."""
    (logits, values), (clean_logits, clean_values) = changed, clean
    found = {}
    for name in ("logits", "log_probabilities"):
        if name in read:
            tokens = positions(read[name], text)
            prediction = (logits if name == "logits" else log_softmax(logits))[tokens]
            following = np.append(text.ids, 0)[np.array(tokens) + 1]
            followed = np.array(tokens) < len(text.ids) - 1
            next_one = prediction[range(len(tokens)), following]
            targets = {
                "clean": prediction[range(len(tokens)), clean_logits[tokens].argmax(axis=-1)],
                "next": np.where(followed, next_one, np.nan),
            }
            found |= read_prediction(name, read, tokenizer, prediction, targets)
    if "kl" in read:
        tokens = positions(read["kl"], text)
        p, q = log_softmax(clean_logits[tokens]), log_softmax(logits[tokens])
        found["kl"] = ("token",), np.sum(np.exp(p) * (p - q), axis=-1)
    if "logits_difference" in read:
        tokens = positions(read["logits_difference"], text)
        difference = np.linalg.norm(logits[tokens] - clean_logits[tokens], axis=-1)
        found["logits_difference"] = ("token",), difference
    if read.get("loss"):
        following = log_softmax(logits)[range(len(text.ids) - 1), text.ids[1:]]
        found["loss"] = ("stimulus",), np.array([-following.mean()])
    for site in SITES:
        if site in read:
            found |= read_site(site, read[site], text, values, clean_values)
    return found


def read_prediction(name, read, tokenizer, prediction, of_token):
    """All of a prediction (token, d_vocab), or its targets and its highest."""
    targets, top = read.get("targets"), read.get("top")
    found = {}
    if isinstance(targets, str):
        found[name] = ("token",), of_token[targets]
    elif targets:
        ids = [tokenizer.encode(target, add_special_tokens=False)[0] for target in targets]
        found[name] = ("token", "target"), prediction[:, ids]
    elif not top:
        found[name] = ("token", "d_vocab"), prediction
    if top:
        best = np.argsort(-prediction, axis=-1)[:, :top]
        texts = [[tokenizer.decode([token]) for token in row] for row in best]
        found[f"top_{name}"] = ("token", "rank"), np.take_along_axis(prediction, best, axis=-1)
        found["top_token_id"] = ("token", "rank"), best
        found["top_text"] = ("token", "rank"), np.array(texts, dtype=object)
    return found


def read_site(site, read, text, values, clean_values):
    """A site's values, or how they differ from the clean run's."""
    if not (isinstance(read, dict) and "from" not in read):
        read = {"tokens": read}
    tokens = positions(read.get("tokens", "all"), text)
    layers = numbers(read.get("layers", "all"), 1 + max(layer for layer, _ in values))
    changed, clean = (
        np.stack([of[layer, site][tokens] for layer in layers]) for of in (values, clean_values)
    )
    rows, clean_rows = (array.reshape(*array.shape[:2], -1) for array in (changed, clean))
    dims = ("read_layer", "read_token")
    found = {}
    for kept in as_list(read.get("as", "difference")):
        match kept:
            case "values":
                with_heads = len(SITES[site]) == 2
                found[site] = (*dims, *SITES[site]), changed if with_heads else rows
            case "difference":
                norms = np.linalg.norm(rows - clean_rows, axis=-1)
                found[f"{site}_difference"] = dims, norms
            case "cosine":
                norms = np.linalg.norm(rows, axis=-1) * np.linalg.norm(clean_rows, axis=-1)
                found[f"{site}_cosine"] = dims, np.sum(rows * clean_rows, axis=-1) / norms
    return found


# The outcome


def intervened(hooked, columns, entry, tokenizer=None):
    """The outcome of an intervention.

    Args:
        hooked: the model.
        columns: the token table's columns, (token,) each.
        entry: the declaration.
        tokenizer: of targets and of the highest tokens.
    """
    texts, names = split(columns), entry.get("each", [])
    cases = Cases(hooked, texts, entry)

    def read(text, run):
        return read_text(entry["read"], tokenizer, text, run, cases.clean[text.number])

    outcomes = []
    for values in product(*(cases.along(name) for name in names)):
        case = dict(zip(names, values, strict=True))
        pairs = [cases.pairs[case["pair"]]] if "pair" in case else cases.pairs
        outcomes.append(
            joined(
                read(
                    texts[receiver],
                    hooked.forward(
                        texts[receiver].ids,
                        cases.reads,
                        cases.changes(case, texts[receiver], giver),
                    ),
                )
                for receiver, giver in pairs
            )
        )
    clean = [read(texts[receiver], cases.clean[receiver]) for receiver, _ in cases.pairs]
    dataset = stacked(outcomes, names, [len(cases.along(name)) for name in names])
    clean = stacked(clean, ["pair"], [len(clean)]) if "pair" in names else joined(clean)
    dataset |= {f"clean_{n}": read for n, read in clean.items() if not n.endswith(COMPARED)}
    outcome = xr.Dataset(dataset, {name: cases.along(name) for name in names})
    if "position" in names:  # counted among the chosen tokens, unless these lie alike in all texts
        lying = {tuple(cases.tokens({}, texts[receiver])) for receiver, _ in cases.pairs}
        outcome["position"] = list(*lying) if len(lying) == 1 else outcome["position"]
    # A pair has one text and one loss.
    return outcome.isel(stimulus=0, missing_dims="ignore") if "pair" in names else outcome


def joined(runs):
    """What was read of several texts, the rows of one after those of another."""
    runs = list(runs)
    return {
        name: (dims, np.concatenate([run[name][1] for run in runs], axis=dims.index(rows)))
        for name, (dims, _) in runs[0].items()
        for rows in set(dims) & {"token", "stimulus", "read_token"}
    }


def stacked(runs, names, sizes):
    """What was read in several cases, with the dimensions that they differ in."""
    return {
        name: ((*names, *dims), np.stack([run[name][1] for run in runs]).reshape(*sizes, *of.shape))
        for name, (dims, of) in runs[0].items()
    }
