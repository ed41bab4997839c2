"""Encoders, and models without head: what they are, and their values beside a plain forward."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import GROUPED
from encoders import AUTO, ENCODER, FAMILIES, TEXTS, assert_same, head_of, made, plain, swept, tiny
from hooked import columns, taps_at
from intervened import Hooked, intervened
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
)
from transformers import models as families

import microtome as mt
from microtome.errors import MicrotomeError
from microtome.interventions.declared import declared
from microtome.interventions.run import intervene
from microtome.models.fetch import fetch, manifest
from microtome.models.mapped import MappedModel
from microtome.models.sources import Folder, Untrained
from microtome.models.taps import Sites
from microtome.store.layers import Section
from microtome.sweeps import cost
from microtome.sweeps.batches import batched
from microtome.sweeps.sweep import sweep
from microtome.workflow.requirements import judge

# Values


@pytest.mark.parametrize("head", ["masked", "none"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_plain_forward(tmp_path, family, head):
    checkpoint = tiny(tmp_path, family, head)
    final = ["ln_final"] if head == "none" else ["ln_final", "logits"]
    model = AUTO[head].from_pretrained(tmp_path / "origin", dtype=torch.float32).eval()
    assert_same(swept(checkpoint, final), plain(model))
    assert head_of(checkpoint) == head
    assert not MappedModel(checkpoint).is_causal


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_a_causal_model_without_head_equals_the_plain_forward(tmp_path, family):
    checkpoint = tiny(tmp_path, family, "none")
    model = AutoModel.from_pretrained(tmp_path / "origin", dtype=torch.float32).eval()
    assert_same(swept(checkpoint, ["ln_final"]), plain(model))
    assert head_of(checkpoint) == "none"
    assert MappedModel(checkpoint).is_causal


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_other_dtypes(tmp_path, dtype):
    checkpoint = tiny(tmp_path, "bert", "masked")
    file = tmp_path / "origin" / "model.safetensors"
    save_file({k: w.to(dtype) for k, w in load_file(file).items()}, file, {"format": "pt"})
    fetch(Folder(tmp_path / "origin"), checkpoint)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "origin", dtype=torch.float32).eval()
    assert_same(swept(checkpoint, ["ln_final", "logits"]), plain(model))


@pytest.mark.parametrize("family", ["albert", "bert", "deberta-v2", "modernbert"])
def test_a_sweep_in_parts_has_the_same_values(tmp_path, family):
    checkpoint = tiny(tmp_path, family, "masked")
    whole = swept(checkpoint, ["logits"])
    batches, handed = batched(columns(TEXTS), 1024), {}

    def hand_on(sections):
        rows = {}
        for section in sections:
            for row, value in zip(section.rows, section.values["resid_pre"], strict=True):
                rows[row] = value
        values = {"resid_pre": np.stack([rows[row] for row in sorted(rows)])}
        handed["entering"] = Section(2, np.arange(len(rows)), values)

    parts = [{"stop": 2, "resid_out": hand_on}, {}]
    for part, layers, final in zip(parts, [[0, 1], [2]], [[], ["logits"]], strict=True):
        given = {"resid_in": handed.get("entering"), "taps": {}} | part
        for section in sweep(checkpoint, batches, ["resid_post"], layers, final, **given):
            for site, values in section.values.items():
                np.testing.assert_array_equal(values, whole[section.layer, site][section.rows])


# What a checkpoint is


def stripped(folder, *, without=(), renamed=()):
    """Take tensors out of a folder's weights, or give them other names, and fetch it again."""
    file = folder / "origin" / "model.safetensors"
    weights = load_file(file)
    kept = {name: w for name, w in weights.items() if not any(part in name for part in without)}
    for old, new in renamed:
        kept = {name.replace(old, new): weight for name, weight in kept.items()}
    save_file(kept, file, {"format": "pt"})
    fetch(Folder(folder / "origin"), folder / "checkpoint")
    return folder / "checkpoint"


def test_a_head_that_is_absent_and_not_tied(tmp_path):
    checkpoint = tiny(tmp_path, "llama", "causal")
    whole = swept(checkpoint, ["ln_final", "logits"])
    assert head_of(checkpoint) == "causal"
    assert (checkpoint / "config.json").is_symlink()
    stripped(tmp_path, without=["lm_head"])
    assert head_of(checkpoint) == "none"
    assert json.loads((checkpoint / "config.json").read_text())["architectures"] == ["LlamaModel"]
    assert (checkpoint / "model.safetensors").is_symlink()
    del whole[None, "logits"]
    assert_same(swept(checkpoint, ["ln_final"]), whole)


def test_a_tied_head_is_one(tmp_path):
    assert head_of(tiny(tmp_path, "llama", "causal", tie_word_embeddings=True)) == "causal"


def test_a_head_of_another_shape_is_refused(tmp_path):
    tiny(tmp_path, "llama", "causal")
    file = tmp_path / "origin" / "model.safetensors"
    weights = load_file(file)
    save_file(weights | {"lm_head.weight": torch.ones(7, 24)}, file, {"format": "pt"})
    with pytest.raises(MicrotomeError, match=r"'lm_head\.weight'"):
        fetch(Folder(tmp_path / "origin"), tmp_path / "checkpoint")


def test_the_masked_lms_head_alone_is_absent(tmp_path):
    """As in many sentence encoders: BERT's names with the prefix, the pooler absent too."""
    checkpoint = tiny(tmp_path, "bert", "masked")
    whole = swept(checkpoint, ["ln_final"])
    stripped(tmp_path, without=["cls."])
    assert head_of(checkpoint) == "none"
    assert_same(swept(checkpoint, ["ln_final"]), whole)


@pytest.mark.parametrize("architectures", [None, [], ["BertForMaskedLM"]])
def test_a_base_model_by_its_weights(tmp_path, architectures):
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(*FAMILIES["bert"][:1], **ENCODER))
    assert head_of(made(model, tmp_path, architectures=architectures)) == "none"


@pytest.mark.parametrize(
    ("made_by", "head"),
    [
        (families.bert.BertForPreTraining, "masked"),
        (families.bert.BertForSequenceClassification, "none"),
        (families.bert.BertForTokenClassification, "none"),
        (families.roberta.RobertaForSequenceClassification, "none"),
        (families.electra.ElectraForPreTraining, "none"),
        (families.distilbert.DistilBertForQuestionAnswering, "none"),
        (families.modernbert.ModernBertForSequenceClassification, "none"),
        (families.llama.LlamaForSequenceClassification, "none"),
    ],
)
def test_heads_for_other_ends_are_ignored(tmp_path, made_by, head):
    torch.manual_seed(0)
    model = made_by(made_by.config_class(**GROUPED | ENCODER | {"num_labels": 2}))
    checkpoint = made(model.eval(), tmp_path)
    assert head_of(checkpoint) == head
    expected = plain(model.base_model)
    found = swept(checkpoint, ["ln_final"])
    # The base model of a model that is made anew computes in the same way, with its pooler.
    assert_same(found, expected)


def test_bert_as_a_decoder_is_causal(tmp_path):
    checkpoint = tiny(tmp_path, "bert", "causal", is_decoder=True)
    assert head_of(checkpoint) == "causal"
    assert MappedModel(checkpoint).is_causal


def test_names_of_old_are_converted(tmp_path):
    checkpoint = tiny(tmp_path, "bert", "masked")
    whole = swept(checkpoint, ["logits"])
    old = [("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")]
    stripped(tmp_path, renamed=old)
    assert head_of(checkpoint) == "masked"
    assert_same(swept(checkpoint, ["logits"]), whole)
    stripped(tmp_path, without=["cls."])
    assert head_of(checkpoint) == "none"
    del whole[None, "logits"]
    assert_same(swept(checkpoint, []), whole)


@pytest.mark.parametrize("head", ["masked", "none"])
def test_an_untrained_twin_is_of_the_same_class(tmp_path, head):
    checkpoint = tiny(tmp_path, "bert", head)
    twins = [tmp_path / "0", tmp_path / "1"]
    for seed, twin in enumerate(twins):
        fetch(Untrained("tiny", seed), twin, reference=checkpoint)
    assert [head_of(twin) for twin in twins] == [head, head]
    weights, others = (load_file(twin / "model.safetensors") for twin in twins)
    assert weights.keys() <= load_file(checkpoint / "model.safetensors").keys()
    name = next(name for name in weights if name.endswith("query.weight"))
    assert not torch.equal(weights[name], others[name])
    assert swept(twins[0], ["ln_final"])[None, "ln_final"].shape == (20, 24)


# Interventions


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A masked LM, and the same without its head."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "plain").mkdir()
    return SimpleNamespace(
        masked=tiny(folder, "bert", "masked"), plain=tiny(folder / "plain", "bert", "none")
    )


TABLE = columns(TEXTS) | {"masked": np.array([0, 0, 1, 0] * 2 + [0, 1, 0, 0, 0, 0] * 2)}


@pytest.mark.parametrize("batch_tokens", [1, 1024])
@pytest.mark.parametrize(
    "entry",
    [
        {"site": "resid_pre", "change": "zero", "each": ["layer"], "tokens": [1]},
        {
            "site": "resid_post",
            "change": {"scale": [0.5, 2.0]},
            "each": ["amount"],
            "tokens": "last",
        },
        {"site": "resid_post", "change": {"patch": [[2, 3]]}, "layers": [1], "tokens": [4]},
        {"site": "resid_pre", "change": {"noise": 1.0}, "tokens": "mask", "each": ["layer"]},
        {"site": "z", "change": "zero", "each": ["layer", "head"]},
        {"site": "v", "change": {"scale": 2.0}, "heads": [1], "tokens": [2], "each": ["layer"]},
        {"site": "post", "change": "zero", "neurons": [1, 7], "tokens": "mask"},
    ],
)
def test_interventions_equal_a_full_forward_for_each_case(bert, entry, batch_tokens):
    model = AutoModelForMaskedLM.from_pretrained(bert.masked, dtype=torch.float32).eval()
    entry = entry | {"read": {"resid_post": "all", "logits": "mask", "kl": "mask"}}
    taps = taps_at(bert.masked)
    found = intervene(bert.masked, TABLE, declared(entry), taps=taps, batch_tokens=batch_tokens)
    expected = intervened(Hooked(model, "bert"), TABLE, entry)
    assert set(found.data_vars) == set(expected.data_vars)
    for name, values in expected.data_vars.items():
        atol = max(1e-5 * np.abs(values.values).max(), 1e-6)
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=atol, err_msg=name)
    # A change reaches the tokens before it, too.
    assert (found["resid_post_difference"].isel(read_token=0) > 0).any()


def test_hidden_states_of_a_model_without_head_are_changed(bert):
    read = {"resid_post": {"tokens": "all", "as": "values"}}
    entry = declared({"site": "resid_pre", "change": "zero", "tokens": [1], "read": read})
    found = intervene(bert.plain, TABLE, entry, taps={})
    assert found["resid_post"].shape == (3, 20, 24)


# Refusals


def test_what_changes_between_blocks_is_refused(tmp_path):
    checkpoint = tiny(tmp_path, "deberta-v2", "masked", conv_kernel_size=3)
    with pytest.raises(
        MicrotomeError, match=r"^deberta-v2: the model changes the hidden state betw"
    ):
        swept(checkpoint, ["ln_final"])


def test_an_encoder_with_a_decoder_is_refused(tmp_path):
    sizes = {"vocab_size": 101, "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 3}
    model = AutoModel.from_config(AutoConfig.for_model("t5", **sizes, num_heads=4))
    with pytest.raises(MicrotomeError, match="'t5' is neither a causal language model nor an enc"):
        made(model, tmp_path)


NO_SITES = Sites({}, {})
NO_HEAD = "has no head, and so no logits or predictions; take a model that has one, or leave out"


def test_logits_of_a_model_without_head_are_refused(bert):
    batches = batched(columns(TEXTS), 1024)
    with pytest.raises(MicrotomeError, match=f"^the 'bert' model {NO_HEAD}"):
        next(sweep(bert.plain, batches, [], [], ["logits"], taps={}))
    mine = mt.model(bert.plain.parent / "origin", name="mine")
    with pytest.raises(MicrotomeError, match=f"^mine {NO_HEAD}"):
        mt.sweep(mine, ["a"], sites=["resid_pre", "logits"])


@pytest.mark.parametrize("read", [{"logits": "last"}, {"kl": "last"}, {"loss": True}])
def test_predictions_of_a_model_without_head_are_refused(bert, read):
    entry = declared({"site": "resid_pre", "change": "zero", "read": read})
    with pytest.raises(MicrotomeError, match=f"read.*the 'bert' model {NO_HEAD}"):
        intervene(bert.plain, TABLE, entry, taps={})


@pytest.mark.parametrize("read", [{"loss": True}, {"logits": "all", "targets": "next"}])
def test_what_a_masked_lm_does_not_predict_is_refused(bert, read):
    entry = declared({"site": "resid_pre", "change": "zero", "read": read})
    with pytest.raises(MicrotomeError, match="next token, and the 'bert' model predicts masked"):
        intervene(bert.masked, TABLE, entry, taps={})


def test_studies_that_read_what_a_model_predicts_are_judged_with_the_tokens(bert):
    wish = {"key": "studies.mine.models", "head": "minilm"}
    judge([wish], TABLE, bert.masked, NO_SITES)
    with pytest.raises(MicrotomeError, match=f"^studies.mine.models: minilm {NO_HEAD}"):
        judge([wish], TABLE, bert.plain, NO_SITES)


# From Python, and the plan


def test_a_model_says_what_it_is(bert):
    masked, without = (
        mt.model(of.parent / "origin", name="mine") for of in (bert.masked, bert.plain)
    )
    assert repr(masked).startswith("<Model mine: bert, a masked LM>")
    assert repr(without).startswith("<Model mine: bert, without head>")
    assert {"ln_final", "logits"} <= set(masked.sites)
    assert "ln_final" in without.sites and "logits" not in without.sites


def test_no_logits_cost_nothing(bert):
    costs = []
    for checkpoint in (bert.masked, bert.plain):
        model = cost.model(manifest(checkpoint, name="", source="", revision=""))
        model.sizes["d_vocab"] = 1_000_000
        given = {"batch_tokens": 1024, "threads": 1}
        costs.append(cost.sweep(model, [6, 6], [], [], ["ln_final"], **given).memory)
    assert costs[0] > costs[1] + 24_000_000
