"""The study attention_norms against full forwards, numpy and scipy."""

from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
import torch
import xarray as xr
from conftest import build
from scipy import stats
from studied import by_layer, layer_files, product
from transformers import AutoModelForCausalLM, AutoTokenizer

from microtome.errors import MicrotomeError
from microtome.figures.style import style
from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.statistics import regression as least_squares
from microtome.statistics.norms import log_norms, norm_histograms
from microtome.statistics.regression import autoregression, regression
from microtome.store.datasets import read_dataset, write_dataset
from microtome.texts.stimuli import read_set
from microtome.texts.tokens import token_table

ROOT = Path(__file__).resolve().parents[2]
ROCK = ROOT / "stimuli" / "rock_music.yaml"


@pytest.fixture(scope="module", params=["gpt2", "gpt_neo", "smollm2"])
def studied(request, tmp_path_factory):
    """The statistic `norms`, and the same from a full forward hooked by hand, (layer, token)."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "smollm2":
        checkpoint = request.getfixturevalue("smollm2")
    else:
        wide = {"vocab_size": 50257, "max_position_embeddings": 256}
        origin = build(folder / "origin", request.param, **wide)
        for file in request.getfixturevalue("gpt2_tokenizer").iterdir():
            (origin / file.name).write_bytes(file.read_bytes())
        checkpoint = folder / "checkpoint"
        fetch(Folder(origin), checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    if request.param == "smollm2":
        attentions = [block.self_attn for block in model.model.layers]
    else:
        attentions = [block.attn for block in model.transformer.h]
    seen = []
    for attention in attentions:
        attention.register_forward_hook(lambda m, args, out: seen.append(out[0][0].numpy()))
    with torch.no_grad():
        model(torch.tensor([tokenizer(read_set(ROCK).stimuli[0].text)["input_ids"]]))
    full = np.log(np.linalg.norm(np.array(seen, np.float64), axis=-1))

    table = token_table(read_set(ROCK).stimuli, checkpoint)
    paths = layer_files(folder, checkpoint, table, ["attn_out"], range(len(attentions)))
    norms = by_layer(paths, lambda section: log_norms(section, "attn_out"))
    write_dataset(norms, folder / "norms.h5")
    return read_dataset(folder / "norms.h5"), full


def by_hand(y, first_token):
    """Least squares and Newey-West in plain linear algebra; y: (token,)."""
    x = np.array([[1, y[t - 1], y[t - 2]] for t in range(first_token, len(y))])
    y = y[first_token:]
    n, k = x.shape
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ x.T @ y
    residual = y - x @ beta
    error = np.sqrt(np.diag(inverse) * (residual @ residual) / (n - k))
    lags = int(np.floor(4 * (n / 100) ** (2 / 9)))
    scores = x * residual[:, None]
    meat = scores.T @ scores
    for lag in range(1, lags + 1):
        cross = scores[lag:].T @ scores[:-lag]
        meat += (1 - lag / (lags + 1)) * (cross + cross.T)
    robust = np.sqrt(np.diag(inverse @ meat @ inverse) * n / (n - k))
    count = min(10, n // 5)
    rho = [residual[j:] @ residual[:-j] / (residual @ residual) for j in range(1, count + 1)]
    q = n * (n + 2) * sum(r**2 / (n - j) for j, r in enumerate(rho, start=1))
    return {
        "beta": beta,
        "beta_numpy": beta,
        "std_error": error,
        "t": beta / error,
        "p": 2 * stats.t.sf(np.abs(beta / error), n - k),
        "std_error_hac": robust,
        "p_hac": 2 * stats.t.sf(np.abs(beta / robust), n - k),
        "r_squared": 1 - residual @ residual / ((y - y.mean()) ** 2).sum(),
        "ljung_box": q,
        "p_ljung_box": stats.chi2.sf(q, count - 2),
    }


def test_norms_are_those_of_a_full_forward(studied):
    norms, full = studied
    assert norms["log_norm"].dims == ("layer", "token")
    np.testing.assert_allclose(norms["log_norm"], full, rtol=1e-5)
    text = read_set(ROCK).stimuli[0].text
    assert list(norms["position"].values) == list(range(full.shape[1]))
    assert "".join(norms["text"].values).startswith(text[:40])


def test_histograms(studied):
    norms, _ = studied
    histograms = norm_histograms(norms, 1)
    for layer in norms["layer"].values:
        count, edges = np.histogram(norms["log_norm"].sel(layer=layer).values[1:], bins="fd")
        found = histograms.sel(layer=layer).dropna("bin")
        np.testing.assert_array_equal(found["count"], count)
        np.testing.assert_allclose(found["left_edge"], edges[:-1])


def test_regression_is_least_squares(studied):
    norms, full = studied
    for layer in norms["layer"].values[[0, -1]]:
        found = regression(norms.sel(layer=layer), 3)
        y = norms["log_norm"].sel(layer=layer).values
        for name, value in by_hand(y, 3).items():
            np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)
        assert found.attrs["n"] == len(y) - 3
        np.testing.assert_allclose(found["beta"], found["beta_numpy"], rtol=1e-8)
        # As the notebook takes them, on the full forward.
        y = full[layer]
        design = np.column_stack([np.ones(len(y) - 3), y[2:-1], y[1:-2]])
        np.testing.assert_allclose(found["beta"], sm.OLS(y[3:], design).fit().params, rtol=1e-5)


def test_autoregression_is_the_regression_of_every_layer(studied):
    norms, _ = studied
    betas = autoregression(norms, 3, 0.05)
    assert list(betas["term"].values) == ["t-1", "t-2"]
    for layer in norms["layer"].values:
        expected = by_hand(norms["log_norm"].sel(layer=layer).values, 3)
        found = betas.sel(layer=layer)
        for name in ("beta", "std_error", "p", "std_error_hac", "p_hac"):
            np.testing.assert_allclose(found[name], expected[name][1:], rtol=1e-6)
        for name in ("r_squared", "ljung_box", "p_ljung_box"):
            assert found[name].item() == pytest.approx(expected[name], rel=1e-6, abs=0)
        np.testing.assert_array_equal(found["significant"], expected["p"][1:] < 0.05)
        np.testing.assert_array_equal(found["significant_hac"], expected["p_hac"][1:] < 0.05)


def test_the_summary_is_that_of_statsmodels_without_the_date(studied):
    norms = studied[0].sel(layer=0)
    y = norms["log_norm"].values
    design = np.column_stack([np.ones(len(y) - 3), y[2:-1], y[1:-2]])
    original = str(sm.OLS(y[3:], design).fit().summary(xname=["const", "t-1", "t-2"]))
    text = regression(norms, 3).attrs["summary"]
    assert "Date" not in text
    assert "Time" not in text
    fields = original.replace("y   R-", "log norm[t]   R-").split()
    dated = original[original.index("Date:") : original.index("Prob (F")].split()
    timed = original[original.index("Time:") : original.index("Log-L")].split()
    missing = set(fields) - set(text.split()) - set(dated) - set(timed)
    assert missing <= {"OLS", "Regression", "Results"}  # the title
    assert len({len(line.rstrip()) for line in text.splitlines() if line.startswith("=")}) == 1


def series(*lengths):
    """Random log norms of texts of some lengths, and their positions."""
    random = np.random.default_rng(0)
    return xr.Dataset(
        {"log_norm": (("layer", "token"), random.normal(size=(2, sum(lengths))))},
        {
            "layer": [0, 1],
            "position": ("token", [p for n in lengths for p in range(n)]),
            "sequence": ("token", [i for i, n in enumerate(lengths) for _ in range(n)]),
        },
    )


def test_no_row_looks_back_into_another_text():
    norms = series(30, 40).sel(layer=1)
    y = norms["log_norm"].values
    rows = [(1, y[t - 1], y[t - 2], y[t]) for t in [*range(2, 30), *range(32, 70)]]
    x = np.array(rows)
    beta = np.linalg.lstsq(x[:, :3], x[:, 3], rcond=None)[0]
    np.testing.assert_allclose(regression(norms, 2)["beta"], beta)


@pytest.mark.parametrize(
    ("length", "first_token", "message"),
    [
        (22, 3, "wants 20 tokens or more and has 19 from token 3 on; give .* longer"),
        (1, 3, "has 0 from token 3"),
        (50, 1, "token 1 has no two tokens before it; take 2 or more"),
    ],
)
def test_too_short_a_text_is_one_line(length, first_token, message):
    with pytest.raises(MicrotomeError, match=message):
        regression(series(length).sel(layer=0), first_token)
    with pytest.raises(MicrotomeError, match=message):
        autoregression(series(length), first_token, 0.05)


def test_the_fewest_rows_give_numbers():
    found = regression(series(least_squares.FEWEST_ROWS + 3).sel(layer=0), 3)
    assert all(np.isfinite(found[name]).all() for name in found.data_vars)


def test_an_activation_of_zero_has_no_log_norm():
    values = np.ones((3, 4), np.float32)
    values[1] = 0
    section = xr.Dataset({"attn_out": (("token", "d_model"), values)}, attrs={"layer": 5})
    with pytest.raises(MicrotomeError, match="layer 5, site attn_out: zero at token 1"):
        log_norms(section, "attn_out")


def test_tables(studied):
    norms, _ = studied
    one = regression(norms.sel(layer=0), 3).assign_attrs(layer=0)
    table = product("attention_norms", "tables", "regression")(one)
    frame, text = table.frame, table.text
    assert list(frame["term"]) == ["const", "t-1", "t-2"]
    np.testing.assert_array_equal(frame["p_hac"], one["p_hac"])
    assert one.attrs["summary"] in text
    assert "numpy.linalg.lstsq" in text
    betas = autoregression(norms, 3, 0.05)
    table = product("attention_norms", "tables", "autoregression")(betas)
    frame = table.frame
    assert len(frame) == 2 * norms.sizes["layer"]
    row = frame[(frame["layer"] == 1) & (frame["term"] == "t-2")].iloc[0]
    assert row["std_error_hac"] == betas["std_error_hac"].sel(layer=1, term="t-2").item()
    assert row["p_ljung_box"] == betas["p_ljung_box"].sel(layer=1).item()
    counts = table.text.splitlines()[3].split()
    assert counts == [
        "t-1",
        *(str(int(betas[s].sel(term="t-1").sum())) for s in ("significant", "significant_hac")),
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures(studied, theme):
    norms, _ = studied
    with style(theme):
        figure = product("attention_norms", "figures", "norms")(norms, norm_histograms(norms, 1))
        left, right = figure.axes
        n_layers, n_tokens = norms["log_norm"].shape
        assert len(left.lines) == len(right.lines) == n_layers
        for line, row, counts in zip(
            left.lines, norms["log_norm"].values, right.lines, strict=True
        ):
            np.testing.assert_array_equal(line.get_ydata(), row[1:])
            assert counts.get_ydata().sum() == n_tokens - 1
        again = product("attention_norms", "figures", "norms")(
            norms, norm_histograms(norms, 1)
        ).axes[0]
        np.testing.assert_array_equal(left.lines[0].get_xdata(), again.lines[0].get_xdata())
        labels = [label.get_text() for label in left.get_xticklabels()]
        assert labels[:2] == (["L0", "L1"] if n_layers <= 12 else ["L0", "L3"])

        betas = autoregression(norms, 3, 0.05)
        axes = product("attention_norms", "figures", "autoregression")(betas).axes[0]
        _, first, crosses, second, more_crosses, _ = axes.lines
        for term, line, cross in (("t-1", first, crosses), ("t-2", second, more_crosses)):
            np.testing.assert_array_equal(line.get_ydata(), betas["beta"].sel(term=term))
            significant = betas["significant"].sel(term=term).values == 1
            assert line.get_markevery() == np.flatnonzero(significant).tolist()
            np.testing.assert_array_equal(cross.get_xdata(), np.flatnonzero(~significant))
