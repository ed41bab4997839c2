"""Corpora: files of texts, read and tokenised as a stream, cut into sequences of one length."""

import hashlib
import json
import os
import subprocess
import sys
import weakref
from itertools import chain

import fastparquet
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import build
from tokenizers import Tokenizer, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from word_reader import COMMIT, save, words_model
from workflows import ROOT, Clone

from microtome.errors import MicrotomeError
from microtome.texts import corpora, reader
from microtome.texts.corpora import documents
from microtome.texts.fetched import fetch_texts, with_fetched
from microtome.texts.forms import Lengths, Sample
from microtome.texts.rows import row_columns, sequences
from microtome.texts.stimuli import read_set
from microtome.texts.tokens import set_table, set_tables, token_text
from microtome.workflow.forks import MODEL_SERVER, SERVER

DOCUMENTS = ["the cat saw the dog and the dog", "a cat", "saw a cat or a dog and a cat saw", "dog"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tiny model that reads words, with a context of 64."""
    return words_model(tmp_path_factory.mktemp("words"))


def corpus(folder, texts=DOCUMENTS, **more):
    """A stimulus file of a corpus in JSONL."""
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    said = {"source": "made up", "corpus": "corpus.jsonl"} | more
    return read_set(save(folder, json.dumps(said)))


def by_hand(texts, room, *, overlap=0, joined=False, before=(), after=(), end=()):
    """Sequences of tokens, cut of lists of tokens one after another."""
    texts = [[*text, *end] for text in texts]
    found = []
    for text in [list(chain(*texts))] if joined else texts:
        start = 0
        while True:
            found.append([*before, *text[start : start + room], *after])
            if start + room >= len(text):
                break
            start += room - overlap
    return found


def read(found, checkpoint, **more):
    return [ids.tolist() for ids in sequences(set_table(found, checkpoint, **more))]


def test_each_kind_of_file_is_read_and_a_folder_in_the_order_of_names(tmp_path):
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "a.txt").write_text("hidden")
    (folder / "a.txt").write_bytes("\ufeffone\r\n\r\nté".encode())
    lines = [{"text": "two"}, {"text": ""}, {"text": None}, {"text": "three", "more": 1}]
    (folder / "b" / "c.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    frame = pd.DataFrame({"n": range(5), "text": ["four", " \n", "five", None, "six"]})
    fastparquet.write(str(folder / "d.parquet"), frame, row_group_offsets=[0, 2])
    (folder / "e.txt").write_text(" \n")
    (folder / "notes.md").write_text("not of it")
    found = read_set(save(tmp_path, "source: x\ncorpus: texts\n"))
    assert [text.text for text in documents(found)] == [
        *("\ufeffone\r\n\r\nté", "two", "three", "four", "five", "six")
    ]
    origins = [text.origin.removeprefix(f"{folder}/") for text in documents(found)]
    assert origins[1:] == [
        *("b/c.jsonl: line 1", "b/c.jsonl: line 4"),
        *("d.parquet: row 0", "d.parquet: row 2", "d.parquet: row 4"),
    ]
    assert (found.n_sequences, found.words, found.labels) == (None, False, [])
    # From the stimulus file on, wherever that is called from.
    inside = folder / "sets"
    inside.mkdir()
    other = read_set(save(inside, "source: x\ncorpus: ../b/c.jsonl\nfield: more\n"))
    assert other.corpus.files == (folder / "b" / "c.jsonl",)
    like = save(tmp_path, "like: mine\nshuffled: 0\n", "other")
    assert read_set(like).corpus == found.corpus


@pytest.mark.parametrize("overlap", [0, 1, 3])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("added", [{}, {"bos": "true"}, {"eos": "true"}, {"special": "true"}])
def test_sequences_are_those_of_whole_documents_cut_by_hand(
    tmp_path, words, overlap, joined, added
):
    tokenizer = AutoTokenizer.from_pretrained(words)
    wanted = {"before": [0], "after": [1]} if "special" in added else {}
    wanted |= {"before": [0]} if "bos" in added else {}
    wanted |= {"end": [1]} if "eos" in added else {}
    for length in (6, 7, 40):
        cut = {"length": str(length), "overlap": str(overlap)} | added
        cut |= {"documents": "joined"} if joined else {}
        found = corpus(tmp_path, cut=cut)
        ids = tokenizer(DOCUMENTS, add_special_tokens=False)["input_ids"]
        room = length - len(wanted.get("before", ())) - len(wanted.get("after", ()))
        expected = by_hand(ids, room, overlap=overlap, joined=joined, **wanted)
        table = set_table(found, words)
        assert read(found, words) == expected
        assert table["sequence"].values[-1] == len(expected) - 1
        assert ("special" in table) == bool(added)
        if added:
            # The words are tokens of their own, so that ids 0 and 1 stand nowhere else.
            assert table["special"].values.tolist() == (table["token_id"].values < 2).tolist()


def test_the_keys_of_a_cut_of_one_length(tmp_path, words):
    found = corpus(tmp_path, cut={"length": "context"})
    assert found.cut == Lengths("context")
    assert len(read(corpus(tmp_path, ["the cat"] * 50, cut=vars_of(found)), words)) == 50
    joined = corpus(tmp_path, ["the cat"] * 50, cut={"length": "context", "documents": "joined"})
    assert list(map(len, read(joined, words))) == [64, 36]


def vars_of(found):
    return {"length": str(found.cut.length)}


def test_a_corpus_without_cut_is_a_sequence_of_each_document(tmp_path, words):
    found = corpus(tmp_path, ["the cat {mask}", "a", "", "<mask>"])
    tokenizer = AutoTokenizer.from_pretrained(words)
    texts = ["the cat {mask}", "a", "<mask>"]
    assert read(found, words) == tokenizer(texts)["input_ids"]
    table = set_table(found, words)
    assert set(table.coords) == {"sequence", "position", "token_id", "text", "special"}
    last = row_columns(set_table(found, words, "last").coords)
    assert last["token_id"].tolist() == [1, 1, 1]


REAL = {"smollm2": "smollm2", "minilm": "minilm"}


@pytest.mark.parametrize("name", REAL)
def test_a_real_tokenizer_reads_long_texts_as_it_reads_whole_ones(
    tmp_path, monkeypatch, request, name
):
    checkpoint = request.getfixturevalue(name)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    (tmp_path / "texts").mkdir()
    files = [ROOT / "docs" / "extending.md", ROOT / "tests" / "workflows.py", ROOT / "LICENSE"]
    texts = [file.read_text(encoding="utf-8") for file in files]
    texts.append("".join(f"{n} naïve 字 words\t and\n\n  more " for n in range(900)))
    for number, text in enumerate(texts):
        with (tmp_path / "texts" / f"{number}.txt").open("w", newline="") as file:
            file.write(text)
    cut = {"length": "100", "overlap": "10"}
    said = {"source": "x", "corpus": "texts", "cut": cut}
    found = read_set(save(tmp_path, json.dumps(said)))
    monkeypatch.setattr(corpora, "PIECE", 5000)
    monkeypatch.setattr(reader, "PIECE", 700)
    monkeypatch.setattr(reader, "BATCH", 3000)
    whole = tokenizer(
        texts,
        add_special_tokens=False,
        truncation=True,
        max_length=100,
        stride=10,
        return_overflowing_tokens=True,
    )
    assert read(found, checkpoint) == whole["input_ids"]
    pieces = reader.Reader(tokenizer, checkpoint, len(tokenizer))._pieces(documents(found))
    assert sum(1 for _ in pieces) > sum(map(len, texts)) / 1500
    table = set_table(found, checkpoint)
    ids = [token for sequence in whole["input_ids"] for token in sequence]
    assert table["text"].values.tolist() == [token_text(tokenizer, token) for token in ids]


def test_a_tokenizer_that_reads_a_text_as_one_word_gets_it_whole(tmp_path, monkeypatch):
    build(tmp_path, "llama")
    letters = {"▁": 0} | {chr(i): i - 31 for i in range(33, 127)}
    tokenizer = Tokenizer(models.BPE({**letters, "?\n": 96, "▁a": 97}, [("▁", "a")]))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    text = "a word and another " * 300
    (tmp_path / "a.txt").write_text(text)
    found = read_set(save(tmp_path, "source: x\ncorpus: a.txt\ncut: {length: 50}\n"))
    monkeypatch.setattr(corpora, "PIECE", 1000)
    monkeypatch.setattr(reader, "PIECE", 300)
    ids = AutoTokenizer.from_pretrained(tmp_path).encode(text, add_special_tokens=False)
    assert read(found, tmp_path) == by_hand([ids], 50)


def test_tables_of_some_sequences_are_the_parts_of_one(tmp_path, words):
    cut = {"length": "4", "overlap": "1", "bos": "true"}
    found = corpus(tmp_path, DOCUMENTS * 5, cut=cut)
    whole = set_table(found, words, [-1])
    parts = list(set_tables(found, words, [-1], 7))
    assert {len(sequences(part)) for part in parts[:-1]} == {7}
    assert all(part["row"].max() == len(sequences(part)) - 1 for part in parts)
    joined = xr.concat([part.drop_vars("row") for part in parts], "token")
    assert joined.identical(whole.drop_vars("row"))


def test_a_share_is_drawn_sequence_by_sequence(tmp_path, words):
    texts = [" ".join(["the cat saw a dog or"] * (n % 7 + 1)) for n in range(400)]
    cut = {"length": "5"}
    everything = read(corpus(tmp_path, texts, cut=cut), words)
    share = {"sequences": "12.5%", "seed": "3"}
    found = corpus(tmp_path, texts, cut=cut, sample=share)
    assert found.sample == Sample(3, share=0.125)
    drawn = read(found, words)
    chances = np.random.default_rng(3).random(len(everything))
    chosen = [one for one, chance in zip(everything, chances, strict=True) if chance < 0.125]
    assert drawn == chosen and 150 < len(drawn) < 300
    more = read(corpus(tmp_path, texts + texts, cut=cut, sample=share), words)
    assert more[: len(drawn)] == drawn
    assert read(corpus(tmp_path, texts, cut=cut, sample=share | {"seed": "4"}), words) != drawn
    some = corpus(tmp_path, texts, cut=cut, sample={"sequences": "60", "seed": "3"})
    assert some.n_sequences == 60
    smallest = np.sort(np.argsort(chances)[:60])
    assert read(some, words) == [everything[number] for number in smallest]
    assert (
        read(corpus(tmp_path, texts[:9], sample={"sequences": "9", "seed": "0"}), words)
        == (AutoTokenizer.from_pretrained(words)(texts[:9])["input_ids"])
    )


def test_sequences_of_a_corpus_are_shuffled_and_masked(tmp_path, words):
    cut = {"length": "4", "bos": "true"}
    plain = read(corpus(tmp_path, cut=cut), words)
    shuffled = read(corpus(tmp_path, cut=cut, shuffled=["5", "6"]), words)
    assert len(shuffled) == 2 * len(plain)
    for number, ids in enumerate(shuffled):
        seed, number = (5, 6)[number // len(plain)], number % len(plain)
        order = np.random.default_rng([seed, number]).permutation(np.arange(1, len(ids)))
        assert ids == [0, *np.array(plain[number])[order]]
    masked = set_table(corpus(tmp_path, cut=cut, masked="each"), words)
    assert masked["masked"].values.sum() == sum(map(len, plain))
    assert np.array_equal(sequences(masked, "target_id")[1], plain[0])


class Counted:
    """Documents that are counted while they are alive."""

    def __init__(self):
        self.alive, self.read, self.most = weakref.WeakValueDictionary(), 0, 0

    def __call__(self, found):
        for text in documents(found):
            self.read += 1
            self.alive[self.read] = text
            self.most = max(self.most, len(self.alive))
            yield text
            del text


def test_documents_are_read_when_they_are_needed_and_not_kept(tmp_path, words, monkeypatch):
    texts = ["the cat saw the dog and a cat " * 5] * 200
    found = corpus(tmp_path, texts, cut={"length": "8", "documents": "joined"})
    counted = Counted()
    monkeypatch.setattr("microtome.texts.tokens.documents", counted)
    monkeypatch.setattr(reader, "BATCH", 1000)  # seven documents
    tables = set_tables(found, words, "all", 10)
    next(tables)
    assert counted.read <= 30
    assert 200 > sum(1 for _ in tables) > 90
    assert counted.read == 200
    assert counted.most <= 30


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": "b"\n', "line 2: is not JSON ("),
        ("a.jsonl", '{"text": "a"}\n[1]\n', "line 2: wants {'text': …}, has no fields"),
        ("a.jsonl", '{"body": "a", "n": 1}\n', "line 1: has no field 'text', only 'body', 'n'; c"),
        ("a.jsonl", '{"text": 1}\n', "line 1: 'text' is no text; correct `field:`"),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": "\\ud83d"}\n',
            "line 2: 'text' has half a character, ",
        ),
        ("a.jsonl", b'{"text": "caf\xe9"}\n', "line 1: is not UTF-8; save it as such"),
        ("a.txt", b"a\ncaf\xe9\n", "byte 5 is not UTF-8; save it as such"),
        ("a.parquet", "no Parquet", "is no Parquet file ("),
        ("a.txt", " \n", "its texts have no token of this model"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, words, file, text, message):
    (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    found = read_set(save(tmp_path, f"source: x\ncorpus: {file}\n"))
    with pytest.raises(MicrotomeError) as caught:
        set_table(found, words)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_field_is_named_before_anything_is_tokenised(tmp_path, words, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a.txt").write_text("a text " * 100)
    frame = pd.DataFrame({"body": ["a"], "label": [1]})
    fastparquet.write(str(tmp_path / "a" / "b.parquet"), frame)
    found = read_set(save(tmp_path, "source: x\ncorpus: a\n"))
    monkeypatch.setattr("microtome.texts.tokens.load_tokenizer", None)
    with pytest.raises(MicrotomeError, match=r"b\.parquet: has no column 'text', only 'body', 'l"):
        set_table(found, words)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ("{length: 65}", "cut: length: 65 tokens, the model takes 64; take fewer, or `context`"),
        (
            "{length: 3, special: true, overlap: 1}",
            "cut: length: 3 tokens, of which 2 are added and 1 overlap; take more",
        ),
        ("{length: 9, eos: true}", "mine.yaml: cut: eos: the tokenizer of .* has no EOS token; t"),
    ],
)
def test_a_length_that_no_model_can_serve_is_refused(tmp_path, words, cut, message):
    checkpoint = words
    if "eos" in cut:
        checkpoint = words_model(tmp_path / "model")
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        tokenizer.eos_token = None
        tokenizer.save_pretrained(checkpoint)
    found = read_set(save(tmp_path, f"source: x\ndocument: the cat\ncut: {cut}\n"))
    with pytest.raises(MicrotomeError, match=message):
        set_table(found, checkpoint)


def test_a_sample_larger_than_the_corpus_is_refused(tmp_path, words):
    found = corpus(tmp_path, sample={"sequences": "5", "seed": "0"})
    with pytest.raises(MicrotomeError, match="sequences: 5 are to be drawn, and there are 4 of"):
        set_table(found, words)
    found = corpus(tmp_path, sample={"sequences": "0.0001%", "seed": "0"})
    with pytest.raises(MicrotomeError, match=r"mine\.yaml: nothing is drawn; take more"):
        set_table(found, words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("corpus: none", "corpus: no file or folder /.*/none; correct it"),
        ("corpus: [a]", r"corpus: wants a file \(\.txt, \.jsonl or \.parquet\) or a folder"),
        ("corpus: mine.yaml", r"mine\.yaml is no file of texts \(\.txt"),
        ("corpus: empty", r"/empty has no file of texts \(\.txt"),
        ("corpus: a.txt\nfield: text", "field: a text has no fields; take it out"),
        ("corpus: a.jsonl\nfield: ''", "field: wants the name of the texts' field"),
        ("texts: [a]\nfield: text", "field: is of a `corpus:`; take it out"),
        ("corpus: a.txt\nsha256: a", "sha256: nothing is fetched; take it out"),
        ("corpus: a.txt\ncut: {length: 0}", "cut: length: wants a whole number from 1 on"),
        ("corpus: a.txt\ncut: {length: 5, overlap: 5}", "cut: overlap: 5 tokens are all of a seq"),
        ("corpus: a.txt\ncut: {length: 1, bos: true}", "length: the BOS token is all of a se"),
        ("corpus: a.txt\ncut: {length: 5, bos: true, overlap: 4}", "overlap: 4 tokens are all of"),
        ("corpus: a.txt\ncut: {length: 5, bos: yes}", "cut: bos: wants true or false, has 'yes'"),
        ("corpus: a.txt\ncut: {length: 5, bos: true, special: true}", "cut: bos: special tokens h"),
        ("corpus: a.txt\ncut: {length: 5, documents: both}", "documents: wants apart or joined"),
        ("corpus: a.txt\ncut: {length: 5, stride: 2}", "cut: unknown key 'stride'"),
        ("corpus: a.txt\ncut: {starts: [0], length: 5}", "cut: wants one long text, as `document"),
        ("texts: [a]\ncut: {length: 5}", "cut: a length wants `document:`, `url:`, `dataset:` or"),
        ("document: a {mask}\ncut: {length: 5}", "document: {mask} stays as it is; take it out"),
        ("corpus: a.txt\nsample: 5", "sample: wants {sequences: 1000, seed: 0} or"),
        ("corpus: a.txt\nsample: {sequences: 5}", "sample: wants {sequences: 1000, seed: 0} or"),
        ("corpus: a.txt\nsample: {sequences: 0, seed: 1}", "sequences: wants a whole number from"),
        ("corpus: a.txt\nsample: {sequences: 101%, seed: 1}", "wants a number, or a share up to"),
        ("texts: [a]\nsample: {sequences: 1, seed: 1}", "sample: wants `document:`, `url:`, `da"),
    ],
)
def test_what_a_file_cannot_mean_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MicrotomeError, match=message) as caught:
        read_set(save(tmp_path, f"source: x\n{text}\n"))
    assert str(caught.value).startswith(f"{tmp_path / 'mine.yaml'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("leads", ["", "/nowhere.txt"])
def test_a_link_that_would_be_left_out_of_a_folder_is_refused(tmp_path, leads):
    """To a folder, or to nothing."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    (tmp_path / "texts" / "b.txt").symlink_to(f"{tmp_path}{leads}")
    with pytest.raises(MicrotomeError, match=r"corpus: /.*/texts/b\.txt is a link that leads"):
        read_set(save(tmp_path, "source: x\ncorpus: texts\n"))
    (tmp_path / "c.txt").write_text("c")
    (tmp_path / "texts" / "b.txt").unlink()
    (tmp_path / "texts" / "b.txt").symlink_to(tmp_path / "c.txt")
    found = read_set(save(tmp_path, "source: x\ncorpus: texts\n"))
    assert [text.text for text in documents(found)] == ["a", "c"]


def test_a_name_that_snakemake_takes_for_a_pattern_is_refused(tmp_path):
    (tmp_path / "{model}.txt").write_text("a")
    with pytest.raises(MicrotomeError, match=r"{model}\.txt: a name with words in braces "):
        read_set(save(tmp_path, "source: x\ncorpus: '{model}.txt'\n"))


@pytest.fixture
def published(hub, dialled, tmp_path):
    """A data set of three files on a hub, and the environment of a process that asks it."""
    origin = tmp_path / "origin"
    (origin / "data").mkdir(parents=True)
    for number, name in enumerate(("train-0", "train-1", "test-0")):
        frame = pd.DataFrame({"text": ["the cat", "", "a dog saw"], "kind": [number] * 3})
        fastparquet.write(str(origin / "data" / f"{name}.parquet"), frame)
    (origin / "README.md").touch()
    hub.add("a/b", origin, COMMIT)
    found = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    kept = {key: value for key, value in os.environ.items() if key not in (SERVER, MODEL_SERVER)}
    return kept | found


FILES = ["data/test-0.parquet", "data/train-*.parquet"]


def dataset(**more):
    said = {"repository": "a/b", "revision": COMMIT, "file": FILES, "text": "text"} | more
    return {"source": "x", "dataset": said}


def test_several_files_of_a_data_set_are_fetched_and_read_one_after_another(
    published, tmp_path, words
):
    said = dataset(label="kind") | {"cut": {"length": "5"}}
    found = read_set(save(tmp_path, json.dumps(said)))
    assert str(found.fetched_file("mine")) == "results/texts/mine"
    folder, note = tmp_path / "mine", tmp_path / "mine.json"
    folder.mkdir()
    (folder / "00009.parquet").touch()  # of an earlier run
    fetch_texts(found.remote.address, folder, note)
    names = ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert [file.name for file in sorted(folder.iterdir())] == names
    noted = json.loads(note.read_text())["files"]
    assert [entry["source"].rpartition("/")[2] for entry in noted.values()] == [
        *("test-0.parquet", "train-0.parquet", "train-1.parquet")
    ]
    assert (
        noted[names[1]]["sha256"]
        == hashlib.sha256(
            (tmp_path / "origin" / "data" / "train-0.parquet").read_bytes()
        ).hexdigest()
    )
    table = set_table(with_fetched(found, folder), words)
    texts = [" ".join(text) for text in sequences(table, "text")]
    assert texts == ["the cat", "a dog saw"] * 3
    assert [labels[0] for labels in sequences(table, "category")] == ["2", "2", "0", "0", "1", "1"]
    some = read_set(save(tmp_path, json.dumps(dataset(rows="50%"))))
    with pytest.raises(MicrotomeError, match=r"mine/00000\.parquet: row 1: text is empty; take f"):
        list(documents(with_fetched(some, folder)))
    with pytest.raises(MicrotomeError, match=r"data/valid-\*\.parquet: no file matches; correct"):
        fetch_texts(found.remote.address.replace("train", "valid"), folder, note)
    with pytest.raises(MicrotomeError, match=r"a/none@.* cannot be fetched \(.*\); connect once"):
        fetch_texts(found.remote.address.replace("a/b", "a/none"), folder, note)


def test_a_run_fetches_several_files(published, tmp_path, model):
    clone = Clone(tmp_path / "clone", model)
    clone.save(dataset(rows="4") | {"cut": {"length": "2"}}, "stimuli/texts.yaml")
    target = "results/tokens/tiny/texts.h5"
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", target],
        cwd=clone.folder,
        env=published | {"PYTHONPATH": str(clone.folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    table = xr.open_dataset(clone.folder / target, engine="h5netcdf").load()
    assert ["".join(words) for words in sequences(table, "text")] == [
        *("the cat", "a dog", " saw", "the cat")
    ]
    assert clone.planned(target) == set()
    assert clone.verify() == []


def test_a_run_follows_the_files_of_a_corpus(tmp_path, model):
    clone = Clone(tmp_path / "clone", model)
    texts = clone.folder / "corpus"
    texts.mkdir()
    (texts / "a.txt").write_text("A thin section of a language model, one of many. " * 9)
    said = {"source": "x", "corpus": "../corpus", "cut": {"length": "16", "bos": "true"}}
    clone.save(said, "stimuli/texts.yaml")
    plan = clone.snakemake("plan", "--quiet", "all")
    assert "≈112" in plan.stdout, plan.stdout + plan.stderr  # 441 characters
    target = "results/tokens/tiny/texts.h5"
    asked = clone.snakemake("--dry-run", "--cores", "3", target).stdout
    assert "    threads: 3\n" in asked  # the tokenizer's
    assert "tokens/tiny/texts" in clone.run(target)
    table = xr.open_dataset(clone.folder / target, engine="h5netcdf").load()
    assert len(sequences(table)) == 8  # 109 tokens
    assert clone.planned(target) == set()
    (texts / "b.jsonl").write_text('{"text": "Another text."}\n')
    assert clone.planned(target) == {"tokens/tiny/texts"}
    clone.run(target)
    more = xr.open_dataset(clone.folder / target, engine="h5netcdf").load()
    assert more.isel(token=slice(table.sizes["token"])).identical(table)
    assert len(sequences(more)) == 9
    clone.save(said | {"field": "body"}, "stimuli/texts.yaml")
    failed = clone.snakemake(target)
    assert "b.jsonl: line 1: has no field 'body', only 'text'; correct `field:`" in failed.stderr


def test_what_comes_to_a_corpus_makes_new_shards_only(tmp_path, model):
    clone = Clone(tmp_path / "clone", model)
    texts = clone.folder / "stimuli" / "corpus"
    texts.mkdir()
    (texts / "a.txt").write_text("A thin section of a language model, one of many. " * 9)
    said = {"source": "x", "corpus": "corpus", "cut": {"length": "16"}}
    clone.save(said, "stimuli/texts.yaml")
    clone.config["sweep"]["sequences_per_job"] = 3
    clone.save(clone.config)
    target = "results/tokens/tiny/texts.h5"
    clone.run(target)
    folder = clone.folder / "results" / "tokens" / "tiny" / "texts"
    before = {file.name: file.stat().st_mtime_ns for file in sorted(folder.iterdir())}
    assert list(before) == ["00000.h5", "00001.h5", "00002.h5"]  # 7 sequences
    (texts / "b.txt").write_text("Another text. " * 20)
    clone.run(target)
    after = {file.name: file.stat().st_mtime_ns for file in sorted(folder.iterdir())}
    assert list(after) == ["00000.h5", "00001.h5", "00002.h5", "00003.h5"]
    assert [before[name] == after[name] for name in before] == [True, True, False]
    whole = xr.open_dataset(clone.folder / target, engine="h5netcdf").load()
    found = read_set(clone.folder / "stimuli" / "texts.yaml")
    table = set_table(found, clone.folder / "results" / "models" / "tiny" / "checkpoint")
    for name, column in table.coords.items():
        assert whole[name].values.tolist() == column.values.tolist()
