"""Every causal LM and encoder of transformers: what is swept is what its plain forward computes."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import by_hand
import models_page
import numpy as np
import pytest
import torch
import zoo
from hooked import columns
from torch import Tensor
from transformers.activations import ACT2FN

from microtome.errors import MicrotomeError
from microtome.models.anatomy import find_sites
from microtome.models.taps import ENDS, Sites
from microtome.sites import SITES
from microtome.sweeps.batches import batched
from microtome.sweeps.lens import Lens
from microtome.sweeps.sweep import sweep

#: Two texts of seven tokens and one of four, which are swept in two batches.
SEQUENCES = [
    np.random.default_rng(i).integers(3, 101, length) for i, length in enumerate([7, 7, 4])
]
N_TOKENS = sum(map(len, SEQUENCES))
SWEPT = [name for name in zoo.names() if name not in zoo.REFUSED]
#: Families that norm the sum of the residual stream and what a block adds to it.
POST_NORM = (
    *("albert", "bert", "bert as a decoder", "bert-generation", "big_bird", "camembert"),
    *("convbert", "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra", "ernie"),
    *("fnet", "gte", "ibert", "jina_embeddings_v3", "layoutlm", "luke", "markuplm", "mpnet", "mra"),
    *("nomic_bert", "nystromformer", "openai-gpt", "opt post-norm", "rembert", "roberta"),
    *("roc_bert", "roformer", "splinter", "tapas", "trocr", "visual_bert", "xlm-roberta", "yoso"),
)

#: Whose eager attention is no measure of what is swept.
UNLIKE_EAGER = {
    "big_bird": "returns no pattern",
    "falcon alibi": "transformers adds other biases in eager attention",
    "minimax": "linear attention returns something too",
}

#: Families that do something to values before attention takes them, or to what it reads out: norms,
#: gates, factors, biases, convolutions.
CHANGED_VALUES = (
    *("afmoe", "axk2", "bailing_hybrid", "beam", "bitnet", "deberta", "dots3_note_text"),
    *("gemma3n_text", "gemma4_text", "gemma4_unified_text", "inkling2_text", "inkling_text"),
    *("laguna", "lfm3", "mimo_v2_flash", "muse_glimmer_text", "muse_spark_text", "neomme"),
    *("qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"),
)
#: Families whose scores have a bias beside products of queries and keys: ALiBi and others.
BIASED_SCORES = (
    *("bloom", "bloom with post-norms", "doge", "falcon alibi", "inkling2_text", "inkling_text"),
    *("mpnet", "mpt"),
)
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "relu2", "silu")
#: Families whose MLPs have an activation function of their own, a norm after it, or keep the
#: largest values only.
OWN_ACTIVATION = ("apertus", "bitnet", "gemma3n_text")


@dataclass
class Examined:
    """A model of the zoo: its sites, what is swept, and what passes in its plain forward.

    Attributes:
        sites: what `find_sites` found.
        swept: values by layer and site, (token, …).
        passed: the same of the plain forward, (token, width), at blocks' ends and after the last.
        by_hand: the same at the places that `by_hand` names.
        checkpoint: its folder.
    """

    sites: Sites
    swept: dict[tuple[int | None, str], np.ndarray]
    passed: dict[tuple[int | None, str], np.ndarray]
    by_hand: dict[tuple[int, str], np.ndarray]
    checkpoint: Path


@pytest.fixture(scope="module")
def examined(tmp_path_factory):
    @cache
    def examine(name):
        checkpoint = zoo.fetched(name, tmp_path_factory.mktemp("zoo"))
        sites = find_sites(checkpoint)
        model = zoo.load(name, checkpoint)
        passed, noted = forward(name, model)
        n_layers = max(layer for layer, _ in passed if layer is not None) + 1
        swept = read(checkpoint, sites, n_layers, name not in zoo.PLAIN)
        return Examined(sites, swept, passed, noted, checkpoint)

    return examine


def read(checkpoint, sites, n_layers, has_head):
    """Sweep all sites of all layers, and the lens of the last one."""
    found = {}
    try:
        lens = Lens(
            checkpoint, columns(SEQUENCES), batch_tokens=1024, dtype="float32", device="cpu"
        )
    except MicrotomeError as error:
        assert re.search("its blocks hand on several streams|model has no head", str(error))
        lens = None
    for layer in [*range(n_layers), None]:
        here = [
            site
            for site in (SITES if layer is not None else ())
            if site in ENDS
            or (site in sites.taps and layer in (sites.taps[site].layers or range(n_layers)))
        ]
        for section in sweep(
            *(checkpoint, batched(columns(SEQUENCES), 1024), here),
            *((), ["ln_final", "logits"][: 1 + has_head]) if layer is None else ([layer], ()),
            taps=sites.taps,
        ):
            values = dict(section.values)
            if lens and layer == n_layers - 1:
                rows, logprobs = zip(*lens(section, "resid_post"), strict=True)
                assert list(rows) == list(section.rows)
                values["lens"] = np.stack(logprobs)
            for site, of_rows in values.items():
                shape = N_TOKENS, *of_rows.shape[1:]
                whole = found.setdefault((layer, site), np.full(shape, np.nan, np.float32))
                whole[section.rows] = of_rows
    return found


def forward(name, model):
    """Run the model as it is on each batch; what enters and leaves its blocks, and sites by hand.

    Blocks that are run many times are so many layers.
    """
    passed, noted = {}, {}
    start, stop, layer = 0, 0, 0

    def keep(into, key, rows):
        whole = into.setdefault(key, np.full((N_TOKENS, rows.shape[1]), np.nan, np.float32))
        whole[start:stop] = rows.numpy()

    def at_end(site, hidden):
        if hidden.ndim == 4:  # several streams, of which the first is changed by attention and MLP
            hidden = hidden[0]
        keep(passed, (layer, site), hidden.flatten(0, 1))

    def before(module, args, kwargs):
        at_end("resid_pre", args[0] if args else kwargs["hidden_states"])

    def after(module, args, output):
        nonlocal layer
        at_end("resid_post", output if isinstance(output, Tensor) else output[0])
        layer += 1

    for block in dict.fromkeys(by_hand.blocks(model)):
        block.register_forward_pre_hook(before, with_kwargs=True)
        block.register_forward_hook(after)
    if name in by_hand.PLACES:
        by_hand.watch(name, model, lambda layer, site, rows: keep(noted, (layer, site), rows))
    for texts in (SEQUENCES[:2], SEQUENCES[2:]):
        start, stop, layer = stop, stop + sum(map(len, texts)), 0
        ids = torch.from_numpy(np.stack(texts))
        with torch.no_grad():
            if name not in zoo.PLAIN:
                logits = model(ids, use_cache=False).logits
                keep(passed, (None, "logits"), logits.flatten(0, 1))
                keep(passed, (layer - 1, "lens"), logits.log_softmax(dim=-1).flatten(0, 1))
                layer = 0
            keep(passed, (None, "ln_final"), zoo.encoded(model, ids).flatten(0, 1))
    return passed, noted


@pytest.mark.parametrize("name", SWEPT)
def test_hidden_states_are_those_of_the_plain_forward(examined, name):
    found = examined(name)
    for (layer, site), values in found.passed.items():
        if site == "lens" and name == "gemma3n_text":  # its head reads all streams
            continue
        assert np.isfinite(values).all()
        swept = found.swept[layer, site]
        np.testing.assert_array_equal(swept, values, err_msg=f"layer {layer}: {site}")
    assert {(0, "resid_pre"), (1, "resid_post"), (None, "ln_final")} <= found.passed.keys()


@pytest.mark.parametrize("name", by_hand.PLACES)
def test_sites_are_those_read_by_hand(examined, name):
    found = examined(name)
    inside = {key for key in found.swept if key[1] in found.sites.taps}
    inside = {(layer, site) for layer, site in inside if found.sites.taps[site].side != "attention"}
    assert inside == found.by_hand.keys()
    for (layer, site), values in found.by_hand.items():
        assert np.isfinite(values).all()
        swept = found.swept[layer, site].reshape(values.shape)
        if found.sites.taps[site].scale == 1:
            np.testing.assert_array_equal(swept, values, err_msg=f"layer {layer}: {site}")
        else:
            np.testing.assert_allclose(swept, values, rtol=1e-5, atol=1e-6)


# Gemma 3n predicts its streams anew before attention adds to one of them, and Gemma 4 adds
# embeddings that each layer has of its own.
@pytest.mark.parametrize("name", sorted({*SWEPT} - {"gemma3n_text", "gemma4_text"}))
def test_the_residual_stream_adds_up(examined, name):
    found = examined(name)
    stream = {"resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"}
    for layer in {layer for layer, _ in found.swept if layer is not None}:
        at = {site: found.swept[layer, site] for site in stream if (layer, site) in found.swept}
        if {"attn_out", "resid_mid"} <= at.keys():
            close(at["resid_pre"] + at["attn_out"], at["resid_mid"])
        if {"attn_out", "mlp_out"} <= at.keys() and name not in POST_NORM:
            close(at["resid_pre"] + at["attn_out"] + at["mlp_out"], at["resid_post"])


@pytest.mark.parametrize("name", sorted({*SWEPT} - UNLIKE_EAGER.keys()))
def test_patterns_are_those_of_eager_attention(examined, name):
    found = examined(name)
    layers = sorted(layer for layer, site in found.swept if site == "pattern")
    if not layers:
        assert "pattern" in found.sites.absent
        return
    model = zoo.load(name, found.checkpoint, attn_implementation="eager")
    texts = torch.from_numpy(np.stack(SEQUENCES[:2]))
    with torch.no_grad():
        attentions = model(texts, use_cache=False, output_attentions=True).attentions
    # Blocks without attention return none.
    weights = [of_layer for of_layer in attentions if of_layer is not None]
    for layer, expected in zip(layers, weights, strict=True):
        expected = expected.transpose(1, 2).flatten(0, 1).numpy()
        pattern = found.swept[layer, "pattern"][: len(expected)]
        np.testing.assert_allclose(np.nan_to_num(pattern), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SWEPT)
def test_heads_fit_together(examined, name):
    """Scores are products of queries and keys, and z is the values that a pattern takes."""
    found = examined(name)
    for layer in sorted({layer for layer, site in found.swept if site == "pattern"}):
        at = {site: values for (of, site), values in found.swept.items() if of == layer}
        scores, pattern = (at[site][:14].reshape(2, 7, -1, 7) for site in ("scores", "pattern"))
        n_heads = pattern.shape[2]

        def of_heads(site, at=at, n_heads=n_heads):
            """(text, position, head, width), with a key or value for each query."""
            values = at[site][:14].reshape(2, 7, *at[site].shape[1:])
            return values.repeat(n_heads // values.shape[2], axis=2)

        if {"v", "z"} <= at.keys() and name not in CHANGED_VALUES:
            taken = np.einsum("tphk,tkhw->tphw", np.nan_to_num(pattern), of_heads("v"))
            close(taken, of_heads("z"))
        if {"q_rot", "k_rot"} <= at.keys() and name not in BIASED_SCORES:
            products = np.einsum("tphw,tkhw->tphk", of_heads("q_rot"), of_heads("k_rot"))
            reached = ~np.isnan(scores)
            products, scores = products[reached], scores[reached]
            close(products * (products @ scores / (products @ products)), scores)


@pytest.mark.parametrize("name", sorted({*SWEPT} - {*OWN_ACTIVATION}))
def test_mlps_fit_together(examined, name):
    """`post` is an activation function of `pre`, times `pre_linear` where there is that."""
    swept = examined(name).swept
    for layer in sorted({layer for layer, site in swept if site == "pre"}):
        pre = torch.from_numpy(swept[layer, "pre"])
        factors = swept.get((layer, "pre_linear"), 1.0)
        made = (ACT2FN[function](pre).numpy() * factors for function in ACTIVATIONS)
        post = swept[layer, "post"]
        errors = [np.abs(values - post).max() / np.abs(post).max() for values in made]
        assert min(errors) < 1e-5


def test_the_page_of_architectures_is_up_to_date(examined):
    """Made by `PYTHONPATH=. python tests/models_page.py > docs/models.md`."""
    page = Path(__file__).parents[2] / "docs" / "models.md"
    made = models_page.page({name: examined(name).sites for name in SWEPT})
    assert page.read_text(encoding="utf-8").splitlines() == made.splitlines()


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize("name", zoo.REFUSED)
def test_what_cannot_be_swept_is_refused_in_a_line(tmp_path, name):
    with pytest.raises(MicrotomeError, match=zoo.REFUSED[name]) as caught:
        checkpoint = zoo.fetched(name, tmp_path)
        list(
            sweep(checkpoint, batched(columns(SEQUENCES[:2]), 1024), [], [], ["ln_final"], taps={})
        )
    assert "\n" not in str(caught.value)
