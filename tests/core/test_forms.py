"""Longer texts: cut into sequences of tokens, shuffled, masked, labelled, fetched."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fastparquet
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from word_reader import COMMIT, SPEECH, VOCABULARY, save, words_model
from workflows import Clone

from microtome.errors import MicrotomeError
from microtome.page.files import read_texts
from microtome.texts.corpora import documents
from microtome.texts.fetched import fetch_text, with_fetched
from microtome.texts.forms import HubFiles, Occurrences, Starts
from microtome.texts.rows import row_columns, sequences
from microtome.texts.stimuli import Stimulus, StimulusSet, read_set
from microtome.texts.tokens import set_table, set_tables


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return words_model(tmp_path_factory.mktemp("reader"))


def read(found, checkpoint):
    """The sequences as texts."""
    columns = set_table(found, checkpoint)
    return [" ".join(words) for words in sequences(columns, "text")]


def test_a_document_is_cut_at_tokens(tmp_path, reader):
    text = f"source: x\ndocument: |\n  {SPEECH}\n"
    found = read_set(save(tmp_path, text + "cut: {starts: [0, 3, middle], length: 4}\n"))
    assert found.cut == Starts((0, 3, "middle"), 4)
    assert (found.n_sequences, found.words, found.labels) == (3, False, [])
    # 14 words without special tokens: the middle is word 7.
    assert read(found, reader) == ["the cat saw the", "the dog and the", "dog saw a cat"]
    columns = set_table(found, reader)
    assert set(columns.coords) == {"sequence", "position", "token_id", "text"}
    assert columns["position"].values.tolist() == [0, 1, 2, 3] * 3
    whole = read_set(save(tmp_path, text))
    assert whole.n_sequences == 1
    assert read(whole, reader) == [f"<s> {SPEECH} </s>"]
    long = f"source: x\ndocument: {' '.join([SPEECH] * 9)}\ncut: {{starts: [1], length: context}}\n"
    (only,) = sequences(set_table(read_set(save(tmp_path, long)), reader))
    assert len(only) == 64


def test_a_sequence_ends_with_each_occurrence_of_a_word(tmp_path, reader):
    text = f"source: x\ndocument: {SPEECH}\ncut: {{words: [' dog', ' the'], before: 3}}\n"
    found = read_set(save(tmp_path, text))
    assert found.cut == Occurrences((" dog", " the"), 3)
    assert (found.n_sequences, found.words, found.labels) == (None, True, ["dog", "the"])
    # The first "the" has nothing before it.
    assert read(found, reader) == [
        *("cat saw the dog", "dog and the dog", "cat or a dog"),
        *("the cat saw the", "the dog and the"),
    ]
    columns = set_table(found, reader)
    assert columns["in_word"].values.tolist() == [0, 0, 0, 1] * 5
    assert columns["category"].values[::4].tolist() == ["dog"] * 3 + ["the"] * 2
    assert columns["word"].values[::4].tolist() == [" dog"] * 3 + [" the"] * 2
    last = row_columns(set_table(found, reader, "last").coords)
    assert last["text"].tolist() == ["dog"] * 3 + ["the"] * 2


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ("{starts: [11], length: 4}", "4 tokens from 11 on end beyond the text, which has 14 tok"),
        ("{starts: [middle], length: 8}", "8 tokens from middle on end beyond the text"),
        ("{starts: [0], length: context}", "64 tokens from 0 on end beyond the text"),
        ("{words: [' cat dog'], before: 1}", "cut: words: target ' cat dog' is 2 tokens"),
        ("{words: [' saw'], before: 9}", "' saw' does not stand behind 9 tokens anywhere in the"),
    ],
)
def test_a_cut_that_no_text_can_serve_is_refused(tmp_path, reader, cut, message):
    found = read_set(save(tmp_path, f"source: x\ndocument: {SPEECH}\ncut: {cut}\n"))
    with pytest.raises(MicrotomeError) as caught:
        set_table(found, reader)
    assert f"mine.yaml: document: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shuffled_tokens_are_permuted_in_each_sequence(tmp_path, reader):
    text = f"source: x\ndocument: {SPEECH}\ncut: {{starts: [0, 7], length: 7}}\n"
    save(tmp_path, text, "speech")
    found = read_set(save(tmp_path, "like: speech\nshuffled: 3\n"))
    assert (found.holder, found.shuffled) == ("speech", (3,))
    words = np.array(SPEECH.split())
    for number, shuffled in enumerate(read(found, reader)):
        order = np.random.default_rng([3, number]).permutation(7)
        assert shuffled.split() == words[7 * number : 7 * number + 7][order].tolist()
    several = read_set(save(tmp_path, "like: speech\nshuffled: [3, 5]\n"))
    assert several.n_sequences == 4
    for number, shuffled in enumerate(read(several, reader)):
        seed, number = (3, 5)[number // 2], number % 2
        order = np.random.default_rng([seed, number]).permutation(7)
        assert shuffled.split() == words[7 * number : 7 * number + 7][order].tolist()
    # Special tokens keep their places, and a word's mark goes with it.
    template = f"source: x\nshuffled: 0\ntemplate: '{SPEECH} {{word}}'\nwords: {{a: [cat, saw]}}\n"
    columns = set_table(read_set(save(tmp_path, template)), reader)
    for ids, inside, special in zip(
        *(sequences(columns, name) for name in ("token_id", "in_word", "special")), strict=True
    ):
        assert (ids[0], ids[-1], special.sum()) == (0, 1, 2)
        assert inside.sum() == 1 and not inside[[0, -1]].any()
    marked = columns["text"].values[columns["in_word"].values == 1]
    assert marked.tolist() == ["cat", "saw"]


def test_each_token_is_masked_in_turn(tmp_path, reader):
    found = read_set(save(tmp_path, "source: x\ntexts: [the cat, a]\nmasked: each\n"))
    assert found.n_sequences is None
    assert read(found, reader) == [
        *("<mask> the cat </s>", "<s> <mask> cat </s>", "<s> the <mask> </s>"),
        *("<s> the cat <mask>", "<mask> a </s>", "<s> <mask> </s>", "<s> a <mask>"),
    ]
    columns = set_table(found, reader)
    ids = [0, *(VOCABULARY.index(word) for word in ("the", "cat")), 1]
    assert sequences(columns, "target_id")[2].tolist() == ids
    assert columns["masked"].values[:16].reshape(4, 4).tolist() == np.eye(4).tolist()
    mean = row_columns(set_table(found, reader, "mean").coords)
    assert set(mean["target_id"]) == {-1}


def test_a_model_without_mask_token_is_named(tmp_path):
    model = words_model(tmp_path / "model", mask=False)
    found = read_set(save(tmp_path, "source: x\ntexts: [the cat]\nmasked: each\n"))
    with pytest.raises(MicrotomeError, match=r"entry 1: each token is to be masked, .* no mask"):
        set_table(found, model)


def test_texts_may_have_labels(tmp_path, reader):
    text = "source: x\ntexts:\n  good: [the cat, a dog]\n  bad: [a cat]\n"
    found = read_set(save(tmp_path, text))
    assert found.stimuli[2] == Stimulus("a cat", category="bad")
    assert (found.n_sequences, found.words, found.labels) == (3, False, ["good", "bad"])
    kept = row_columns(set_table(found, reader, [0]).coords)
    assert kept["category"].tolist() == ["good", "good", "bad"]
    assert "word" not in kept


@pytest.mark.parametrize("tokens", ["all", "last", [0, -1]])
@pytest.mark.parametrize("n_sequences", [1, 2, 3, 4])
def test_a_table_comes_in_parts(tmp_path, reader, tokens, n_sequences):
    found = read_set(save(tmp_path, f"source: x\ntexts: [the cat, a, {SPEECH}]\n"))
    whole = set_table(found, reader, tokens)
    parts = list(set_tables(found, reader, tokens, n_sequences))
    assert [len(sequences(part)) for part in parts] == {
        1: [1, 1, 1],
        2: [2, 1],
    }.get(n_sequences, [3])
    if tokens != "all":
        before = 0
        for i, part in enumerate(parts):
            row = part["row"].values
            kept = row >= 0
            assert row[kept].min() == 0
            parts[i] = part.assign_coords(row=("token", np.where(kept, row + before, -1)))
            before += row.max() + 1
    joined = xr.concat(parts, "token")
    assert set(joined.coords) == set(whole.coords)
    for name, column in whole.coords.items():
        assert joined[name].values.tolist() == column.values.tolist()
        assert parts[0][name].dtype == column.dtype


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("document: ' '", "document is empty or no text; write a text"),
        ("document: a\ntexts: [a]", "wants one of `texts:`, `document:`"),
        ("document: a\nurl: https://a.b/c", "wants one of `texts:`"),
        ("texts: {good: []}", "texts: good: wants a list of texts"),
        ("texts: {good: [a, '']}", "texts: good: entry 2 is empty"),
        ("texts: {}", "texts: wants a list of texts"),
        ("texts: [a]\ncut: {starts: [0], length: 1}", "cut: wants one long text, as `document:`"),
        ("document: a\ncut: [1]", "cut: wants {starts: [0, middle], length: 128}, {words: "),
        ("document: a\ncut: {starts: [0]}", "cut: wants {starts"),
        ("document: a\ncut: {starts: [0], length: 0}", "cut: length: wants a whole number from 1"),
        ("document: a\ncut: {starts: [-1], length: 2}", "starts: wants a whole number from 0 on, "),
        ("document: a\ncut: {starts: [1, 1], length: 2}", "cut: starts: '1' stands there twice"),
        ("document: a\ncut: {starts: 1, length: 2}", "cut: starts: wants a list, as in [a, b]"),
        ("document: a\ncut: {words: [' '], before: 2}", "cut: words: wants words"),
        ("document: a\ncut: {words: [b], before: x}", "cut: before: wants a whole number"),
        ("texts: [a]\nshuffled: yes", "shuffled: wants a whole number from 0 on, has 'yes'"),
        ("texts: [a]\nshuffled: [1, 1]", "shuffled: '1' stands there twice; take one out"),
        ("texts: [a]\nmasked: all", "masked: wants `each`"),
        ("texts: ['a {mask}']\nmasked: each", "masked: the texts have {mask} already"),
        ("url: a.txt", "url: wants the address of a text"),
        ("url: ftp://a.b/c.txt", "url: wants the address of a text"),
        ("url: https://a.b/c.txt\nsha256: ab", "sha256: wants 64 hex digits"),
        ("texts: [a]\nsha256: ab", "sha256: nothing is fetched; take it out"),
        ("like: none", "like: no stimulus set 'none'"),
        ("dataset: {repository: a/b}", "dataset: `revision:` is missing; name it"),
        ("dataset: {revison: a}", "dataset: unknown key 'revison'; did you mean 'revision'?"),
        (
            "dataset: {repository: a/b, revision: main, file: c.parquet, text: d}",
            "dataset: revision: 'main' is no commit; pin it by the 40 hex digits",
        ),
        (
            f"dataset: {{repository: a/b, revision: '{COMMIT}', file: c.csv, text: d}}",
            "dataset: file: wants a Parquet file",
        ),
        (
            f"dataset: {{repository: a/b, revision: '{COMMIT}', file: c.parquet, text: d, "
            "labels: [e, f]}",
            "dataset: labels: names the values of no column; add `label:`",
        ),
        (
            f"dataset: {{repository: a/b, revision: '{COMMIT}', file: c.parquet, text: d, "
            "rows: 5.5%}",
            "dataset: rows: wants a whole number from 1 on, has '5.5%'",
        ),
        (
            f"dataset: {{repository: a/b, revision: '{COMMIT}', file: c.parquet, text: d, "
            "rows: 0%}",
            "dataset: rows: wants a whole number from 1 on, has '0%'",
        ),
    ],
)
def test_what_a_file_cannot_mean_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(MicrotomeError) as caught:
        read_set(save(tmp_path, f"source: x\n{text}\n"))
    assert message in str(caught.value)
    assert "mine.yaml: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_set_is_like_one_that_has_texts(tmp_path):
    save(tmp_path, f"source: x\ndocument: {SPEECH}\ncut: {{starts: [0], length: 2}}\n", "a")
    save(tmp_path, "like: a\nmasked: each\n", "b")
    with pytest.raises(MicrotomeError, match=r"c\.yaml: like: .*b\.yaml is like 'a' itself; name"):
        read_set(save(tmp_path, "like: b\n", "c"))
    other = read_set(save(tmp_path, "like: a\ncut: {starts: [5], length: 1}\n", "c"))
    assert other.cut == Starts((5,), 1)
    elsewhere = read_set(tmp_path / "b.yaml", lambda name: tmp_path / f"{name}.yaml")
    assert elsewhere.masked and elsewhere.cut == Starts((0,), 2)


def test_a_page_says_how_a_text_is_cut(tmp_path):
    text = f"source: x\ndocument: {SPEECH}\ncut: {{starts: [0, middle], length: 2}}\nshuffled: 1\n"
    found = read_texts(save(tmp_path, text))
    assert found.texts == [SPEECH]
    assert found.made == {"cut": "{starts: [0, middle], length: 2}", "shuffled": "1"}
    assert read_texts(save(tmp_path, "like: speech\n")).source == "as speech"
    labelled = read_texts(save(tmp_path, "source: x\ntexts: {good: [a], bad: [b, c]}\n"))
    assert labelled.texts == ["good: a", "bad: b", "bad: c"]


@pytest.fixture
def server():
    """A server of one text, which tests change, and its address."""
    served = {"text": b"\xef\xbb\xbfthe cat\r\nsaw a dog\r\n"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/speech.txt" else 404)
            self.end_headers()
            self.wfile.write(served["text"])

        def log_message(self, *arguments):
            pass

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    served["address"] = f"http://127.0.0.1:{found.server_port}/speech.txt"
    yield served
    found.shutdown()
    found.server_close()


def test_a_text_is_kept_as_it_came_and_noted(tmp_path, server):
    address, (file, note) = server["address"], (tmp_path / "a.txt", tmp_path / "a.txt.json")
    fetch_text(address, file, note)
    assert file.read_bytes() == server["text"]
    sum_ = hashlib.sha256(server["text"]).hexdigest()
    said = {"source": address, "bytes": len(server["text"]), "sha256": sum_}
    assert json.loads(note.read_text()) == said
    found = with_fetched(read_set(save(tmp_path, f"source: x\nurl: {address}\n")), file)
    [text] = documents(found)
    assert text.text == "\ufeffthe cat\r\nsaw a dog\r\n"  # as it stands

    before = file.read_bytes(), note.read_bytes()
    server["text"] = b"another text"
    with pytest.raises(MicrotomeError, match=r"is not what it was .*; delete .*a\.txt\.json"):
        fetch_text(address, file, note)
    with pytest.raises(MicrotomeError, match=r"the stimulus file says 00000"):
        fetch_text(address, file, note, expected="0" * 64)
    with pytest.raises(MicrotomeError, match=r"cannot be fetched \(HTTP Error 404.*connect once"):
        fetch_text(f"{address}x", file, note)
    assert (file.read_bytes(), note.read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 3
    note.unlink()
    fetch_text(address, file, note)
    assert file.read_bytes() == b"another text"
    server["text"] = b"caf\xe9"
    note.unlink()
    fetch_text(address, file, note)
    with pytest.raises(MicrotomeError, match="byte 3 is not UTF-8"):
        list(documents(found))


def test_a_file_of_a_data_set_comes_from_the_hub_at_its_commit(tmp_path, monkeypatch):
    origin, asked = tmp_path / "origin", []
    origin.write_bytes(b"rows")

    def download(repository, file, **more):
        asked.append((repository, file, more))
        if len(asked) > 1:
            raise OSError("no answer")
        return str(origin)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    address = HubFiles("a/b", COMMIT, ("c/d.parquet",), "e").address
    file, note = tmp_path / "a.parquet", tmp_path / "a.parquet.json"
    fetch_text(address, file, note, expected=hashlib.sha256(b"rows").hexdigest())
    assert asked == [("a/b", "c/d.parquet", {"repo_type": "dataset", "revision": COMMIT})]
    assert (file.read_bytes(), json.loads(note.read_text())["source"]) == (b"rows", address)
    with pytest.raises(MicrotomeError, match=r"cannot be fetched \(no answer\); connect once"):
        fetch_text(address, file, note)


def test_rows_of_a_data_set_have_labels(tmp_path):
    frame = pd.DataFrame({"sentence": [f"text {n}" for n in range(30)], "label": [0, 1] * 15})
    fastparquet.write(str(tmp_path / "a.parquet"), frame)
    origin = ("a/b", COMMIT, ("c.parquet",), "sentence", "label")

    def rows(*more):
        remote = HubFiles(*origin, *more)
        found = StimulusSet(tmp_path, remote=remote, fetched=tmp_path / "a.parquet")
        return [(text.text, text.category) for text in documents(found)]

    # 5% of 30 rows are 1.5, which `datasets` rounds to the even number.
    assert rows(("no", "yes"), "5%") == [("text 0", "no"), ("text 1", "yes")]
    assert rows((), 3) == [("text 0", "0"), ("text 1", "1"), ("text 2", "0")]
    assert len(rows()) == 30
    with pytest.raises(MicrotomeError, match=r"row 1: label is 1, and `labels:` names 1"):
        rows(("no",))


def test_a_run_fetches_a_text_once(tmp_path, model, server):
    clone = Clone(tmp_path / "clone", model)
    server["text"] = b"A thin section of a language model, one of many. " * 3
    cut = {"starts": [0, "middle"], "length": 8}
    speech = {"source": "made up", "url": server["address"], "cut": cut}
    clone.save(speech, "stimuli/speech.yaml")
    clone.save({"like": "speech", "shuffled": 0}, "stimuli/texts.yaml")
    plan = clone.snakemake("plan", "--quiet", "all")
    assert "≈16" in plan.stdout, plan.stdout + plan.stderr  # two sequences of eight tokens
    target = "results/tokens/tiny/texts.h5"
    made = clone.run(target)
    assert {"texts/speech.txt (update)", "tokens/tiny/texts"} <= made
    assert clone.planned(target) == set()

    # Another cut makes the table stale, and fetches nothing.
    clone.save(speech | {"cut": cut | {"length": 9}}, "stimuli/speech.yaml")
    assert clone.planned(target) == {"tokens/tiny/texts"}
    clone.save(speech, "stimuli/speech.yaml")

    file = clone.product("texts/speech.txt")
    before, server["text"] = file.read_bytes(), b"another text"
    failed = clone.snakemake("--force", "results/texts/speech.txt")
    assert failed.returncode != 0
    assert "is not what it was" in failed.stderr
    assert file.read_bytes() == before
    assert clone.planned(target) == set()
    assert clone.verify() == []
