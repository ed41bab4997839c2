"""The config and the studies it names: what each product is made from."""

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
from microtome.options import layer_number, layer_numbers
from microtome.workflow.config import Studies, Sweep
from microtome.workflow.config_files import origin, read_config
from microtome.workflow.faults import check
from microtome.workflow.functions import functions

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "config.schema.yaml"
NAMES = sorted(file.parent.name for file in ROOT.glob("studies/*/study.yaml"))


def read(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def default(**changes):
    """The studies of the default config, with some of its blocks replaced."""
    return Studies(read("config.yaml") | changes, [ROOT])


STATISTICS = """
from microtome import options
from microtome.options import Count, Layer, Site, Sites


def of_all(section, *, sites: Sites): ...
def of_one(section, tokens, *, site: Site, layer: options.Layer): ...
def stacked(resid_post, logits): ...
def streamed(*, sites: Sites, n: Count = 5) -> Streamed: ...
def of_weights(stored, *, layer: Layer): ...
def of_texts(tokens): ...
def of_nothing(*, n: Count): ...
def further(of_all, of_weights, *, layer: Layer): ...
"""
FIGURES = """
def drawn(of_all, further): ...
def plain(of_nothing): ...
"""
STUDY = {
    "source": "made up",
    "stimuli": "words",
    "statistics": {
        "of_all": {"sites": ["resid_post", "q"], "layers": [2, 0]},
        "of_one": {"site": "pre", "layer": 3},
        "stacked": {"stimuli": "more"},
        "streamed": {"sites": ["v"], "layers": [1]},
        "of_weights": {"layer": 1},
        "of_texts": {},
        "of_nothing": {"n": 2},
        "further": {"layer": 0},
    },
    "figures": {"drawn": None, "plain": {}},
}


def write_study(base, name="mine", study=STUDY, statistics=STATISTICS, figures=FIGURES):
    folder = base / "studies" / name
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    (folder / "statistics.py").write_text(statistics, encoding="utf-8")
    (folder / "figures.py").write_text(figures, encoding="utf-8")
    return folder


def mine(base, *others, config=None):
    """The study that `write_study` writes, on a model of four layers."""
    write_study(base)
    models = {"small": {"source": "/", "n_layers": 4}}
    config = {"models": models, "studies": {"mine": {"models": ["small"]}}, "sweep": {}} | (
        config or {}
    )
    return Studies(config, [base, *others])


@pytest.mark.parametrize("files", [["config.yaml"], ["config.yaml", "config.book.yaml"]])
def test_the_configs_of_the_repository_are_right(files):
    merged = {}
    for file in files:
        update_config(merged, read(file))
    check(merged, SCHEMA, [ROOT / file for file in files], [ROOT])


def test_the_default_config_is_short():
    assert len((ROOT / "config.yaml").read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize("study", NAMES)
def test_every_product_of_a_study_has_a_function_and_every_function_a_product(study):
    studies = default(studies={study: {"models": ["smollm2-135m"]}})
    for kind in ("statistics", "figures", "tables"):
        products = studies.products(kind)
        file = ROOT / "studies" / study / f"{kind}.py"
        made = {p.function.name for p in products if p.function.file == file}
        assert made == (set(functions(file)) if file.exists() else set())


def test_the_file_that_holds_the_key_is_named(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    config = read("config.yaml")
    first.write_text(yaml.safe_dump(config))
    config["sweep"]["batch_tokens"] = -1
    second.write_text(yaml.safe_dump({"sweep": {"batch_tokens": -1}}))
    with pytest.raises(MicrotomeError, match=r"second\.yaml: sweep\.batch_tokens"):
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


def test_what_a_config_says_of_a_study_is_laid_over_what_its_folder_says(tmp_path):
    over = {
        "models": ["small"],
        "stimuli": "other",
        "statistics": {"of_one": {"layer": 2}, "again": {"use": "of_nothing", "n": 3}},
        "figures": {"drawn": {"reads": {"further": "further"}}},
    }
    studies = mine(tmp_path, config={"studies": {"mine": over}})
    statistics = {product.name: product for product in studies.products("statistics")}
    assert list(statistics) == [*STUDY["statistics"], "again"]
    assert statistics["of_one"].options == {"site": "pre", "layer": 2}
    assert statistics["of_one"].stimuli == "other"
    assert statistics["stacked"].stimuli == "more"  # it names its own
    assert statistics["again"].function.name == "of_nothing"
    assert statistics["again"].options == {"n": 3}


def test_what_a_product_reads_follows_from_its_parameters(tmp_path):
    studies = mine(tmp_path)
    statistics = {product.name: product for product in studies.datasets("statistics")}
    found = {
        name: (p.sites, p.final_sites, p.layers, p.stimuli, p.of_model, p.runs_model)
        for name, p in statistics.items()
    }
    assert found == {
        "of_all": (["q", "resid_post"], [], (2, 0), "words", True, False),
        "of_one": (["pre"], [], (3,), "words", True, False),
        "stacked": (["resid_post"], ["logits"], None, "more", True, False),
        "streamed": (["v"], [], (1,), "words", True, True),
        "of_weights": ([], [], None, None, True, False),
        "of_texts": ([], [], None, "words", True, False),
        "of_nothing": ([], [], None, None, False, False),
        "further": ([], [], None, None, True, False),
    }
    assert statistics["of_all"].chosen_sites == ["resid_post", "q"]  # in the config's order
    assert statistics["streamed"].option("n") == 5
    assert statistics["of_nothing"].option("m") is None
    drawn, plain = studies.products("figures")
    assert [product.name for product in drawn.family()] == [
        *("drawn", "of_all", "further", "of_all", "of_weights")
    ]
    assert (drawn.of_model, plain.of_model) == (True, False)


def test_a_share_of_the_depth_is_a_layer_of_each_model(tmp_path):
    own = {
        "models": ["small", "deep"],
        "statistics": {
            "of_all": {"layers": ["20%", 0, "21%"]},
            "of_one": {"layer": "50%"},
            "further": {"layer": "100%"},
        },
    }
    models = {"small": {"source": "/", "n_layers": 4}, "deep": {"source": "/", "n_layers": 30}}
    studies = mine(tmp_path, config={"studies": {"mine": own}, "models": models})
    made = {(model, product.name): product for model, product in studies.asked()}
    assert made["small", "of_all"].layers == (0, 1)  # both shares are layer 1
    assert made["deep", "of_all"].layers == (0, 6)
    assert (made["small", "of_one"].layers, made["deep", "of_one"].layers) == ((2,), (15,))
    assert made["deep", "of_one"].options == {"site": "pre", "layer": 15}
    assert made["deep", "further"].options == {"layer": 29}
    assert made["deep", "further"].reads["of_all"].layers == (0, 6)
    assert studies.sweeps()["small", "words"].layers == [0, 1, 2]
    assert studies.sweeps()["deep", "words"].layers == [0, 6, 15]
    assert studies.stream([made["deep", "streamed"]], "deep").layers == [1]


@pytest.mark.parametrize(
    ("share", "n_layers", "number"),
    [
        ("0%", 30, 0),
        ("100%", 30, 29),
        ("20%", 30, 6),  # 5.8
        ("20%", 6, 1),
        ("50%", 6, 3),  # 2.5: the deeper one
        ("49%", 6, 2),
        ("70%", 1, 0),
        (5, 6, 5),
    ],
)
def test_a_share_of_the_depth_is_the_nearest_layer(share, n_layers, number):
    assert layer_number(share, n_layers) == number


def test_shares_that_mean_one_layer_name_it_once():
    shares = ["100%", "0%", "20%", "40%", 1]
    assert layer_numbers(shares, 4) == [0, 1, 3]
    assert layer_numbers(None, 4) == range(4)


def test_statistics_of_other_studies_are_read_and_functions_used(tmp_path):
    study = {
        "source": "made up",
        "stimuli": "penguins",
        "statistics": {"n": {"use": "mine.of_nothing", "n": 7}},
        "figures": {
            "drawn": {
                "use": "mine.drawn",
                "reads": {"of_all": "mine.of_all", "further": "mine.further"},
            }
        },
    }
    write_study(tmp_path, "other", study, statistics="", figures="")
    studies = mine(tmp_path, config={"studies": {"other": {"models": ["small"]}}})
    (drawn,) = studies.products("figures")
    assert drawn.function.file == tmp_path / "studies" / "mine" / "figures.py"
    assert {read: (p.study, p.name) for read, p in drawn.reads.items()} == {
        "of_all": ("mine", "of_all"),
        "further": ("mine", "further"),
    }
    names = [(product.study, product.name) for product in studies.datasets("statistics")]
    assert names == [
        ("other", "n"),
        ("mine", "of_all"),
        ("mine", "further"),
        ("mine", "of_weights"),
    ]
    # Made for the model of the study that reads them, and no other statistic of theirs.
    assert [(m, p.name) for m, p in studies.asked()] == [("small", name) for _, name in names]
    assert studies.sweeps() == {("small", "words"): Sweep(["q", "resid_post"], [0, 2], [])}


def test_an_intervention_reads_statistics_and_is_read_by_others(tmp_path):
    silence = {"site": "z", "change": "zero", "read": {"loss": True}}
    study = {
        "source": "made up",
        "stimuli": "penguins",
        "interventions": {
            "silence": silence | {"heads": "mine.of_all.chosen", "stimuli": "more"},
            "shrink": silence | {"change": {"use": "by_half"}, "each": ["layer"]},
        },
        "statistics": {"twice": {"reads": {"silenced": "silence"}}, "direct": {}},
    }
    code = "def twice(silenced): ...\ndef direct(shrink): ...\n"
    write_study(tmp_path, "other", study, statistics=code, figures="")
    over = {"interventions": {"shrink": {"each": [], "tokens": "last"}}}
    studies = mine(tmp_path, config={"studies": {"other": {"models": ["small"]} | over}})
    silence, shrink = studies.products("interventions")
    twice, direct = studies.products("statistics")
    assert (silence.stimuli, shrink.stimuli) == ("more", "penguins")
    assert [product.name for product in silence.family()] == ["silence", "of_all"]
    assert twice.reads == {"silenced": silence}
    assert direct.reads == {"shrink": shrink}
    # The config's keys replace those of study.yaml.
    assert (shrink.intervention.each, shrink.intervention.tokens.kind) == ((), "last")
    assert silence.code is None
    assert shrink.code == (tmp_path / "studies" / "other" / "changes.py", "by_half")
    assert silence.runs_model and silence.reads_tokens and silence.reads_checkpoint
    assert {product.name for _, product in studies.asked()} == {
        *("silence", "shrink", "of_all", "twice", "direct")
    }
    # No activations are stored for it, but those that the statistic reads.
    assert studies.sweeps() == {("small", "words"): Sweep(["q", "resid_post"], [0, 2], [])}
    # Its predictions want a head.
    assert [wish["key"] for wish in studies.judged("small", "more")] == [
        *("studies.other.models", "studies.other.interventions.silence")
    ]


def test_a_study_of_the_working_directory_wins(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    write_study(there)
    studies = mine(here, there)
    assert studies.study("mine").folder == here / "studies" / "mine"
    write_study(there, "theirs")
    assert studies.study("theirs").folder == there / "studies" / "theirs"
    with pytest.raises(KeyError):
        studies.study("nobodys")
    (here / "stimuli").mkdir()
    (here / "stimuli" / "words.yaml").touch()
    assert studies.stimulus_file("words") == here / "stimuli" / "words.yaml"
    assert studies.stimulus_file("none") == here / "stimuli" / "none.yaml"


def test_a_stimulus_set_may_lie_elsewhere_and_keep_some_tokens(tmp_path):
    elsewhere = {"words": {"file": "texts/w.yaml", "tokens": [0, -1]}, "more": {"tokens": "mean"}}
    studies = mine(tmp_path, config={"stimuli": elsewhere})
    assert studies.stimulus_file("words") == tmp_path / "texts" / "w.yaml"
    assert studies.stimulus_file("more") == tmp_path / "stimuli" / "more.yaml"
    kept = [studies.tokens_kept(name) for name in ("words", "more", "other")]
    assert kept == [[0, -1], "mean", "all"]


def test_a_sweep_is_the_union_of_what_studies_ask_for(tmp_path):
    """Statistics that are made in a sweep of their own are no part of it."""
    study = {"source": "made up", "stimuli": "words", "statistics": {"a": {"sites": ["k"]}}}
    code = "from microtome.options import Sites\n\n\ndef a(section, *, sites: Sites): ...\n"
    write_study(tmp_path, "other", study, code, "")
    models = {"small": {"source": "/", "n_layers": 4}, "large": {"source": "/", "n_layers": 6}}
    config = {"models": models}
    config["studies"] = {"mine": {"models": ["small"]}, "other": {"models": ["large", "small"]}}
    studies = mine(tmp_path, config=config)
    assert studies.sweeps() == {
        ("small", "words"): Sweep(["q", "k", "pre", "resid_post"], [0, 1, 2, 3], []),
        ("large", "words"): Sweep(["k"], [0, 1, 2, 3, 4, 5], []),
        ("small", "more"): Sweep(["resid_post"], [0, 1, 2, 3], ["logits"]),
    }
    [(key, products)] = studies.streams().items()
    assert key == ("small", "words", 0)
    assert studies.stream(products, "small") == Sweep(["v"], [1], [])


def test_streamed_statistics_share_a_sweep(tmp_path):
    """One that reads another has a later turn, also by way of one that is not streamed."""
    code = """
from microtome.options import Sites


def early(*, sites: Sites) -> Streamed: ...
def beside(tokens, *, sites: Sites) -> Annotated[Streamed, Held("width", "width")]: ...
def between(early): ...
def late(between, *, sites: Sites) -> streamed.Streamed: ...
"""
    sites = {"early": ["q"], "beside": ["v", "k"], "late": ["q"]}
    statistics = {name: {"sites": chosen} for name, chosen in sites.items()} | {"between": {}}
    statistics["beside"]["layers"] = ["100%"]
    study = {"source": "made up", "stimuli": "words", "statistics": statistics}
    write_study(tmp_path, "streams", study, code, "")
    config = {"studies": {"streams": {"models": ["small"]}}}
    studies = mine(tmp_path, config=config)
    shared = studies.streams()
    assert {key: [p.name for p in products] for key, products in shared.items()} == {
        ("small", "words", 0): ["beside", "early"],
        ("small", "words", 1): ["late"],
    }
    wanted = studies.stream(shared["small", "words", 0], "small")
    assert wanted == Sweep(["q", "k", "v"], [0, 1, 2, 3], [])
    beside, early = shared["small", "words", 0]
    assert (beside.layers, beside.function.held) == ((3,), ("width", "width"))
    assert (early.of_model, early.reads_tokens, early.runs_model) == (True, True, True)
    assert studies.sweeps() == {}


def test_a_sweep_is_cut_into_jobs_of_so_many_layers():
    def parts(wanted, **sweep):
        config = {"models": {"small": {"n_layers": 7}}, "studies": {}, "sweep": sweep}
        return Studies(config, []).parts("small", Sweep(*wanted))

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
    studies = default()
    none = {
        (product.study, product.name)
        for product in (*studies.datasets("statistics"), *studies.products("figures"))
        if not product.of_model
    }
    assert none == {
        ("category_selectivity", "fisher_z"),
        ("dimension_reduction", "picture"),
        ("dimension_reduction", "picture_components"),
        ("dimension_reduction", "picture_percent"),
        ("dimension_reduction", "picture_reductions"),
        ("dimension_reduction", "picture_svd"),
        ("effective_dimensionality", "concept"),
        ("ioi_patching", "simulated_data"),
        ("ioi_patching", "simulated_fit"),
        ("mlp_distributions", "gelu"),
        ("mlp_distributions", "linear_separation"),
    }


def test_what_only_tokens_can_tell_is_asked_of_them():
    studies = default()
    place = "studies.hidden_states.statistics"
    metamorphosis = studies.judged("smollm2-135m", "metamorphosis")
    [asked] = [wish for wish in metamorphosis if "intervention" in wish]
    assert asked["key"] == "studies.hidden_states.interventions.scaled_blocks"
    assert asked["intervention"]["change"] == {"scale": 0.8}
    assert {"key": f"{place}.token_profile.token", "position": 8} not in metamorphosis
    penguins = studies.judged("smollm2-135m", "penguins")
    assert {"key": f"{place}.token_profile.token", "position": 8} in penguins
    rock = studies.judged("smollm2-135m", "rock_music")
    key = "studies.attention_norms.statistics.regression.first_token"
    assert {"key": key, "first_token": 3} in rock
