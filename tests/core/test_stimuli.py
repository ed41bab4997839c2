"""Stimulus files, and the token tables they become."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import build
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from microtome.errors import MicrotomeError
from microtome.store.datasets import read_dataset, write_dataset
from microtome.texts.rows import row_columns, sequences
from microtome.texts.stimuli import Stimulus, read_set
from microtome.texts.tokens import token_table

CATEGORIES = Path(__file__).parents[2] / "stimuli" / "categories.yaml"


@pytest.fixture(scope="module")
def gpt2(gpt2_tokenizer, tmp_path_factory):
    """A tiny GPT-2 with the real tokenizer and a context of 64."""
    folder = build(tmp_path_factory.mktemp("gpt2"), "gpt2", vocab_size=50257)
    AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(gpt2):
    return AutoTokenizer.from_pretrained(gpt2)


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A tiny Llama that reads letter by letter after a token for the beginning of the text."""
    folder = build(tmp_path_factory.mktemp("letters"), "llama")
    vocabulary = {"<s>": 0} | {chr(i): i - 31 for i in range(32, 127)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)
    return folder


def test_the_words_of_project_38():
    stimuli = read_set(CATEGORIES).stimuli
    assert len(stimuli) == 34
    assert stimuli[0] == Stimulus("The next word is galaxy", "galaxy", "space", (17, 23))
    counts = [sum(s.category == c for s in stimuli) for c in ("space", "house", "fruit")]
    assert counts == [10, 13, 11]


def test_texts_and_words_are_read_as_text(tmp_path):
    file = tmp_path / "texts.yaml"
    file.write_text("source: x\ntexts:\n- no\n- 'on: 1984'\n- \"a\\nb\"\n", encoding="utf-8")
    assert read_set(file).stimuli == (Stimulus("no"), Stimulus("on: 1984"), Stimulus("a\nb"))
    file.write_text("source: x\ntemplate: '{word}'\nwords: {a: [no, yes], b: [1e3, ~]}\n")
    assert [s.text for s in read_set(file).stimuli] == ["no", "yes", "1e3", "~"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"source: x\ntexts: [a, '']", "entry 2 is empty"),
        (b"source: x\ntexts: []", "wants a list of texts"),
        (b"source: x\ntexts: a", "wants a list of texts"),
        (b"source: x\ntexts: [[a]]", "entry 1 is empty or no text"),
        (b"source: x\ntemplate: 'The word'\nwords: {a: [b, c]}", "{word} once"),
        (b"source: x\ntemplate: '{word} {word}'\nwords: {a: [b, c]}", "{word} once"),
        (b"source: x\ntemplate: '{word}'\nwords: {a: [b]}", "a: wants a list of two"),
        (b"source: x\ntemplate: '{word}'\nwords: {a: [b, ' ']}", "a: entry 2 is empty"),
        (b"source: x\ntemplate: '{word}'\nwords: {a: [b, b]}", "a: 'b' stands there twice"),
        (b"source: x\ntemplate: '{word}'\nwords: [b, c]", "wants categories"),
        (b"source: x\ntemplate: '{word}'", "wants one of `texts:`"),
        (b"source: x\ntemplate: '{word}'\nwords: {a: [b, c]}\ntexts: [d]", "wants one of `texts:`"),
        (b"source: x\nwrods: {a: [b, c]}", "unknown key 'wrods'; did you mean 'words'"),
        (b"texts: [a]", "`source:` is missing"),
        (b"- a\n- b", "wants `source:` with"),
        (b"source: x\ntexts: [a", "not YAML"),
        (b"source: x\ntexts: [caf\xe9]", "byte 21 is not UTF-8"),
    ],
)
def test_bad_stimulus_files_are_refused_in_one_line(tmp_path, content, message):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with pytest.raises(MicrotomeError) as caught:
        read_set(file)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


class Counted(str):
    """A word that counts how often it is compared with another."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        Counted.compared += 1
        return str.__eq__(self, other)


def test_reading_words_takes_time_in_proportion_to_their_number(monkeypatch):
    words = [Counted(f"w{number}") for number in range(2000)]
    content = {"source": "x", "template": "{word}", "words": {"a": words, "b": words}}
    monkeypatch.setattr("microtome.texts.stimuli.read_yaml", lambda path: content)
    assert len(read_set(Path("many.yaml")).stimuli) == 4000
    assert Counted.compared < 10 * 4000


def test_a_missing_stimulus_file_is_named(tmp_path):
    with pytest.raises(MicrotomeError, match=r"none\.yaml: no such file"):
        read_set(tmp_path / "none.yaml")


def test_rows_are_the_tokenizers_own_tokens(gpt2):
    stimuli = [Stimulus("The next word is asteroid"), Stimulus("Illés, Metró"), Stimulus("x")]
    table = token_table(stimuli, gpt2)
    tokenizer = AutoTokenizer.from_pretrained(gpt2)
    expected = [tokenizer.encode(s.text) for s in stimuli]
    rows = [(i, p, token) for i, ids in enumerate(expected) for p, token in enumerate(ids)]
    columns = [table[name].values for name in ("sequence", "position", "token_id")]
    assert list(zip(*columns, strict=True)) == rows
    assert [list(ids) for ids in sequences(table)] == expected
    assert "".join(table["text"].values[:5]).startswith("The next word is")
    assert set(table.coords) == {"sequence", "position", "token_id", "text"}


@pytest.mark.parametrize(
    ("tokens", "rows"),
    [
        ("last", [-1, -1, 0, -1, 1]),
        ("mean", [0, 0, 0, 1, 1]),
        ([0], [0, -1, -1, 1, -1]),
        ([-1, 0], [0, -1, 1, 2, 3]),
        ([1, -1], [-1, 0, 1, -1, 2]),  # in the second text they are the same token
    ],
)
def test_a_set_may_keep_some_of_its_tokens(gpt2, tokens, rows):
    stimuli = [Stimulus("One two three"), Stimulus("Four five")]
    table = token_table(stimuli, gpt2, tokens)
    assert list(table["row"].values) == rows
    assert [len(ids) for ids in sequences(table, "row")] == [3, 2]
    kept = row_columns(table.coords)
    assert "row" not in kept
    whole = token_table(stimuli, gpt2)
    assert table.drop_vars("row").identical(whole)
    if tokens == "mean":
        assert list(kept["token_id"]) == list(kept["position"]) == [-1, -1]
        assert list(kept["text"]) == ["mean of 3 tokens", "mean of 2 tokens"]
        assert list(kept["sequence"]) == [0, 1]
    else:
        chosen = np.array(rows) >= 0
        for name in whole.coords:
            assert list(kept[name]) == list(whole[name].values[chosen])
    assert list(kept["length"]) == [{0: 3, 1: 2}[number] for number in kept["sequence"]]
    assert kept.keys() - set(whole.coords) == {"length"}


@pytest.mark.parametrize("tokens", ["last", "mean", [0], [1, -1]])
def test_kept_tokens_tell_where_the_word_of_their_text_was(letters, tokens):
    stimuli = [  # read letter by letter, after a token for the beginning
        Stimulus("an ox.", "ox", "animal", (3, 5)),
        Stimulus("an owl.", "owl", "animal", (3, 6)),
        Stimulus("pan", "pan", "pot", (0, 3)),
        Stimulus("of", "", "none", (0, 0)),
    ]
    kept = row_columns(token_table(stimuli, letters, tokens).coords)
    where = {0: (7, 4, 6), 1: (8, 4, 7), 2: (4, 1, 4), 3: (3, -1, -1)}
    columns = zip(kept["length"], kept["word_start"], kept["word_end"], strict=True)
    assert list(columns) == [where[number] for number in kept["sequence"]]
    assert {kept[name].dtype for name in ("length", "word_start", "word_end")} == {np.dtype("i4")}


def test_where_all_tokens_are_kept_no_column_is_added(letters):
    table = token_table([Stimulus("an ox", "ox", "animal", (3, 5))], letters)
    assert row_columns(table.coords).keys() == set(table.coords)


def test_a_text_too_short_for_a_position_is_named(gpt2):
    stimuli = [Stimulus("One two three"), Stimulus("Four", origin="s.yaml: texts: entry 2")]
    with pytest.raises(MicrotomeError, match=r"s\.yaml: texts: entry 2: 'Four' has 1 tokens.* 2;"):
        token_table(stimuli, gpt2, [0, 2])


@pytest.mark.parametrize("model", ["gpt2", "letters", "smollm2"])
def test_words_of_any_number_of_tokens_are_marked(model, request):
    long = Stimulus("Say antidisestablishmentarianism now", "antidis…", "long", (4, 32))
    stimuli = [*read_set(CATEGORIES).stimuli, long]
    table = token_table(stimuli, request.getfixturevalue(model))
    lengths = set()
    for number, stimulus in enumerate(stimuli):
        rows = table.isel(token=table["sequence"].values == number)
        marked = rows.isel(token=rows["in_word"].values == 1)
        first, last = stimulus.span
        joined = "".join(marked["text"].values).replace("<s>", "")
        assert joined.strip() == stimulus.text[first:last]
        assert set(rows["category"].values) == {stimulus.category}
        lengths.add(marked.sizes["token"])
    assert max(lengths) > 1


def test_special_tokens_are_kept_as_the_tokenizer_adds_them(letters):
    table = token_table([Stimulus("ab", "ab", "x", (0, 2))], letters)
    assert list(table["token_id"].values) == [0, ord("a") - 31, ord("b") - 31]
    assert list(table["in_word"].values) == [0, 1, 1]


def test_mask_tokens_are_marked_where_there_are_any(letters, tmp_path):
    with_mask = AutoTokenizer.from_pretrained(letters)
    with_mask.add_special_tokens({"mask_token": "_"})
    build(tmp_path, "llama")
    with_mask.save_pretrained(tmp_path)
    table = token_table([Stimulus("a_b"), Stimulus("cd")], tmp_path)
    assert table["masked"].values.tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert table["masked"].dtype == np.int8
    assert "masked" not in token_table([Stimulus("ab")], tmp_path)
    assert "masked" not in token_table([Stimulus("a_b")], letters)


def test_a_text_longer_than_the_context_is_named(letters):
    with pytest.raises(MicrotomeError, match=r"stimulus 1: 'ababab.*65 tokens.*takes 64"):
        token_table([Stimulus("a"), Stimulus("ab" * 32)], letters)


def test_a_text_longer_than_the_context_is_named_by_its_file(tmp_path, letters):
    file = tmp_path / "long.yaml"
    file.write_text(f"source: x\ntexts: [a, {'ab' * 32}]\n", encoding="utf-8")
    with pytest.raises(MicrotomeError, match=r"long\.yaml: texts: entry 2: 'ababab.*; shorten the"):
        token_table(read_set(file).stimuli, letters)


def test_a_token_with_a_nul_can_be_stored(tmp_path):
    build(tmp_path, "llama")
    vocabulary = {"\0": 0, "a": 1, "?": 2}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="\0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    write_dataset(token_table([Stimulus("abc")], tmp_path), tmp_path / "tokens.h5")
    assert list(read_dataset(tmp_path / "tokens.h5")["text"].values) == ["a", "␀", "␀"]


def test_the_tokenizer_of_another_model_is_refused(gpt2_tokenizer, tmp_path):
    build(tmp_path, "gpt2")
    with pytest.raises(MicrotomeError, match=r"makes no token of 'a'; put the model's own token"):
        token_table([Stimulus("a")], tmp_path)
    AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(tmp_path)
    with pytest.raises(MicrotomeError, match=r"makes token \d+ of 101 of 'antidis"):
        token_table([Stimulus("antidisestablishmentarianism")], tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(MicrotomeError, match=r"cannot load the tokenizer \(.*\); put the model's"):
        token_table([Stimulus("a")], tmp_path)


seeded = settings(derandomize=True, deadline=None, max_examples=20)
#: Texts and words as a stimulus file may have them.
WORDS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8
).filter(str.strip)


@seeded
@given(texts=st.lists(WORDS, min_size=1, max_size=15))
def test_any_texts_become_consecutive_rows(gpt2, tokenizer, texts):
    table = token_table([Stimulus(text) for text in texts], gpt2)
    split = [list(ids) for ids in sequences(table)]
    assert split == [tokenizer.encode(text) for text in texts]
    assert [tokenizer.decode(ids) for ids in split] == texts
    expected = [(i, place) for i, ids in enumerate(split) for place in range(len(ids))]
    assert list(zip(table["sequence"].values, table["position"].values, strict=True)) == expected
    for name in ("sequence", "position", "token_id"):
        assert table[name].dtype == np.int32
    pieces = [tokenizer.decode([token]) for ids in split for token in ids]
    assert list(table["text"].values) == pieces


@seeded
@given(
    before=st.sampled_from(["", "The next word is ", "字 ", "(", "…"]),
    after=st.sampled_from(["", " now", ".", "s", "́"]),
    words=st.lists(WORDS, min_size=2, max_size=15, unique=True),
)
def test_any_word_in_any_template_is_covered(gpt2, tokenizer, before, after, words):
    start = len(before)
    stimuli = [
        Stimulus(before + word + after, word, "x", (start, start + len(word))) for word in words
    ]
    table = token_table(stimuli, gpt2)
    for number, word in enumerate(words):
        rows = table.isel(token=table["sequence"].values == number)
        ids, marked = rows["token_id"].values, rows["in_word"].values.astype(bool)
        first, last = np.flatnonzero(marked)[[0, -1]]
        assert marked[first : last + 1].all()
        assert word in tokenizer.decode(ids[marked])
        # No token more: without either end, a part of the word is missing.
        for rest in (ids[first + 1 : last + 1], ids[first:last]):
            assert word not in tokenizer.decode(rest)
        assert set(rows["word"].values) == {word}
        assert set(rows["category"].values) == {"x"}


@seeded
@given(
    texts=st.lists(WORDS, min_size=1, max_size=4),
    words=st.dictionaries(WORDS, st.lists(WORDS, min_size=2, max_size=4, unique=True), min_size=1),
)
def test_any_texts_and_words_are_read_as_they_stand(gpt2, texts, words):
    file = gpt2 / "any.yaml"
    file.write_text(yaml.safe_dump({"source": "x", "texts": texts}), encoding="utf-8")
    assert [stimulus.text for stimulus in read_set(file).stimuli] == texts
    content = {"source": "x", "template": "A {word}.", "words": words}
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    stimuli = read_set(file).stimuli
    assert [(s.category, s.word) for s in stimuli] == [
        (category, word) for category, members in words.items() for word in members
    ]
    for stimulus in stimuli:
        assert stimulus.text == f"A {stimulus.word}."
        assert stimulus.text[slice(*stimulus.span)] == stimulus.word
