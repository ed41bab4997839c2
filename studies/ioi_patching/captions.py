"""What the figures of the study on patching in indirect object identification say, in numbers."""

import numpy as np
import xarray as xr

from microtome.page.numbers import listed, number, quoted, significant

#: The least R² of a fit whose midpoint is worth reading.
LEAST = 0.5


def logits(vocabulary_logits: xr.Dataset) -> str:
    """The scores after both texts, and how alike all logits are."""
    scores = [
        f"{number(_score(vocabulary_logits, text))} after "
        f"“… {vocabulary_logits.attrs[f'{text}_text']}”"
        for text in ("receiver", "giver")
    ]
    receiver, giver = (vocabulary_logits[text].values for text in ("receiver", "giver"))
    names = [quoted(name.strip()) for name in vocabulary_logits["name"].values]
    return (
        f"The logit of {names[0]} minus that of {names[1]} is {listed(scores)}; the correlation of "
        f"all logits is {number(np.corrcoef(receiver, giver)[0, 1])}."
    )


def patched_logits(vocabulary_logits: xr.Dataset) -> str:
    """The score before and after, and the spread of what is changed."""
    clean, patched = (number(_score(vocabulary_logits, run)) for run in ("receiver", "patched"))
    difference = vocabulary_logits["receiver"].values - vocabulary_logits["patched"].values
    return (
        f"Patching layer {vocabulary_logits.attrs['layer']} turns the score from {clean} to "
        f"{patched}. Clean minus patched logits have a mean of {number(difference.mean())} and a "
        f"standard deviation of {number(difference.std())}."
    )


def ioi_scores(ioi_scores: xr.Dataset) -> str:
    """The clean scores, and where the patch has most of its effect."""
    pair = ioi_scores.isel(pair=0)
    step = np.abs(np.diff(pair["score"].values))
    place = int(step.argmax())
    layers = pair["layer"].values[[place, place + 1]]
    return (
        f"Clean scores are {number(pair['clean'])} and {number(pair['clean_giver'])}. The largest "
        f"step is from layer {layers[0]} to layer {layers[1]}: {number(step[place])}."
    )


def simulated_data(simulated_data: xr.Dataset) -> str:
    """What the data were made from."""
    truth = [
        f"{parameter} = {value:g}"
        for parameter, value in zip(
            simulated_data["parameter"].values, simulated_data["truth"].values, strict=True
        )
    ]
    return f"{simulated_data.sizes['point']} points around the sigmoid with {listed(truth)}."


def simulated_fit(simulated_fit: xr.Dataset) -> str:
    """The estimates with their intervals."""
    return _estimates(simulated_fit)


def score_fit(score_fits: xr.Dataset, name_fits: xr.Dataset) -> str:
    """The midpoint with both intervals."""
    pair = score_fits.isel(pair=0)
    repeated = "first" if pair["receiver"].item() % 2 == 0 else "second"
    others = name_fits.sel(repeated=repeated, parameter="x0")
    n = int(others["n"])
    names = (
        f"Over {n} pairs of other names, x0 is {number(others['mean'])} on average "
        f"({number(others['low_mean'])} to {number(others['high_mean'])})."
        if n > 1
        else "With other names, no two fits have their x0 among the layers."
    )
    return f"{_estimates(pair)} {names}"


def name_effect(name_effect: xr.Dataset) -> str:
    """From which layer on the interval of the mean effect lies above 0."""
    parts = []
    for repeated in name_effect["repeated"].values:
        low = name_effect["low"].sel(repeated=repeated).values
        above = int(np.cumprod(low[::-1] > 0).sum())  # layers at the end
        since = f"from layer {name_effect['layer'].values[-above]} on" if above else "nowhere"
        parts.append(f"{since} if the {repeated} name is repeated")
    n = int(name_effect["n"][0])
    return f"Over {n} pairs of names, the interval of the mean lies above 0 {listed(parts)}."


def _score(vocabulary_logits: xr.Dataset, run: str) -> float:
    """The logit of the first name minus that of the second one."""
    first, second = vocabulary_logits[run].values[vocabulary_logits["name_id"].values]
    return float(first) - float(second)


def _estimates(fit: xr.Dataset) -> str:
    """All parameters with their intervals, or that there are none."""
    if not np.isfinite(fit["estimate"].values).all():
        return "No sigmoid fits: the search for its parameters does not converge."
    undetermined = not np.isfinite(fit["std_error"].values).all()
    parts = [
        f"{name} = {significant(fit['estimate'].sel(parameter=name))}"
        + (
            ""
            if undetermined
            else f" ({significant(fit['low'].sel(parameter=name))} to "
            f"{significant(fit['high'].sel(parameter=name))})"
        )
        for name in fit["parameter"].values
    ]
    level = f"{1 - fit.attrs['alpha']:.0%}"
    said = "the data do not determine them" if undetermined else f"{level} intervals"
    doubt = (
        ": the curve explains little, and there is no midpoint worth reading"
        if fit["r_squared"].item() < LEAST
        else ""
    )
    return f"{listed(parts)}; {said}. R² is {number(fit['r_squared'])}{doubt}."
