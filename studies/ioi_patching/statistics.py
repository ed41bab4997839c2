"""Statistics of the study on patching in indirect object identification; see README.md."""

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import xarray as xr
from scipy import stats
from scipy.special import log_softmax

from microtome.errors import MicrotomeError
from microtome.options import NEXT_TOKEN, Alpha, Count, NotNegative, Seed
from microtome.statistics.sigmoid import fit_sigmoid, sigmoid_demonstration
from microtome.texts.tokens import target_id, token_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: The name that a text repeats: of texts of even numbers the first one, of the others the second.
REPEATED = ("first", "second")


def ioi_scores(
    each_layer_patched: Annotated[xr.Dataset, NEXT_TOKEN], tokens: xr.Dataset
) -> xr.Dataset:
    """IOI scores with the last token patched in each layer.

    Returns:
        (`pair`, `layer`): `score`, the logit of the name that is named first minus that of the
        other one, and `effect`, by how much the logit of whom the giving text is about has risen
        against that of the other name, compared with the clean run. (`pair`,): `clean`, the score
        of the text that is changed, and `clean_giver`, that of the text it is patched from, in the
        clean run. float64. Coordinates of `pair`: the two texts' numbers `receiver` and `giver`,
        their ends from the repeated name on, `receiver_text` and `giver_text`, and both names,
        `first` and `second`.

    Raises:
        MicrotomeError: targets that are not the names of the texts, or a pair of texts with other
            names; texts of which one is not both changed and patched from.
    """
    return _scores(each_layer_patched, tokens)


def name_scores(names_patched: Annotated[xr.Dataset, NEXT_TOKEN], tokens: xr.Dataset) -> xr.Dataset:
    """The same with other names.

    Returns:
        As `ioi_scores`.

    Raises:
        MicrotomeError: as in `ioi_scores`.
    """
    return _scores(names_patched, tokens)


def confirmation(each_layer_patched: xr.Dataset) -> xr.Dataset:
    """How far the patched run is from the giving text's clean run, at the layer that is patched.

    Returns:
        `distance`, (`pair`, `layer`, `place`), the norm of the difference of the block's outputs at
        the `last` token, which is 0, and at the one `before`, which is not patched; float64.
    """
    outcome, giver = each_layer_patched, _giver_pairs(each_layer_patched)
    layers = outcome["layer"].values
    states = outcome["resid_post"].transpose("pair", "layer", "read_layer", "read_token", "d_model")
    of_layer = states.values[:, range(len(layers)), layers]
    clean = outcome["clean_resid_post"].values[giver][:, layers]
    distance = np.linalg.norm(of_layer.astype(np.float64) - clean, axis=-1)
    return xr.Dataset(
        {"distance": (("pair", "layer", "place"), distance)},
        {"layer": layers, "place": ["before", "last"]},
    )


def vocabulary_logits(
    patched_layer: xr.Dataset, ioi_scores: xr.Dataset, tokenizer: "PreTrainedTokenizerBase"
) -> xr.Dataset:
    """Logits of all tokens to come next, for the first pair of texts.

    Returns:
        `receiver`, `giver`, in the clean run, and `patched`, (`d_vocab`,), float32; `name_id`,
        (`name`,), the token ids of both names; attributes `receiver_text`, `giver_text` and
        `layer`.

    Raises:
        MicrotomeError: several layers; a text of which there is no clean run.
    """
    if patched_layer.sizes["layer"] != 1:
        raise MicrotomeError(
            f"patched_layer: {patched_layer.sizes['layer']} layers; correct its `layers` to one, "
            "as in layers: [97%]"
        )
    giver = _giver_pairs(patched_layer)
    clean, pair = patched_layer["clean_logits"].values[:, 0], ioi_scores.isel(pair=0)
    names = [pair[place].item() for place in ("first", "second")]
    return xr.Dataset(
        {
            "receiver": ("d_vocab", clean[0]),
            "giver": ("d_vocab", clean[giver[0]]),
            "patched": ("d_vocab", patched_layer["logits"].values[0, 0, 0]),
            "name_id": ("name", np.array([target_id(tokenizer, name) for name in names], np.int32)),
        },
        {"name": np.array(names, dtype=object)},
        {name: pair[name].item() for name in ("receiver_text", "giver_text")}
        | {"layer": patched_layer["layer"].item()},
    )


def changed_tokens(
    vocabulary_logits: xr.Dataset, tokenizer: "PreTrainedTokenizerBase", *, n: Count
) -> xr.Dataset:
    """The tokens whose logits the patch changes most.

    Returns:
        (`rank`,), ranks 1, 2, …: `token_id`, `text`, `difference`, clean minus patched logit,
        float32, and `log_probability_difference`, the same of log-probabilities (natural
        logarithm, float64); attribute `layer`.
    """
    difference = vocabulary_logits["receiver"].values - vocabulary_logits["patched"].values
    runs = [vocabulary_logits[run].values.astype(np.float64) for run in ("receiver", "patched")]
    clean, patched = map(log_softmax, runs)
    ids = np.argsort(-np.abs(difference), kind="stable")[:n]
    texts = np.array([token_text(tokenizer, token) for token in ids.tolist()], dtype=object)
    return xr.Dataset(
        {
            "token_id": ("rank", ids.astype(np.int32)),
            "difference": ("rank", difference[ids]),
            "log_probability_difference": ("rank", (clean - patched)[ids]),
        },
        {"rank": np.arange(1, len(ids) + 1), "text": ("rank", texts)},
        {"layer": vocabulary_logits.attrs["layer"]},
    )


def simulated_data(*, n: Count, noise: NotNegative, seed: Seed) -> xr.Dataset:
    """Noisy data around a sigmoid; of no model.

    Returns:
        `x` and `y`, (`point`,), and the true values of the parameters, `truth`, (`parameter`,).
    """
    return sigmoid_demonstration(n, noise, seed)


def simulated_fit(simulated_data: xr.Dataset, *, alpha: Alpha) -> xr.Dataset:
    """The sigmoid fitted to the simulated data; of no model.

    Returns:
        As `microtome.statistics.sigmoid.fit_sigmoid`, with `truth`, (`parameter`,).
    """
    fit = fit_sigmoid(simulated_data["x"].values, simulated_data["y"].values, alpha)
    return fit.assign(truth=simulated_data["truth"])


def score_fits(ioi_scores: xr.Dataset, *, alpha: Alpha) -> xr.Dataset:
    """A sigmoid fitted to the scores of all layers but the last, for each pair of texts.

    Returns:
        As `microtome.statistics.sigmoid.fit_sigmoid`, with a first dimension `pair`.
    """
    return _fits(ioi_scores, alpha)


def name_fits(name_scores: xr.Dataset, *, alpha: Alpha) -> xr.Dataset:
    """The same with other names, and what the pairs of names have in common.

    Returns:
        As `score_fits`; and (`repeated`, `parameter`), where the `first` or the `second` name is
        repeated in the text that is changed: the mean of the estimates, `mean`, and its interval
        over pairs of names by Student's t, `low_mean` and `high_mean`, of those fits whose midpoint
        is among the layers; `n`, (`repeated`,), how many these are.
    """
    fits = _fits(name_scores, alpha)
    layers = name_scores["layer"].values
    midpoint = fits["estimate"].sel(parameter="x0").values
    among = (layers[0] <= midpoint) & (midpoint <= layers[-1])
    mean, low, high, n = _over_names(fits["estimate"].values, fits["receiver"].values, among, alpha)
    dims = ("repeated", "parameter")
    found: dict[str, Any] = {"mean": (dims, mean), "low_mean": (dims, low)}
    found |= {"high_mean": (dims, high), "n": ("repeated", n)}
    return fits.assign(found).assign_coords(repeated=list(REPEATED))


def name_effect(name_scores: xr.Dataset, *, alpha: Alpha) -> xr.Dataset:
    """The mean effect of the patch over pairs of names.

    Returns:
        (`repeated`, `layer`), where the `first` or the `second` name is repeated in the text that
        is changed: `mean`, and `low` and `high`, its interval over pairs of names by Student's t
        (NaN for a single one), in logits; `n`, (`repeated`,), how many pairs of names there are.
        Attribute `alpha`.
    """
    effect, receiver = name_scores["effect"].values, name_scores["receiver"].values
    mean, low, high, n = _over_names(effect, receiver, np.ones(len(effect), bool), alpha)
    dims = ("repeated", "layer")
    return xr.Dataset(
        {"mean": (dims, mean), "low": (dims, low), "high": (dims, high), "n": ("repeated", n)},
        {"repeated": list(REPEATED), "layer": name_scores["layer"].values},
        {"alpha": alpha},
    )


def _scores(outcome: xr.Dataset, tokens: xr.Dataset) -> xr.Dataset:
    """IOI scores of the last token's logits; see `ioi_scores`."""
    names = outcome["target"].values.astype(str).tolist()
    endings = _endings(tokens, names)
    receiver, giver = outcome["receiver"].values, outcome["giver"].values
    for r, g in zip(receiver, giver, strict=True):
        if {int(r), int(g)} != {r // 2 * 2, r // 2 * 2 + 1}:
            raise MicrotomeError(
                f"patch: text {r} is patched from text {g}, which has other names; a pair is texts "
                "0 and 1, 2 and 3, …, in either order"
            )
    first, second = receiver // 2 * 2, receiver // 2 * 2 + 1
    pairs = np.arange(len(receiver))
    logit = outcome["logits"].transpose("pair", "layer", "token", "target").values[:, :, 0]
    clean_logit = outcome["clean_logits"].values[:, 0].astype(np.float64)
    logit = logit.astype(np.float64)
    score = logit[pairs, :, first] - logit[pairs, :, second]
    clean = clean_logit[pairs, first] - clean_logit[pairs, second]
    # Of whom the giving text is about: the first name, if the second one is repeated.
    sign = np.where(giver % 2 == 1, 1, -1)
    variables = {
        "score": (("pair", "layer"), score),
        "effect": (("pair", "layer"), sign[:, None] * (score - clean[:, None])),
        "clean": ("pair", clean),
        "clean_giver": ("pair", clean[_giver_pairs(outcome)]),
    }
    labels = {
        "receiver_text": [endings[text] for text in receiver],
        "giver_text": [endings[text] for text in giver],
        "first": [names[target] for target in first],
        "second": [names[target] for target in second],
    }
    return xr.Dataset(
        variables,
        {
            "pair": pairs,
            "layer": outcome["layer"].values,
            "receiver": ("pair", receiver),
            "giver": ("pair", giver),
        }
        | {name: ("pair", np.array(texts, dtype=object)) for name, texts in labels.items()},
    )


def _endings(tokens: xr.Dataset, names: list[str]) -> list[str]:
    """The end of each text, from the name on that it repeats.

    Raises:
        MicrotomeError: a text does not repeat its name, or lacks the other one.
    """
    endings = []
    for text, name in enumerate(names):
        of_text = tokens["sequence"].values == text
        parts = tokens["text"].values[of_text].astype(str).tolist()
        bare = [part.strip() for part in parts]
        other = names[text ^ 1] if text ^ 1 < len(names) else ""
        if bare.count(name.strip()) != 2 or bare.count(other.strip()) != 1:
            raise MicrotomeError(
                f"targets: text {text} does not have {name!r} twice and {other!r} once; targets "
                "are the names that the texts repeat, in the order of the texts"
            )
        last = len(bare) - 1 - bare[::-1].index(name.strip())
        endings.append("".join(parts[last:]).strip())
    return endings


def _giver_pairs(outcome: xr.Dataset) -> np.ndarray:
    """For each pair, the one whose text is changed that this one is patched from, (pair,).

    Raises:
        MicrotomeError: there is none.
    """
    receiver = outcome["receiver"].values.tolist()
    for giver in outcome["giver"].values.tolist():
        if giver not in receiver:
            raise MicrotomeError(
                f"patch: text {giver} is patched from, but is not changed; name each two texts in "
                "both orders, as in patch: [[1, 0], [0, 1]]"
            )
    return np.array([receiver.index(giver) for giver in outcome["giver"].values])


def _fits(scores: xr.Dataset, alpha: float) -> xr.Dataset:
    """Sigmoids of all pairs' scores; see `score_fits`."""
    # Patched in the last layer, the score is the giver's: nothing else is predicted from.
    chosen = scores["score"].isel(layer=slice(-1))
    fits = [fit_sigmoid(chosen["layer"].values, pair, alpha) for pair in chosen.values]
    return xr.concat(fits, "pair").assign_coords(scores["clean"].coords)


def _over_names(
    values: np.ndarray, receiver: np.ndarray, chosen: np.ndarray, alpha: float
) -> tuple[np.ndarray, ...]:
    """Means over pairs of names, apart by which name the text that is changed repeats.

    Args:
        values: (pair, …).
        receiver: number of the text that is changed, (pair,).
        chosen: which pairs count, (pair,).
        alpha: 1 minus the intervals' confidence.

    Returns:
        Means and the ends of their intervals, (repeated, …), and how many pairs count, (repeated,);
        NaN where none does, or one that has no interval.
    """
    found = []
    for place in range(len(REPEATED)):
        own = values[chosen & (receiver % 2 == place)]
        n = len(own)
        nothing = np.full(values.shape[1:], np.nan)
        mean = own.mean(axis=0) if n else nothing
        error = own.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else nothing
        half = stats.t.ppf(1 - alpha / 2, max(n - 1, 1)) * error
        found.append((mean, mean - half, mean + half, n))
    return tuple(map(np.array, zip(*found, strict=True)))
