"""The lens, beside the Hugging Face model's own final norm and head on hooked hidden states."""

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import GROUPED, build
from hooked import Place, at, columns, load, taps_at
from scipy import special, stats
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
)

import microtome as mt
from microtome.errors import MicrotomeError
from microtome.models.mapped import MappedModel
from microtome.models.weights import MappedWeights
from microtome.statistics.lens import LensPredictions
from microtome.statistics.streamed import streamed
from microtome.store.layers import Section
from microtome.sweeps.batches import batched
from microtome.sweeps.cost import PREDICTED
from microtome.sweeps.lens import Lens
from microtome.sweeps.sweep import sweep

#: Beside the models of other tests, those whose predictions pass through more than norm and head.
MORE = {
    "opt": {  # projected into the width of the embeddings
        "vocab_size": 101,
        "hidden_size": 24,
        "word_embed_proj_dim": 12,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "ffn_dim": 40,
        "max_position_embeddings": 64,
    },
    "cohere": {  # scaled
        "vocab_size": 101,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "logit_scale": 0.3,
        "pad_token_id": 0,
    },
    "codegen": {  # with a bias
        "vocab_size": 101,
        "n_embd": 24,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 64,
        "rotary_dim": 4,
    },
}
#: Encoders that predict the token in the place of a mask.
MASKED = {
    name: {
        "vocab_size": 101,
        "hidden_size": 24,
        "embedding_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "max_position_embeddings": 64,
    }
    for name in ("bert", "distilbert", "electra")
}

SEQUENCES = [[5, 9, 2, 77, 31], [5, 9, 2, 8, 8], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [60, 61]]


@pytest.fixture(scope="module")
def models(checkpoints, tmp_path_factory):
    """Checkpoints by name."""
    found = {name: checkpoints[name] for name in ("gpt2", "gpt_neox", "llama", "gemma2")}
    for name, sizes in (MORE | MASKED).items():
        torch.manual_seed(0)
        made_by = AutoModelForMaskedLM if name in MASKED else AutoModelForCausalLM
        model = made_by.from_config(AutoConfig.for_model(name, **sizes))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        found[name] = tmp_path_factory.mktemp("models") / name
        model.save_pretrained(found[name])
    return found


def head(model, name):
    """What follows the blocks, and the blocks; written out by hand."""
    match name:
        case "gpt2" | "codegen":
            inner = model.transformer
            return inner.h, lambda x: model.lm_head(inner.ln_f(x))
        case "gpt_neox":
            inner = model.gpt_neox
            return inner.layers, lambda x: model.lm_head(inner.final_layer_norm(x))
        case "bert":
            return model.bert.encoder.layer, model.cls
        case "distilbert":
            before = [model.vocab_transform, torch.nn.GELU(), model.vocab_layer_norm]
            predict = torch.nn.Sequential(*before, model.vocab_projector)
            return model.distilbert.transformer.layer, predict
        case "electra":
            predict, project = model.generator_predictions, model.generator_lm_head
            return model.electra.encoder.layer, lambda x: project(predict(x))
        case "opt":
            inner = model.model.decoder
            norm, project = inner.final_layer_norm, inner.project_out
            return inner.layers, lambda x: model.lm_head(project(norm(x)))
    scale = {"cohere": lambda x: 0.3 * x, "gemma2": lambda x: 30 * (x / 30).tanh()}
    after = scale.get(name, lambda x: x)
    return model.model.layers, lambda x: after(model.lm_head(model.model.norm(x)))


#: What reads `resid_mid` in a block.
MIDDLE = {
    "gpt2": "ln_2",
    "llama": "post_attention_layernorm",
    "gemma2": "pre_feedforward_layernorm",
}


def looked(model, name, sequences):
    """Log-probabilities of each token, by site and layer, (token, d_vocab): text by text."""
    blocks, finish = head(model, name)
    places = {}
    for layer, block in enumerate(blocks):
        places["resid_pre", layer] = Place(block, "input")
        places["resid_post", layer] = Place(block, "output")
        if name in MIDDLE:
            places["resid_mid", layer] = Place(block.get_submodule(MIDDLE[name]), "input")
    seen, found = {}, {}
    hooks = [
        at(place, lambda hidden, key=key: seen.update({key: hidden}))
        for key, place in places.items()
    ]
    with torch.no_grad():
        for ids in sequences:
            logits = model(torch.tensor([ids])).logits
            assert torch.allclose(finish(seen["resid_post", len(blocks) - 1]), logits)
            for key, hidden in seen.items():
                found.setdefault(key, []).append(finish(hidden)[0].numpy())
    for hook in hooks:
        hook.remove()
    return {key: special.log_softmax(np.concatenate(x), axis=-1) for key, x in found.items()}


def seen_through(
    checkpoint, sequences, sites, layers, rows=None, batch_tokens=1024, dtype="float32"
):
    """The lens' log-probabilities, by site, layer and row."""
    table = columns(sequences, rows)
    lens = Lens(checkpoint, table, batch_tokens=batch_tokens, dtype=dtype, device="cpu")
    found = {}
    taps = taps_at(checkpoint)
    for section in sweep(
        checkpoint, batched(table, batch_tokens), sites, layers, (), dtype, taps=taps
    ):
        for site in sites:
            for row, predicted in lens(section, site):
                assert predicted.dtype == np.float32
                found[site, section.layer, row] = predicted
    return found


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma2", *MORE, *MASKED])
def test_every_layer_is_what_the_models_own_modules_predict(models, name):
    made_by = AutoModelForMaskedLM if name in MASKED else AutoModelForCausalLM
    model = made_by.from_pretrained(models[name]).eval()
    expected = looked(model, name, SEQUENCES)
    sites = ["resid_pre", *["resid_mid"] * (name in MIDDLE), "resid_post"]
    found = seen_through(models[name], SEQUENCES, sites, range(3))
    n_tokens = sum(map(len, SEQUENCES))
    assert len(found) == len(sites) * 3 * n_tokens
    for (site, layer, row), predicted in found.items():
        np.testing.assert_allclose(predicted, expected[site, layer][row], rtol=1e-5, atol=1e-5)


def plain(model, ids):
    """The log-probabilities of a full forward of a batch, (batch, position, d_vocab)."""
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.float().log_softmax(dim=-1).numpy()


@pytest.mark.parametrize(
    ("name", "n_texts", "threads"),
    [("gpt2", 1, 1), ("gpt2", 7, 1), ("gpt2", 1, 2), ("llama", 7, 1), ("gemma2", 2, 1)],
)
def test_the_last_layers_is_the_models_prediction_bit_for_bit(models, name, n_texts, threads):
    """Of a batch of any size, and whichever of its tokens are kept."""
    model = load(models[name])
    last = len(head(model, name)[0]) - 1
    generator = np.random.default_rng(n_texts)
    for length in (1, 3, 5, 11):
        ids = generator.integers(3, 101, (n_texts, length)).tolist()
        every = [[length * text + i for i in range(length)] for text in range(n_texts)]
        only = [[-1] * (length - 1) + [text] for text in range(n_texts)]
        torch.set_num_threads(threads)
        try:
            expected = plain(model, ids)
            all_tokens = seen_through(models[name], ids, ["resid_post"], [last], every)
            last_tokens = seen_through(models[name], ids, ["resid_post"], [last], only)
        finally:
            torch.set_num_threads(1)
        for (_, _, row), predicted in all_tokens.items():
            np.testing.assert_array_equal(predicted, expected[divmod(row, length)])
        for (_, _, row), predicted in last_tokens.items():
            np.testing.assert_array_equal(predicted, expected[row, -1])
        assert (len(all_tokens), len(last_tokens)) == (n_texts * length, n_texts)


def test_half_precision_is_that_of_the_model(models):
    model = AutoModelForCausalLM.from_pretrained(models["llama"], dtype=torch.bfloat16).eval()
    ids = np.random.default_rng(0).integers(0, 101, (4, 6)).tolist()
    rows = np.arange(24).reshape(4, 6).tolist()
    found = seen_through(models["llama"], ids, ["resid_post"], [3], rows, dtype="bfloat16")
    expected = plain(model, ids).reshape(24, -1)
    np.testing.assert_array_equal([found["resid_post", 3, row] for row in range(24)], expected)


def test_a_mean_of_hidden_states_is_looked_at_too(models):
    """The token table's rows are averaged in the sweep, before the lens."""
    model = load(models["gpt2"])
    rows = [[0] * 5, [1] * 5]
    found = seen_through(models["gpt2"], SEQUENCES[:2], ["resid_post"], [1], rows)
    with torch.no_grad():
        states = model(torch.tensor(SEQUENCES[:2]), output_hidden_states=True).hidden_states[2]
        logits = model.lm_head(model.transformer.ln_f(states.mean(dim=1)))
    for row in (0, 1):
        expected = logits[row].log_softmax(-1)
        np.testing.assert_allclose(found["resid_post", 1, row], expected, rtol=1e-5, atol=1e-5)


def test_only_chosen_tokens_are_predicted_from_and_weights_are_read_once(models, monkeypatch):
    shapes, read = [], []
    finish, around = MappedModel.finish, MappedWeights.around_blocks

    def counted_finish(self, ids, hidden):
        shapes.append(tuple(hidden.shape))
        return finish(self, ids, hidden)

    def counted_around(self, within, tables):
        read.append(within)
        return around(self, within, tables)

    monkeypatch.setattr(MappedModel, "finish", counted_finish)
    monkeypatch.setattr(MappedWeights, "around_blocks", counted_around)
    ids = np.random.default_rng(0).integers(0, 101, (40, 20)).tolist()
    only = [[-1] * 19 + [text] for text in range(40)]
    found = seen_through(models["gpt2"], ids, ["resid_post"], range(4), only, batch_tokens=640)
    assert len(found) == 4 * 40
    assert shapes == [(32, 1, 24), (8, 1, 24)] * 4  # of 640 and of 160 tokens
    assert read.count("") == 1
    shapes.clear()
    every = np.arange(800).reshape(40, 20).tolist()
    seen_through(models["gpt2"], ids, ["resid_post"], [0], every, batch_tokens=800)
    assert {n for n, _, _ in shapes} == {PREDICTED, 800 % PREDICTED}


def test_a_model_without_head_and_one_of_several_streams_are_refused(models, tmp_path):
    AutoModel.from_pretrained(models["bert"]).save_pretrained(tmp_path / "bert")
    given = {"batch_tokens": 1024, "dtype": "float32", "device": "cpu"}
    with pytest.raises(MicrotomeError, match="the 'bert' model has no head, and so no logits"):
        Lens(tmp_path / "bert", columns(SEQUENCES), **given)
    sizes = GROUPED | {"head_dim": 8, "vocab_size_per_layer_input": 101, "laurel_rank": 4}
    sizes |= {"hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0}
    sizes |= {"layer_types": ["sliding_attention", "full_attention"] * 2}
    config = AutoConfig.for_model("gemma3n_text", **sizes | {"intermediate_size": [40] * 4})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "gemma3n")
    with pytest.raises(
        MicrotomeError, match="gemma3n_text: its blocks hand on several streams, of"
    ):
        Lens(tmp_path / "gemma3n", columns(SEQUENCES), **given)


def test_what_is_no_residual_stream_is_refused(models):
    table = columns(SEQUENCES)
    lens = Lens(models["gpt2"], table, batch_tokens=1024, dtype="float32", device="cpu")
    section = Section(0, np.arange(2), {"attn_out": np.zeros((2, 24), np.float32)})
    with pytest.raises(MicrotomeError) as error:
        next(lens(section, "attn_out"))
    assert str(error.value) == (
        "site 'attn_out': final norm and head read the residual stream; name one of resid_pre, "
        "resid_mid, resid_post"
    )


def test_what_is_no_number_is_refused(models):
    table = columns(SEQUENCES)
    lens = Lens(models["gpt2"], table, batch_tokens=1024, dtype="float32", device="cpu")
    section = Section(2, np.arange(2), {"resid_post": np.full((2, 24), np.inf, np.float32)})
    with pytest.raises(MicrotomeError, match="layer 2, site resid_post: NaN predictions; check"):
        next(lens(section, "resid_post"))


# What is kept of predictions


class MadeUp:
    """Predictions by layer and row."""

    def __init__(self, predicted):
        self.predicted, self.d_vocab = predicted, predicted.shape[-1]

    def __call__(self, section, site):
        assert site == "resid_mid"
        for row in section.rows.tolist():
            yield row, self.predicted[section.layer // 3, row]


@pytest.fixture(scope="module")
def tokenizer(gpt2_tokenizer):
    return AutoTokenizer.from_pretrained(gpt2_tokenizer)


TOKENS = xr.Dataset(
    coords={
        "sequence": ("token", [0, 0, 1]),
        "position": ("token", [0, 1, 0]),
        "token_id": ("token", [7, 8, 9]),
        "text": ("token", np.array(["(", ")", "*"], dtype=object)),
    }
)
#: In two batches, the first one's rows last.
SECTIONS = [
    Section(layer, np.array(rows), {"resid_mid": np.zeros((len(rows), 1))})
    for layer in (0, 3)
    for rows in ([2], [0, 1])
]


def kept(predicted, tokenizer, **asked):
    lens = MadeUp(np.asarray(predicted, np.float32))
    return streamed(LensPredictions(lens, TOKENS, tokenizer, site="resid_mid", **asked), SECTIONS)


def test_what_is_kept_is_what_scipy_says(tokenizer):
    logits = np.random.default_rng(0).normal(0, 3, (2, 3, 5000)).astype(np.float32)
    predicted = special.log_softmax(logits, axis=-1)
    targets = [" the", "!", "?"]
    ids = [tokenizer.encode(target)[0] for target in targets]
    assert max(ids) < 5000
    found = kept(predicted, tokenizer, targets=targets, top=7)
    expected = stats.entropy(special.softmax(logits.astype(float), axis=-1), axis=-1)
    np.testing.assert_allclose(found["entropy"], expected, rtol=1e-5)
    assert found["entropy"].dims == ("layer", "token")
    np.testing.assert_array_equal(found["log_probabilities"], predicted[..., ids])
    order = np.argsort(-logits, axis=-1)
    places = np.argsort(order, axis=-1)[..., ids]
    np.testing.assert_array_equal(found["target_rank"], 1 + places)
    np.testing.assert_array_equal(found["top_token_id"], order[..., :7])
    highest = np.take_along_axis(predicted, order[..., :7], axis=-1)
    np.testing.assert_array_equal(found["top_log_probabilities"], highest)
    assert found["top_text"].values[1, 2, 0] == tokenizer.decode([order[1, 2, 0]])
    assert found["top_text"].dims == ("layer", "token", "rank")
    assert found["layer"].values.tolist() == [0, 3]
    assert found["target"].values.tolist() == targets
    assert found["rank"].values.tolist() == list(range(1, 8))
    xr.testing.assert_identical(
        found["text"].reset_coords(drop=True), TOKENS["text"].reset_coords(drop=True)
    )


def test_tokens_that_are_equally_likely_or_ruled_out(tokenizer):
    logits = np.full((2, 3, 50), -np.inf)
    logits[..., [40, 0, 30, 6]] = [1, 1, 1, 2]
    found = kept(special.log_softmax(logits, axis=-1), tokenizer, targets=["!", '"'], top=3)
    assert found["top_token_id"].values[0, 0].tolist() == [6, 0, 30]
    assert found["target_rank"].values[0, 0].tolist() == [2, 5]
    expected = stats.entropy(special.softmax([1, 1, 1, 2]))
    np.testing.assert_allclose(found["entropy"], np.full((2, 3), expected), rtol=1e-6)


def test_nothing_but_the_entropy_is_kept_unasked(tokenizer):
    found = kept(np.zeros((2, 3, 50)), tokenizer)
    assert list(found.data_vars) == ["entropy"]
    assert set(found.dims) == {"layer", "token"}


def test_more_tokens_than_there_are_and_targets_of_several(tokenizer):
    with pytest.raises(MicrotomeError, match="top: wants the 51 most likely of 50 tokens"):
        kept(np.zeros((2, 3, 50)), tokenizer, top=51)
    with pytest.raises(MicrotomeError, match="target ' vermin' is 2 tokens of this model"):
        kept(np.zeros((2, 3, 50)), tokenizer, targets=[" vermin"])


# From Python


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory, gpt2_tokenizer):
    """A GPT-2 with the real tokenizer."""
    folder = build(tmp_path_factory.mktemp("gpt2") / "gpt2", "gpt2", vocab_size=50257)
    AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        model = mt.model(folder)
        assert model.sites  # for which its blocks run
    return model


TEXTS = ["The cat sat on the mat", "A thin section", "Two thin sections"]


def test_the_real_model_seen_through_its_lens(smollm2, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = mt.model(smollm2, name="smollm2")
    text = "The capital of France is"
    found = mt.lens(model, text, [3, 29], tokens=[-1, 0], targets=[" Paris", " the"], top=5)
    reference = load(smollm2)
    ids = model.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        output = reference(ids, output_hidden_states=True)
        state = output.hidden_states[4][0, [0, -1]]
        early = reference.lm_head(reference.model.norm(state)).log_softmax(dim=-1)
    own = output.logits[0, [0, -1]].log_softmax(dim=-1)
    chosen = [model.tokenizer.encode(target)[0] for target in (" Paris", " the")]
    np.testing.assert_array_equal(found["log_probabilities"].sel(layer=29), own[:, chosen])
    top = own.topk(5)
    np.testing.assert_array_equal(found["top_log_probabilities"].sel(layer=29), top.values)
    np.testing.assert_array_equal(found["top_token_id"].sel(layer=29), top.indices)
    assert found["top_text"].values[1, 1, 0] == " Paris"
    assert found["target_rank"].sel(layer=29)[1, 0] == 1
    np.testing.assert_allclose(
        found["log_probabilities"].sel(layer=3), early[:, chosen], rtol=1e-5, atol=1e-5
    )
    for layer, logs in ((3, early), (29, own)):
        expected = stats.entropy(logs.double().exp(), axis=-1)
        np.testing.assert_allclose(found["entropy"].sel(layer=layer), expected, rtol=1e-5)
    assert found["position"].values.tolist() == [0, 4]
    assert found.attrs == {"model": "smollm2", "dtype": "float32", "site": "resid_post"}


def test_from_python_are_the_logits_of_a_sweep(gpt2):
    found = mt.lens(gpt2, TEXTS, targets=" the", top=1)
    assert found["layer"].values.tolist() == [0, 1, 2, 3]
    swept = mt.sweep(gpt2, TEXTS, "logits")
    expected = torch.from_numpy(swept["logits"].values).log_softmax(dim=-1).numpy()
    [target] = gpt2.tokenizer.encode(" the")
    np.testing.assert_array_equal(found["log_probabilities"][-1, :, 0], expected[:, target])
    np.testing.assert_array_equal(found["top_token_id"][-1, :, 0], expected.argmax(axis=-1))
    for name in ("sequence", "position", "token_id", "text"):
        np.testing.assert_array_equal(found[name], swept[name])


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"site": "z"}, "site: wants resid_pre, resid_mid or resid_post; has 'z'"),
        ({"layers": [4]}, "layers: wants `all` or numbers from 0 to 3; has [4]"),
        ({"targets": [" vermin"]}, "target ' vermin' is 2 tokens of this model (' ver' + 'min')"),
        ({"targets": [""]}, "target '' is 0 tokens of this model (none)"),
        ({"top": -1}, "top: wants 0 to 50257 tokens; has -1"),
        ({"top": 50258}, "top: wants 0 to 50257 tokens; has 50258"),
        ({"top": 1.5}, "top: wants 0 to 50257 tokens; has 1.5"),
        ({"tokens": "first"}, "tokens: wants `all`, `last`, `mean` or positions; has 'first'"),
        ({"dtype": "int8"}, "dtype: wants float32, bfloat16, float16; has 'int8'"),
    ],
)
def test_what_cannot_be_looked_at_is_refused_in_one_line(gpt2, asked, says, monkeypatch):
    def no_block(*arguments):
        raise AssertionError("a block runs")

    monkeypatch.setattr(MappedModel, "run_block", no_block)
    with pytest.raises(MicrotomeError) as error:
        mt.lens(gpt2, TEXTS, **asked)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(says)
