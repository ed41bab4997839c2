"""What studies ask of texts and models, judged when the token table is made."""

import json
from functools import cache
from pathlib import Path

import pytest
from conftest import build
from forked import shared
from transformers import AutoTokenizer

from microtome.errors import MicrotomeError
from microtome.models.anatomy import find_sites
from microtome.texts.stimuli import Stimulus
from microtome.texts.tokens import token_table
from microtome.workflow.requirements import judge

TEXTS = [Stimulus("One two three four"), Stimulus("Four five")]
WORDS = [  # pear is one token, asteroid is two: " aster" and "oid"
    Stimulus("The pear", "pear", "fruit", (4, 8)),
    Stimulus("The asteroid", "asteroid", "space", (4, 12)),
]
SILENCE = {"site": "z", "change": "zero", "read": {"logits": "last", "targets": [" insect"]}}


@cache
def sites(checkpoint):
    return find_sites(checkpoint)


@pytest.fixture(scope="module")
def gpt2(gpt2_tokenizer, tmp_path_factory):
    """A tiny GPT-2 with the real tokenizer."""
    folder = build(tmp_path_factory.mktemp("gpt2"), "gpt2", vocab_size=50257)
    AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("asked", "stimuli", "tokens"),
    [
        ({"position": 1}, TEXTS, "all"),
        ({"position": -2}, TEXTS, "all"),
        ({"position": -1}, TEXTS, "last"),
        ({"position": 1}, TEXTS, [0, 1]),
        ({"first_token": 3}, TEXTS, "all"),
        ({"word_token": 0}, WORDS, "all"),
        ({"word_token": -1}, WORDS, "last"),
        ({"target": " insect"}, TEXTS, "all"),
        ({"targets": [" insect", " the"]}, TEXTS, "all"),
        ({"sites": ["q", "resid_pre", "mlp_out", "logits"]}, TEXTS, "all"),
        ({"intervention": SILENCE | {"each": ["layer", "head"]}}, TEXTS, "all"),
        ({"intervention": SILENCE | {"tokens": [0], "heads": "t_tests.chosen"}}, TEXTS, "last"),
    ],
)
def test_what_fits_passes(gpt2, asked, stimuli, tokens):
    table = token_table(stimuli, gpt2, tokens)
    judge([], table.coords, gpt2, sites(gpt2))
    judge([{"key": "a.b"} | asked], table.coords, gpt2, sites(gpt2))


@pytest.mark.parametrize(
    ("asked", "stimuli", "tokens", "message"),
    [
        ({"position": 2}, TEXTS, "all", "no token 2 in 'Four five', which has 2 tokens; correct"),
        ({"position": -3}, TEXTS, "all", "no token -3 in 'Four five', which has 2 tokens; correct"),
        ({"position": 0}, TEXTS, "last", "token 0 of 'One two three four' is not kept; add it to"),
        ({"position": -1}, TEXTS, [1], "token -1 of 'One two three four' is not kept; add it to"),
        (
            {"first_token": 4},
            TEXTS,
            "all",
            "no text has a token 4, the longest, 'One two three four', has 4 tokens; correct the",
        ),
        ({"word_token": 1}, WORDS, "all", "no token 1 in the word of 'The pear', which has 1 tok"),
        ({"word_token": -2}, WORDS, "all", "no token -2 in the word of 'The pear', which has 1"),
        ({"word_token": 0}, TEXTS, "all", "the stimuli have no words; name a set with `template:`"),
        ({"targets": [" the", " vermin"]}, TEXTS, "all", "target ' vermin' is 2 tokens of this"),
        ({"target": " vermin"}, TEXTS, "all", "target ' vermin' is 2 tokens of this model (' ver"),
        (
            {"sites": ["q", "pre_linear"]},
            TEXTS,
            "all",
            "site 'pre_linear': a 'gpt2' model",
        ),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(gpt2, asked, stimuli, tokens, message):
    table = token_table(stimuli, gpt2, tokens)
    fits = {"key": "other", "target": " insect"}
    with pytest.raises(MicrotomeError) as caught:
        judge([fits, {"key": "studies.a.statistics.b"} | asked], table.coords, gpt2, sites(gpt2))
    assert str(caught.value).startswith(f"studies.a.statistics.b: {message}")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"site": "pre_linear"},
            "site: site 'pre_linear': a 'gpt2' model has none (its MLP is not gated)",
        ),
        ({"heads": [4]}, "heads: no head 4; there are 0 to 3"),
        ({"tokens": [2]}, "tokens: text 1 has 2 tokens and no position 2"),
        (
            {"change": {"patch": [[0, 1]]}},
            "change.patch: text 0 has 4 tokens, text 1 has 2; say `align: start` or `align: end`",
        ),
        (
            {"read": {"logits": "last", "targets": [" insect", " vermin"]}},
            "read.targets: target ' vermin' is 2 tokens of this model (' ver' + 'min'); name a",
        ),
    ],
)
def test_what_an_intervention_cannot_have_is_named_by_its_keys(gpt2, keys, message):
    table = token_table(TEXTS, gpt2, "last")
    wish = {"key": "studies.a.interventions.b", "intervention": SILENCE | keys}
    with pytest.raises(MicrotomeError) as caught:
        judge([wish], table.coords, gpt2, sites(gpt2))
    assert str(caught.value).startswith(f"studies.a.interventions.b.{message}")


def test_a_long_text_is_quoted_by_its_beginning(gpt2):
    table = token_table([Stimulus("word " * 20)], gpt2)
    with pytest.raises(MicrotomeError, match=r"in '(word ){8}…', which"):
        judge([{"key": "a", "position": 99}], table.coords, gpt2, sites(gpt2))


#: A workflow of this job alone, in which CHECKPOINT, JUDGED and SCRIPT are to be filled in.
WORKFLOW = """
rule all:
    input: "tiny.h5"
rule:
    input: stimuli="texts.yaml", checkpoint=CHECKPOINT, manifest="manifest.json",
    output: "{model}.h5"
    log: "{model}.log"
    params: tokens="all", sequences_per_job=None
    resources: judged=JUDGED
    script: SCRIPT
"""


@pytest.mark.parametrize("first_token", [1, 99])
def test_the_job_that_makes_the_table_judges_it(gpt2, tmp_path, first_token):
    judged = json.dumps([{"key": "studies.a.b", "first_token": first_token}])
    script = Path(__file__).parents[2] / "scripts" / "token_table.py"
    workflow = WORKFLOW.replace("CHECKPOINT", repr(str(gpt2))).replace("JUDGED", repr(judged))
    (tmp_path / "Snakefile").write_text(workflow.replace("SCRIPT", repr(str(script))))
    sites(gpt2).write(tmp_path / "sites.json")
    (tmp_path / "manifest.json").touch()
    (tmp_path / "texts.yaml").write_text("source: x\ntexts: [One two]\n")
    done = shared().run(tmp_path, ["--cores", "1"])
    assert (tmp_path / "tiny.h5").exists() == (done.returncode == 0) == (first_token == 1)
    fault = "microtome: studies.a.b: no text has a token 99"
    assert (fault in done.stderr) == (first_token == 99)
