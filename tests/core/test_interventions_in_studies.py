"""Interventions as products of a study: what they are made from, and what makes them stale."""

import numpy as np
import pytest
import xarray as xr
from hooked import taps_at
from workflows import Clone

from microtome.interventions.declared import declared
from microtome.interventions.run import intervene
from microtome.store.datasets import read_dataset
from microtome.texts.tokens import load_tokenizer

EACH = {"site": "z", "each": ["layer", "head"], "change": "zero"}
EACH |= {"read": {"logits": "last", "targets": [" a"]}}
CHOSEN = {"site": "z", "heads": "strong.chosen", "change": {"use": "shrink", "amount": 0.5}}
CHOSEN |= {"tokens": [-1, 0], "read": {"kl": "last", "resid_post": "all"}}
STUDY = {
    "stimuli": "texts",
    "interventions": {"each": EACH, "chosen": CHOSEN},
    "statistics": {"strong": {}, "growth": {"reads": {"outcome": "chosen"}}},
    "tables": {"growth": {"reads": {"growth": "growth", "outcome": "silence.each"}}},
}
CHANGES = '''
def shrink(values, case):
    """Make them smaller."""
    return values * (1 - case.amount)


def grow(values, case):
    return values * (1 + case.amount)


def double(values):
    return 2 * values
'''
STATISTICS = """
def strong(each):
    effect = abs(each["logits"] - each["clean_logits"])[:, :, 0, 0].rename(head="n_heads")
    return (effect > effect.median("n_heads")).drop_vars("n_heads").to_dataset(name="chosen")


def growth(outcome):
    return outcome[["resid_post_difference"]].mean("read_token")
"""
TABLES = """
def growth(growth, outcome):
    return growth.to_dataframe()
"""
EACH_MADE = {"interventions/silence/tiny/each"}
TABLE = {"tables/silence/tiny/growth", "page/silence"}
GROWTH = {"statistics/silence/tiny/growth"} | TABLE
CHOSEN_MADE = {"interventions/silence/tiny/chosen"} | GROWTH
STRONG = {"statistics/silence/tiny/strong"} | CHOSEN_MADE
INTERVENED = EACH_MADE | STRONG | TABLE
MADE = {"models/tiny", "tokens/tiny/texts"} | INTERVENED
ALL = MADE | {"page/index", "page/style"}
OVERLAY = ("studies", "silence", "interventions")


def add_study(clone: Clone) -> None:
    folder = clone.folder / "studies" / "silence"
    folder.mkdir()
    for name, code in (("changes", CHANGES), ("statistics", STATISTICS), ("tables", TABLES)):
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    clone.save_study("silence", STUDY)
    clone.config["studies"] = {"silence": {"models": ["tiny"]}}
    clone.save(clone.config)


@pytest.fixture(scope="module")
def clone(tmp_path_factory, model):
    clone = Clone(tmp_path_factory.mktemp("clone"), model)
    add_study(clone)
    assert clone.run() == ALL
    assert clone.planned() == set()
    return clone


def product(clone: Clone, label: str) -> xr.Dataset:
    return read_dataset(clone.product(f"{label}.h5"))


def test_the_outcome_is_that_of_the_declaration(clone):
    checkpoint = clone.product("models/tiny/checkpoint")
    columns = product(clone, "tokens/tiny/texts").coords
    same = {
        "taps": taps_at(checkpoint),
        "tokenizer": load_tokenizer(checkpoint),
        "batch_tokens": 32,
    }
    each = product(clone, "interventions/silence/tiny/each")
    xr.testing.assert_identical(each, intervene(checkpoint, columns, declared(EACH), **same))
    assert each["logits"].dims == ("layer", "head", "token", "target")
    chosen = product(clone, "statistics/silence/tiny/strong")["chosen"]
    assert 0 < chosen.values.sum() < chosen.size
    halved = {"heads": chosen, "change": {"scale": 0.5}}
    expected = intervene(checkpoint, columns, declared(CHOSEN | halved), **same)
    found = product(clone, "interventions/silence/tiny/chosen")
    for name in ("kl", "resid_post_difference"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
    assert found["kl"].item() > 0


def own(name: str, old: str, new: str):
    return lambda clone: clone.replace(f"studies/silence/{name}", old, new)


def library(name: str, old: str, new: str):
    return lambda clone: clone.replace(f"microtome/{name}", old, new)


def config(*path: str, to: object):
    return lambda clone: clone.change(*path, to=to)


#: What is edited, how, and the jobs that it makes stale.
EDITS = {
    "a default that is written out": (config(*OVERLAY, "each", "tokens", to="all"), set()),
    "keys in another order": (
        config(*OVERLAY, "each", to={"read": {"targets": [" a"], "logits": "last"}, "site": "z"}),
        set(),
    ),
    "what is read": (
        config(*OVERLAY, "chosen", "read", to={"kl": "last", "resid_post": "last"}),
        CHOSEN_MADE,
    ),
    "what is changed": (config(*OVERLAY, "each", "change", to={"scale": 0.0}), INTERVENED),
    "another stimulus set": (
        config(*OVERLAY, "chosen", "stimuli", to="words"),
        CHOSEN_MADE | {"tokens/tiny/words"},
    ),
    "its own change": (own("changes.py", "(1 - case", "(2 - case"), CHOSEN_MADE),
    "another change": (own("changes.py", "(1 + case", "(2 + case"), set()),
    "a docstring of its change": (own("changes.py", "Make them", "Makes them"), set()),
    "the statistic that it takes values from": (
        own("statistics.py", "effect > effect", "effect >= effect"),
        STRONG,
    ),
    "a statistic of it": (own("statistics.py", '.mean("read', '.max("read'), GROWTH),
    "a text": (
        lambda clone: clone.replace("stimuli/texts.yaml", "one of many", "one of a few"),
        INTERVENED | {"tokens/tiny/texts"},
    ),
    "how cases are run": (
        library("interventions/cases.py", "default_rng([self.seed", "default_rng([1 + self.seed"),
        INTERVENED,
    ),
    "how interventions are judged": (
        library("interventions/fit.py", "if n_tokens == n_given", "if n_given == n_tokens"),
        set(),
    ),
    "how a job reads a config": (
        library("workflow/load.py", "_NAME.fullmatch(name)", "(_NAME).fullmatch(name)"),
        set(),
    ),
    "what jobs ask a cluster for": (library("sweeps/cost.py", "MARGIN = 1", "MARGIN = 2"), set()),
    "batch size": (config("sweep", "batch_tokens", to=2), INTERVENED),
    "how numbers are stored": (config("store", "dtype", to="float16"), set()),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_makes_exactly_its_products_stale(clone, tmp_path, edit):
    make, stale = EDITS[edit]
    edited = clone.copy(tmp_path / "edited")
    make(edited)
    assert edited.planned() == stale


@pytest.mark.parametrize("edit", ["its own change", "another stimulus set"])
def test_after_running_what_is_stale_nothing_more_is(clone, tmp_path, edit):
    make, stale = EDITS[edit]
    edited = clone.copy(tmp_path / "edited")
    make(edited)
    assert edited.run() == stale
    assert edited.planned() == set()


def test_a_target_makes_the_interventions_alone(clone, tmp_path):
    fresh = Clone(tmp_path, clone.config["models"]["tiny"]["source"])
    add_study(fresh)
    assert fresh.planned("tokens") == {"models/tiny", "tokens/tiny/texts"}
    assert fresh.planned("interventions") == MADE - GROWTH
    assert fresh.planned("statistics") == MADE - TABLE


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"site": "pre_linear", "each": ["layer"]},
            "each.site: tiny: site 'pre_linear': a 'gpt2' model has none (its MLP is not gated)",
        ),
        ({"read": {"pre_linear": "all"}}, "each.read.pre_linear: tiny: site 'pre_linear': a"),
        ({"layers": [3]}, "each.layers: tiny: no layer 3; there are 0 to 2"),
        ({"change": {"use": "shrnk"}}, "changes.py has no function 'shrnk'; did you mean 'shrink'"),
        ({"change": {"use": "double"}}, "changes.py: double wants two parameters, values and case"),
    ],
)
def test_what_cannot_be_is_told_before_any_job(clone, tmp_path, keys, message):
    edited = clone.copy(tmp_path / "edited")
    edited.change(*OVERLAY, "each", to=keys)
    done = edited.snakemake("--dry-run")
    assert done.returncode != 0
    assert "config.yaml: studies.silence.interventions.each." in done.stderr
    assert message in done.stderr


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"heads": "strong.choice"}, "heads: strong has no variable 'choice'; did you mean 'chose"),
        ({"site": "post", "heads": "all", "neurons": "strong.chosen"}, "neurons: wants the dim"),
    ],
)
def test_what_only_its_job_can_tell_is_told_by_its_keys(clone, tmp_path, keys, message):
    edited = clone.copy(tmp_path / "edited")
    edited.change(*OVERLAY, "chosen", to=keys)
    done = edited.snakemake("interventions")
    assert f"microtome: studies.silence.interventions.chosen.{message}" in done.stderr
    assert not edited.product("interventions/silence/tiny/chosen.h5").exists()
