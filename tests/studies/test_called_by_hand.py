"""Statistics and figures of the studies, called by hand as in a notebook."""

import inspect
import pydoc
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import build, describe
from matplotlib.figure import Figure
from studied import layer_files, statistics, study
from transformers import AutoTokenizer

import microtome as mt
from microtome.options import layer_number
from microtome.sites import DIMENSIONS, FINAL_SITES
from microtome.statistics.layers import by_layer, stream
from microtome.statistics.streamed import streamed
from microtome.store.datasets import write_dataset
from microtome.texts.stimuli import read_set
from microtome.texts.tokens import set_table

ROOT = Path(__file__).parents[2]
STIMULI = ROOT / "stimuli"
N_LAYERS = 5
#: The studies of single texts or words, and the sites that their statistics read.
SITES = {
    "attention_norms": ["attn_out"],
    "category_selectivity": ["q", "k", "v"],
    "effective_dimensionality": ["resid_pre", "ln_final", "logits"],
    "dimension_reduction": ["resid_post"],
    "grammar_tuning": ["pre"],
    "head_silencing": [],
    "hidden_state_similarity": ["resid_pre", "ln_final"],
    "hidden_state_selectivity": ["resid_pre", "ln_final", "logits"],
    "hidden_states": ["resid_pre", "ln_final", "logits"],
    "ioi_patching": [],
    "mlp_distributions": ["ln2_out", "pre", "post", "mlp_out"],
    "noise_and_scaling": [],
    "residual_stream": ["resid_pre", "attn_out", "mlp_out", "resid_post", "ln_final"],
    "sentiment": ["resid_pre", "ln_final"],
}

#: Options whose values would take long, or do not fit a model as small as this.
FEWER = {"n_permutations": 20, "n_folds": 2, "dimension": 7}


@pytest.fixture(scope="module")
def model(tmp_path_factory, gpt2_tokenizer):
    """A Llama with random weights, which knows GPT-2's tokens."""
    sizes = {"vocab_size": 50257, "num_hidden_layers": N_LAYERS, "max_position_embeddings": 1024}
    folder = build(tmp_path_factory.mktemp("by_hand") / "llama", "llama", **sizes)
    AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield mt.model(folder)


@pytest.fixture(scope="module", params=SITES)
def made(request, model, tmp_path_factory):
    """A study's statistics as the workflow makes them, and as they are made by hand."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    described = study(name)
    entries = [*described["statistics"].values(), *described.get("interventions", {}).values()]
    for entry in entries:
        entry.setdefault("stimuli", described["stimuli"])
    sets = {entry["stimuli"] for entry in entries}
    inputs = {stimuli: stored(model, stimuli, SITES[name], folder) for stimuli in sets}
    expected = statistics(name, folder, inputs, **FEWER)

    found = {}
    for intervention, entry in described.get("interventions", {}).items():
        stimuli = STIMULI / f"{entry.pop('stimuli')}.yaml"
        found[intervention] = mt.intervene(model, stimuli, **entry)
    sections = {
        stimuli: mt.sweep(model, STIMULI / f"{stimuli}.yaml", SITES[name])
        if SITES[name]
        else set_table(read_set(STIMULI / f"{stimuli}.yaml"), model.checkpoint)
        for stimuli in sets
    }
    for statistic, entry in described["statistics"].items():
        function = of_entry(name, "statistics", statistic, entry)
        at_hand = sections.get(entry.pop("stimuli"))
        entry |= {option: value for option, value in FEWER.items() if option in entry}
        if "layer" in entry:
            entry["layer"] = layer_number(entry["layer"], N_LAYERS)
        bound = {name: found[read] for name, read in entry.pop("reads", {}).items()}
        found[statistic] = called(function, model, at_hand, found | bound, entry)
    return name, expected, found


def of_entry(name, kind, product, entry):
    """The function of a study, or of another one, that an entry of study.yaml names."""
    owner, _, function = entry.pop("use", product).rpartition(".")
    return getattr(getattr(getattr(mt.studies, owner or name), kind), function)


def stored(model, stimuli, sites, folder):
    """What the jobs of the workflow read of a stimulus set."""
    table = set_table(read_set(STIMULI / f"{stimuli}.yaml"), model.checkpoint)
    place = folder / stimuli
    place.mkdir()
    write_dataset(table, place / "tokens.h5")
    inside = [site for site in sites if site not in FINAL_SITES]
    final = [site for site in sites if site in FINAL_SITES]
    layers = range(N_LAYERS) if inside else []
    paths = layer_files(place, model.checkpoint, table, inside, layers, final) if sites else []
    return {
        "layers": paths[: len(layers)],
        "final": paths[len(layers) :],
        "tokens": place / "tokens.h5",
        "checkpoint": model.checkpoint,
        "manifest": describe(model.checkpoint),
    }


def called(function, model, sections, found, options):
    """A statistic of what `sweep` and `intervene` have returned."""
    parameters = inspect.signature(function).parameters
    known = {"stored": model.stored, "tokenizer": model.tokenizer, "tokens": sections} | found
    given = [
        sections[name] if name in DIMENSIONS else known[name]
        for name, parameter in parameters.items()
        if parameter.kind is not parameter.KEYWORD_ONLY and name != "section"
    ]
    if "section" not in parameters:
        return function(*given, **options)
    if "layer" in parameters:
        return function(sections.sel(layer=options["layer"]), *given, **options)
    return by_layer(function, sections, *given, **options)


def test_statistics_are_those_of_the_workflow(made):
    _, expected, found = made
    assert expected.keys() == found.keys()
    for statistic, dataset in expected.items():
        # A mean's last digit depends on how the values lie in memory.
        xr.testing.assert_allclose(found[statistic], dataset, rtol=1e-12)
        assert found[statistic].attrs == dataset.attrs


def test_a_figure_of_one_panel_is_drawn_where_it_is_asked_to_be(made):
    name, _, found = made
    drawn = 0
    for figure, options in study(name)["figures"].items():
        function = of_entry(name, "figures", figure, options)
        parameters, bound = inspect.signature(function).parameters, options.pop("reads", {})
        names = [p.name for p in parameters.values() if p.kind is not p.KEYWORD_ONLY]
        given = [found[bound.get(name, name)] for name in names]
        if "layer" in options:
            options["layer"] = layer_number(options["layer"], N_LAYERS)
        alone = function(*given, **options)
        bars = [axes for axes in alone.axes if hasattr(axes, "_colorbar")]
        assert (len(alone.axes) - len(bars) == 1) == ("ax" in parameters), figure
        if "ax" not in parameters:
            continue
        whole = Figure(figsize=(12, 4), layout="constrained")
        left, right = whole.subplots(1, 2)
        assert function(*given, **options, ax=right) is whole
        assert not left.has_data()
        assert right.has_data()
        assert len(whole.axes) == 2 + len(bars)
        assert [right.get_title(), right.get_xlabel()] == [
            alone.axes[0].get_title(),
            alone.axes[0].get_xlabel(),
        ]
        drawn += 1
    assert drawn > 0


def test_streamed_statistics(model):
    """As they are made in the sweep, whose batches are added up."""
    functions = mt.studies.corpus.statistics
    sections = mt.sweep(model, ["A thin section", "One more"], ["resid_post", "pattern"])
    found = streamed(functions.moments(sites=["resid_post"]), stream(sections))
    expected = sections.resid_post.mean(("token", "d_model"))
    assert found["mean"].sel(site="resid_post").values == pytest.approx(expected.values, rel=1e-5)
    entropies = streamed(functions.entropies(sections), stream(sections))
    shares = sections.pattern.sel(token=sections.position == 1, key=slice(0, 2))
    expected = -(shares * np.log(shares)).sum("key").mean("token")
    np.testing.assert_allclose(entropies["entropy"].sel(position=1), expected, rtol=1e-5)
    axes = Figure().subplots()
    assert mt.studies.corpus.figures.entropies(entropies, ax=axes) is axes.figure
    assert axes.get_ylabel() == "Attention head"


# Where they are found


def python(code, folder, path):
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(path), "PATH": ""}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


IMPORTS = """
import sys
import microtome as mt
loaded = set(sys.modules)
studies = mt.studies
foreign = {name.partition(".")[0] for name in set(sys.modules) - loaded}
print(*(foreign - sys.stdlib_module_names))
print(mt.studies.category_selectivity.figures.__file__)
from microtome.studies.category_selectivity import figures
import microtome.studies.corpus as corpus
print(figures is mt.studies.category_selectivity.figures, {"figures"} < set(dir(corpus)))
print(mt.studies.category_selectivity.__doc__.splitlines()[0])
"""


def test_studies_are_found_from_a_clone(tmp_path):
    loaded, file, names, title = python(IMPORTS, tmp_path, ROOT)
    assert loaded == "microtome"
    assert file == str(ROOT / "studies" / "category_selectivity" / "figures.py")
    assert names == "True True"
    assert title == "# Category selectivity"


def test_studies_are_found_where_the_package_is_installed(tmp_path):
    """What `pip install .` copies, built as it builds it."""
    for name in ("microtome", "studies"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", "built"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "elsewhere").mkdir()
    found = python(IMPORTS, tmp_path / "elsewhere", tmp_path / "built")
    assert found[1:] == [
        str(tmp_path / "built" / "microtome/studies/category_selectivity/figures.py"),
        "True True",
        "# Category selectivity",
    ]


def test_studies_of_ones_own_come_first(tmp_path):
    for name in ("mine", "corpus"):
        folder = tmp_path / "studies" / name
        folder.mkdir(parents=True)
        (folder / "study.yaml").write_text("source: made up\n")
        (folder / "figures.py").write_text("def drawn():\n    return 'mine'\n")
    code = "import microtome as mt; print({})"
    assert python(code.format("mt.studies.mine.figures.drawn()"), tmp_path, ROOT) == ["mine"]
    assert python(code.format("mt.studies.corpus.figures.drawn()"), tmp_path, ROOT) == ["mine"]
    assert "mine" in python(code.format("*dir(mt.studies)"), tmp_path, ROOT)[0].split()


def test_help_of_a_function_can_be_read():
    shown = pydoc.plain(pydoc.render_doc(mt.studies.grammar_tuning.statistics.word_activations))
    assert "Annotated[xarray.core.dataset.Dataset, WORDS, CATEGORIES, ALL_TOKENS]" in shown
    assert "site: Annotated[str, one site]" in shown.replace("typing.", "")


@pytest.mark.parametrize(
    ("get", "says"),
    [
        (lambda: mt.studies.corpse, "no study 'corpse'; there are attention_norms, category_sele"),
        (lambda: mt.studies.corpus.figurs, "studies.corpus has no figurs.py; it has captions, fig"),
    ],
)
def test_what_is_not_there_is_told(get, says):
    with pytest.raises(AttributeError, match=says):
        get()
