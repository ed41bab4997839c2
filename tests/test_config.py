"""The config: what it means, and how what cannot be right is refused."""

import copy
import sys
from pathlib import Path

import pytest
import yaml
from snakemake.profiles import ProfileConfigFileParser

from microtome.errors import MicrotomeError
from microtome.workflow import config as settings
from microtome.workflow.config_files import origin
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
    check(DEFAULT, SCHEMA, [ROOT / "config.yaml"], ROOT)


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
        (("stimuli", "categories"), "stimuli/none.yaml", "no such file; correct the path"),
        ((*STUDY, "models"), ["smollm2"], "no model 'smollm2'; did you mean 'smollm2-135m'"),
        ((*STUDY, "stimuli"), "category", "no stimuli 'category'; did you mean 'categories'"),
        ((*STUDY, "figures", "masks"), {}, "the key 'reads' is missing"),
        ((*STUDY, "figures", "masks"), {"reads": ["word_pair"]}, "did you mean 'word_pairs'"),
        ((*STUDY, "figures", "Masks"), {"reads": ["rsa"]}, "'Masks' is no name"),
        ((*STUDY, "figures", "rsa_scatter", "layer"), 30, "no layer 30 in smollm2-135m"),
        ((*STUDY, "figures", "rsa_scatter", "layer"), "six", "wants a layer number"),
        ((*STUDY, "statistics", "qkv_points", "layers"), [-1], "no layer -1 in smollm2-135m"),
        ((*STUDY, "statistics", "qkv_points", "layers"), "some", "wants `all` or a list"),
        ((*STUDY, "statistics", "qkv_points", "sites"), ["qq"], "no site 'qq'; did you mean 'q'"),
        ((*STUDY, "statistics", "rsa", "reads"), ["rsa"], "read each other: rsa"),
        (("sweep", "batch_size"), 0, "wants a number of texts"),
        (("style", "theme"), "blue", "wants light or dark"),
    ],
)
def test_bad_configs_are_refused_in_one_line(tmp_path, path, value, message):
    config = changed(path, value)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(MicrotomeError) as caught:
        check(config, SCHEMA, [file], ROOT)
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
        check(config, SCHEMA, [first, second], ROOT)


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


def test_a_sweep_is_the_union_of_what_studies_ask_for():
    config = copy.deepcopy(DEFAULT)
    config["models"]["small"] = {"source": "/", "n_layers": 4}
    study = config["studies"]["category_selectivity"] | {"models": ["smollm2-135m"]}
    config["studies"] = {"category_selectivity": study}
    config["studies"]["other"] = {
        "models": ["small", "smollm2-135m"],
        "stimuli": "categories",
        "statistics": {
            "a": {"sites": ["resid_post", "q"], "layers": [2, 0]},
            "b": {"sites": ["pre"], "layers": [3]},
            "c": {"sites": ["logits"], "stimuli": "more"},
        },
        "figures": {},
    }
    assert settings.sweeps(config) == {
        ("smollm2-135m", "categories"): settings.Sweep(
            ["q", "k", "v", "pre", "resid_post"], list(range(30)), []
        ),
        ("small", "categories"): settings.Sweep(["q", "pre", "resid_post"], [0, 2, 3], []),
        ("small", "more"): settings.Sweep([], [], ["logits"]),
        ("smollm2-135m", "more"): settings.Sweep([], [], ["logits"]),
    }


def test_a_sweep_is_cut_into_jobs_of_so_many_layers():
    def parts(wanted, **sweep):
        config = {"models": {"small": {"n_layers": 7}}, "sweep": sweep}
        return settings.parts(config, "small", settings.Sweep(*wanted))

    some = (["q"], [0, 4], [])
    assert parts(some) == [settings.Sweep(*some)]
    assert parts(some, layers_per_job=5) == parts(some, layers_per_job=9) == parts(some)
    assert parts(some, layers_per_job=2) == [
        settings.Sweep(["q"], [0], [], 0, 2),
        settings.Sweep([], [], [], 2, 4),
        settings.Sweep(["q"], [4], [], 4, None),
    ]
    assert parts((["q"], [0], ["logits"]), layers_per_job=4) == [
        settings.Sweep(["q"], [0], [], 0, 4),
        settings.Sweep([], [], ["logits"], 4, None),
    ]


def test_products_of_no_model_are_told_apart():
    statistics = settings.statistics(DEFAULT, "category_selectivity")
    figures = settings.readers(DEFAULT, "category_selectivity", "figures")
    assert [name for name, p in statistics.items() if not p.of_model] == ["fisher_z"]
    assert [name for name, p in figures.items() if not p.of_model] == ["fisher_z"]
    assert figures["selectivity_scatter_fisher_z"].script == "selectivity_scatter"
    assert figures["rsa_scatter"].options == {"layer": 6}


def test_every_product_has_its_script():
    for study in DEFAULT["studies"]:
        products = {
            "statistics": settings.statistics(DEFAULT, study),
            "figures": settings.readers(DEFAULT, study, "figures"),
            "tables": settings.readers(DEFAULT, study, "tables"),
        }
        for kind, made in products.items():
            for product in made.values():
                assert (ROOT / "scripts" / kind / study / f"{product.script}.py").is_file()


def test_the_books_models_are_pinned():
    book = yaml.safe_load((ROOT / "config.book.yaml").read_text(encoding="utf-8"))
    from snakemake.utils import update_config

    merged = copy.deepcopy(DEFAULT)
    update_config(merged, book)
    check(merged, SCHEMA, [ROOT / "config.yaml", ROOT / "config.book.yaml"], ROOT)
