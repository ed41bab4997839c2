"""Texts with `{mask}`, and the tokens that a table marks as masked or special."""

import numpy as np
import pytest
import torch
from conftest import build
from encoders import tiny
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AddedToken,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertTokenizer,
    GPT2Tokenizer,
    RobertaTokenizer,
)

import microtome as mt
from microtome.errors import MicrotomeError
from microtome.models.fetch import manifest
from microtome.texts.rows import row_columns
from microtome.texts.stimuli import Stimulus, read_set
from microtome.texts.tokens import token_table


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
    table = token_table(read_set(file).stimuli, readers[name])
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
        token_table(read_set(file).stimuli, readers["llama"])
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
