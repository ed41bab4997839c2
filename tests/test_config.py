"""The config: what it means, and how what cannot be right is refused."""

import copy
import json
import math
import sys
from pathlib import Path

import pytest
import yaml
from snakemake.common.configfile import load_configfile
from snakemake.profiles import ProfileConfigFileParser
from snakemake.utils import update_config

from microtome.errors import MicrotomeError
from microtome.workflow.config import Studies, Sweep
from microtome.workflow.config_files import origin, read_config
from microtome.workflow.faults import check

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "config.schema.yaml"
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
STUDY = ("studies", "category_selectivity")


def changed(path, value):
    """The default config with one key set, or removed where the value is None."""
    config = copy.deepcopy(DEFAULT)
    *parents, last = path
    place = config
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return config


def test_the_default_config_is_right():
    check(DEFAULT, SCHEMA, [ROOT / "config.yaml"], [ROOT])


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("modles",), {}, "modles: unknown key; did you mean 'models'"),
        (("models",), None, "'models' is missing"),
        (("models", "a/b"), {"source": "/", "n_layers": 1}, "'a/b' is no name"),
        (("models", "a..b"), {"source": "/", "n_layers": 1}, "'a..b' is no name"),
        (("models", "-a"), {"source": "/", "n_layers": 1}, "'-a' is no name"),
        (("models", "a b"), {"source": "/", "n_layers": 1}, "'a b' is no name"),
        (("models", "a"), {"source": "/"}, "models.a: the key 'n_layers' is missing"),
        (("models", "a"), {"source": "/", "n_layer": 1}, "did you mean 'n_layers'"),
        (("models", "a"), {"source": "/", "n_layers": "x"}, "wants the number of blocks"),
        (("models", "a"), {"source": "/none", "n_layers": 1}, "/none: no such folder"),
        (("models", "a"), {"source": "ftp://x", "n_layers": 1}, "is none of hf://"),
        (("models", "a"), {"source": "hf://a/b@main", "n_layers": 1}, "'main' is no commit"),
        (("models", "a"), {"source": "hf://a/b", "n_layers": 1}, "the revision is missing"),
        (("models", "a"), {"source": "untrained://smolm2-135m?seed=0", "n_layers": 1}, "did you"),
        (("models", "a"), {"source": "untrained://a?seed=0", "n_layers": 1}, "untrained itself"),
        (("stimuli",), {"none": {"tokens": "last"}}, "no stimulus set 'none'"),
        (("stimuli",), {"a": {"file": "stimuli/none.yaml"}}, "no such file; correct the path"),
        (("stimuli",), {"categories": "stimuli/categories.yaml"}, "wants {file: …} or {tokens: "),
        ((*STUDY, "models"), ["smollm2"], "no model 'smollm2'; did you mean 'smollm2-135m'"),
        ((*STUDY, "stimuli"), "category", "did you mean 'categories'"),
        ((*STUDY, "figures"), {"mask": {}}, "has no function 'mask'; did you mean 'masks'"),
        ((*STUDY, "figures"), {"masks": {"reads": ["word_pairs"]}}, "wants a statistic for each"),
        ((*STUDY, "figures"), {"masks": {"reads": {"word_pairs": "word_pair"}}}, "did you mean"),
        ((*STUDY, "figures"), {"Masks": {}}, "'Masks' is no name"),
        ((*STUDY, "figures"), {"rsa_scatter": {"layer": 30}}, "no layer 30 in smollm2-135m"),
        ((*STUDY, "figures"), {"rsa_scatter": {"layer": "six"}}, "wants a layer number"),
        ((*STUDY, "statistics"), {"qkv_points": {"layer": -1}}, "wants a layer number"),
        ((*STUDY, "statistics"), {"rsa_test": {"layers": [1]}}, "layers"),
        ((*STUDY, "statistics"), {"qkv_correlations": {"layers": "some"}}, "wants `all` or a list"),
        ((*STUDY, "statistics"), {"qkv_points": {"sites": ["qq", "k"]}}, "did you mean 'q'"),
        (
            (*STUDY, "statistics"),
            {"rsa": {"reads": {"cosine_similarities": "rsa"}}},
            "reads itself",
        ),
        (("sweep", "batch_size"), 0, "wants a number of texts"),
        (("style", "theme"), "blue", "wants light or dark"),
    ],
)
def test_bad_configs_are_refused_in_one_line(tmp_path, path, value, message):
    config = changed(path, value)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(MicrotomeError) as caught:
        check(config, SCHEMA, [file], [ROOT])
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert text.startswith(f"{file}: ")


def test_the_file_that_holds_the_key_is_named(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    config = changed(("sweep", "batch_size"), -1)
    first.write_text(yaml.safe_dump(DEFAULT))
    second.write_text(yaml.safe_dump({"sweep": {"batch_size": -1}}))
    with pytest.raises(MicrotomeError, match=r"second\.yaml: sweep\.batch_size"):
        check(config, SCHEMA, [first, second], [ROOT])


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ((), "second"),
        (("style", "dpi"), "second"),
        (("style", "theme"), "first"),
        (("style", "colour"), "second"),  # both have the block, the last one wins
        (("models", "a", "sites", 1), "first"),
        (("sweep", "threads"), "--config"),
    ],
)
def test_a_key_comes_from_the_last_place_that_has_it(path, place):
    contents = {
        "first": {"style": {"dpi": 1, "theme": 2}, "models": {"a": {"sites": ["q", "k"]}}},
        "second": {"style": {"dpi": float("nan")}, "models": None},
    }
    given = {"--config": {"sweep": {"threads": 1}}} if place == "--config" else {}
    assert origin(path, contents | given) == place


@pytest.mark.parametrize("profile", ["default", "slurm"])
def test_a_profile_refuses_config_files_before_snakemake_reads_them(profile, tmp_path, monkeypatch):
    (tmp_path / "empty.yaml").touch()

    def parse(*arguments):
        monkeypatch.setattr(sys, "argv", ["snakemake", *arguments])
        with (ROOT / "profiles" / profile / "config.yaml").open() as stream:
            return ProfileConfigFileParser().parse(stream)

    options = parse("--configfiles", str(ROOT / "config.yaml"), "--config", "style=dark")
    assert options["nolock"] == "True"
    assert not any(key.startswith("__") for key in options)
    with pytest.raises(SystemExit, match=r"^microtome: .*empty\.yaml: wants keys.*; has nothing$"):
        parse("all", "--configfile", str(ROOT / "config.yaml"), str(tmp_path / "empty.yaml"), "-n")


def test_config_files_are_read_as_snakemake_reads_them(tmp_path):
    yaml_file, json_file = tmp_path / "a.yaml", tmp_path / "a.json"
    content = {"a": {"b": [1, 2.5, None, True, "x: \N{BUTTERFLY}"], "c": math.inf}}
    json_file.write_text(json.dumps(content, indent="\t"))
    yaml_file.write_text(
        "a: &a {<<: &b {x: 1, y: 2}, x: 3}\nb: {<<: *a, z: no}\n"
        "c: {on: yes, 1e-3: 1e-3, 1_000: 0o17, url: hf://a/b@c, date: 2001-01-01}\n"
    )
    for file in (yaml_file, json_file, ROOT / "config.yaml", ROOT / "config.book.yaml"):
        assert read_config(file) == load_configfile(file)


def study(folder, name, statistics, code=""):
    """A study of its own in a folder: its statistics, and the functions that make them."""
    place = folder / "studies" / name
    place.mkdir(parents=True)
    content = {"source": "made up", "stimuli": "categories", "statistics": statistics}
    (place / "study.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (place / "statistics.py").write_text(code, encoding="utf-8")


OWN = """
def whole(section, *, sites: Sites): ...
def one(section, *, site: Site, layer: Layer): ...
def last(logits): ...
"""


def test_a_sweep_is_the_union_of_what_studies_ask_for(tmp_path):
    config = copy.deepcopy(DEFAULT)
    config["models"]["small"] = {"source": "/", "n_layers": 4}
    statistics = {
        "whole": {"sites": ["resid_post", "q"], "layers": [2, 0]},
        "one": {"site": "pre", "layer": 3},
        "last": {"stimuli": "more"},
    }
    study(tmp_path, "other", statistics, OWN)
    config["studies"] = {
        "category_selectivity": {"models": ["smollm2-135m"]},
        "other": {"models": ["small", "smollm2-135m"]},
    }
    assert Studies(config, [tmp_path, ROOT]).sweeps() == {
        ("smollm2-135m", "categories"): Sweep(
            ["q", "k", "v", "pre", "resid_post"], list(range(30)), []
        ),
        ("small", "categories"): Sweep(["q", "pre", "resid_post"], [0, 2, 3], []),
        ("small", "more"): Sweep([], [], ["logits"]),
        ("smollm2-135m", "more"): Sweep([], [], ["logits"]),
    }


def test_a_statistic_that_another_study_reads_is_asked_of_the_readers_model(tmp_path):
    study(
        tmp_path,
        "mine",
        {"half": {"reads": {"rsa": "category_selectivity.rsa"}}},
        "def half(rsa): ...",
    )
    config = DEFAULT | {"studies": {"mine": {"models": ["smollm2-135m"]}}}
    studies = Studies(config, [tmp_path, ROOT])
    asked = {(model, product.study, product.name) for model, product in studies.asked()}
    own = "smollm2-135m"
    chain = [("category_selectivity", "cosine_similarities"), ("category_selectivity", "rsa")]
    assert asked == {(own, "mine", "half"), *((own, *key) for key in chain)}
    assert list(studies.sweeps()) == [(own, "categories")]


def test_a_users_study_goes_before_one_of_the_same_name(tmp_path):
    study(tmp_path, "hidden_states", {"one": {"site": "q", "layer": 1}}, OWN)
    config = DEFAULT | {"studies": {"hidden_states": {"models": []}}}
    assert [p.name for p in Studies(config, [tmp_path, ROOT]).products("statistics")] == ["one"]
    assert Studies(config, [ROOT]).products("figures")


def test_the_config_overrides_single_options_of_a_study():
    config = copy.deepcopy(DEFAULT)
    figures = {"cosine_matrices": {"layer": 3}, "more": {"use": "rsa_scatter", "layer": 2}}
    config["studies"]["category_selectivity"]["figures"] = figures
    studies = Studies(config, [ROOT])
    changed = studies.product("category_selectivity", "figures", "cosine_matrices")
    assert changed.options == {"layer": 3, "limits": [0.0, 1.0]}
    assert studies.product("category_selectivity", "figures", "more").function.name == "rsa_scatter"


def test_a_sweep_is_cut_into_jobs_of_so_many_layers():
    def parts(wanted, **sweep):
        config = {"models": {"small": {"n_layers": 7}}, "sweep": sweep, "studies": {}}
        return Studies(config, [ROOT]).parts("small", Sweep(*wanted))

    some = (["q"], [0, 4], [])
    assert parts(some) == [Sweep(*some)]
    assert parts(some, layers_per_job=5) == parts(some, layers_per_job=9) == parts(some)
    assert parts(some, layers_per_job=2) == [
        Sweep(["q"], [0], [], 0, 2),
        Sweep([], [], [], 2, 4),
        Sweep(["q"], [4], [], 4, None),
    ]
    assert parts((["q"], [0], ["logits"]), layers_per_job=4) == [
        Sweep(["q"], [0], [], 0, 4),
        Sweep([], [], ["logits"], 4, None),
    ]


def test_products_of_no_model_are_told_apart():
    products = {
        kind: [p for p in Studies(DEFAULT, [ROOT]).products(kind) if p.study == STUDY[1]]
        for kind in ("statistics", "figures")
    }
    for kind in products:
        assert [p.name for p in products[kind] if not p.of_model] == ["fisher_z"]
    named = {product.name: product for product in products["figures"]}
    assert named["selectivity_scatter_fisher_z"].function.name == "selectivity_scatter"
    assert named["rsa_scatter"].options == {"layer": 6}


def test_what_only_tokens_can_tell_is_asked_of_them():
    studies = Studies(DEFAULT, [ROOT])
    place = "studies.hidden_states.statistics"
    metamorphosis = studies.judged("smollm2-135m", "metamorphosis")
    assert {"key": f"{place}.scaling.target", "target": " insect"} in metamorphosis
    assert {"key": f"{place}.token_profile.token", "position": 8} not in metamorphosis
    penguins = studies.judged("smollm2-135m", "penguins")
    assert {"key": f"{place}.token_profile.token", "position": 8} in penguins
    rock = studies.judged("smollm2-135m", "rock_music")
    assert {
        "key": "studies.attention_norms.statistics.regression.first_token",
        "first_token": 3,
    } in rock


def test_the_config_of_the_books_models_is_right():
    book = yaml.safe_load((ROOT / "config.book.yaml").read_text(encoding="utf-8"))
    merged = copy.deepcopy(DEFAULT)
    update_config(merged, book)
    check(merged, SCHEMA, [ROOT / "config.yaml", ROOT / "config.book.yaml"], [ROOT])
