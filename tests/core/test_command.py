"""The command `microtome`: what it shows, begins and says at the end of a run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from workflows import Clone

from microtome import cli
from microtome.errors import MicrotomeError
from microtome.show import show
from microtome.show.models import known_models
from microtome.workflow.new_study import new_study
from microtome.workflow.summary import PAGE, summary

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model):
    """A run of one study."""
    clone = Clone(tmp_path_factory.mktemp("whole"), model)
    del clone.config["studies"]["mlp_distributions"]
    clone.save(clone.config)
    clone.run()
    return clone


@pytest.fixture
def here(whole, monkeypatch):
    monkeypatch.chdir(whole.folder)
    return whole


SHOWN = {
    "results/activations/tiny/words/layer-01.h5": [
        r"results/activations/tiny/words/layer-01.h5: activations of layer 1, [\d.]+ kB",
        r"  of tiny \(.*\), computed in float32, torch \S+, transformers \S+",
        r"  q  \(token \d+, n_heads 4, d_head 6\)     float32",
        r"  k  \(token \d+, n_kv_heads 4, d_head 6\)  float32",
        r"  v  \(token \d+, n_kv_heads 4, d_head 6\)  float32",
        r"  \d+ tokens of 6 texts: 'The' ' next' ' word' ' is' ' apple' .* …",
        r"  from  results/models/tiny",
        r"  from  results/tokens/tiny/words.h5",
        r"  as it was made",
    ],
    "results/activations/tiny/words": [
        r"results/activations/tiny/words: activations, layer-00, layer-01, [\d.]+ kB",
        r"  of tiny .*",
        *[rf"  {site}  .*" for site in "qkv"],
        r"  \d+ tokens of 6 texts: .*",
    ],
    "results/tokens/tiny/words.h5": [
        r"results/tokens/tiny/words.h5: token table of tiny, [\d.]+ kB",
        r"  columns: sequence, position, token_id, text, word, category, in_word",
        r"  words: fruit 3, space 3",
        r"  \d+ tokens of 6 texts: .*",
        r"  from  results/models/tiny",
        r"  from  stimuli/words.yaml",
        r"  as it was made",
    ],
    "results/statistics/category_selectivity/tiny/cosine_similarities.h5": [
        r".*: statistic cosine_similarities of the study category_selectivity, of tiny, [\d.]+ kB",
        r"  cosine  \(layer 2, site 3, word 6, other 6\)  float64",
        r"  layer  0, 1",
        r"  site   q, k, v",
        r"  word   apple, pear, plum, moon, asteroid, star",
        r"  other  apple, pear, plum, moon, asteroid, star",
        r"  from  results/activations/tiny/words",
        r"  by    cosine_similarities in studies/category_selectivity/statistics.py",
        r"  as it was made",
    ],
    "results/figures/category_selectivity/tiny/rsa_profile.png": [
        r".*: figure rsa_profile of the study category_selectivity, of tiny, [\d.]+ kB",
        r"  \d+ × \d+ pixels",
        r"  from  results/statistics/category_selectivity/tiny/rsa.h5",
        r"  by    rsa_profile in studies/category_selectivity/figures.py",
        r"  as it was made",
    ],
    "tiny": [
        r"results/models/tiny: a model of 1.2 million parameters",
        r"  from .*tiny \(.*\)",
        r"  gpt2, predicts the next token: n_layers 3, d_model 24, .*",
        r"  sites: resid_pre, ln1_out, q, k, v, .*, logits",
        r"  no router: no experts",
        r"  no pre_linear: its MLP is not gated",
        r"  [\d.]+ MB in 1 file of F32",
    ],
    "results": [
        r"results: \d+ files, [\d.]+ MB",
        r"  models +\d+ files +.* MB",
        *[rf"  {kind} +\d+ files? +.* .?B" for kind in ("tokens", "activations")],
        *[rf"  {kind} +\d+ files? +.* .?B" for kind in ("statistics", "figures", "page")],
        r"  all on record; microtome verify compares them, byte by byte",
    ],
    "results/models": [r"results/models: \d+ files, .* MB", r"  tiny  \d+ files  .* MB"],
}


@pytest.mark.parametrize("what", SHOWN)
def test_show(here, what):
    lines = show(what).splitlines()
    assert len(lines) == len(SHOWN[what])
    for line, pattern in zip(lines, SHOWN[what], strict=True):
        assert re.fullmatch(pattern, line), line


def test_parameters_are_counted(here, model):
    from safetensors.numpy import load_file

    weights = load_file(model / "model.safetensors").values()
    millions = sum(weight.size for weight in weights) / 1e6
    assert f"a model of {millions:,.1f} million parameters" in show("tiny")


def test_show_says_what_is_not_as_it_was_made(whole, tmp_path, monkeypatch):
    clone = whole.copy(tmp_path / "clone")
    monkeypatch.chdir(clone.folder)
    figure = clone.product("figures/category_selectivity/tiny/rsa_profile.svg")
    figure.write_text(figure.read_text() + " ")
    clone.product("statistics/category_selectivity/tiny/rsa.h5").unlink()
    label = figure.relative_to(clone.folder)
    assert show(str(label)).endswith("\n  changed or damaged since it was made")
    *_, missing, changed = show("results").splitlines()
    assert missing == "  1 file missing: results/statistics/category_selectivity/tiny/rsa.h5"
    assert changed == f"  1 file changed or damaged: {label}"
    layer = clone.product("activations/tiny/words/layer-00.h5")
    layer.write_bytes(layer.read_bytes()[:500])
    with pytest.raises(MicrotomeError, match=r"layer-00.h5: damaged \(.*\); make it again: "):
        show(str(layer))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("results/tokenss", "no such file, folder or model; did you mean results/tokens?"),
        ("tinny", "no such file, folder or model; did you mean tiny?"),
        ("/nowhere/at/all", "no such file, folder or model"),
        ("stimuli/words.yaml", "no product of Microtome; show takes activations, token tables, "),
        ("stimuli", "has no products; name a folder in results/"),
        ("untrained://tiny?seed=1", "not fetched yet; microtome.model('untrained://tiny?seed=1') "),
    ],
)
def test_what_there_is_not_to_show(here, what, says):
    with pytest.raises(MicrotomeError) as error:
        show(what)
    assert str(error.value).startswith(f"{what}: {says}")


def test_models_of_the_configs_are_known(here):
    names = set()
    for file in ("config.yaml", "config.book.yaml"):
        names |= set(yaml.safe_load((ROOT / file).read_text())["models"])
    assert set(known_models()) == names | {"tiny"}


def microtome(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-P", "-m", "microtome.cli", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_show_takes_no_torch_and_no_xarray(whole):
    code = (
        "import sys; from microtome import cli; cli.main(sys.argv[1:]); "
        "print({'torch', 'xarray', 'transformers', 'snakemake'} & set(sys.modules))"
    )
    for what in SHOWN:
        done = subprocess.run(
            [sys.executable, "-c", code, "show", what],
            cwd=whole.folder,
            env=whole.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == "set()"


def test_a_fault_is_one_line(tmp_path):
    for arguments, says in {
        ("show", "nothing"): "nothing: no such file, folder or model",
        ("verify", "--directory", "nowhere"): "nowhere: no such folder; correct --directory",
        ("new-study", "2nd"): "2nd: wants lower-case letters, digits and _, the first a letter",
    }.items():
        done = microtome(*arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(f"microtome: {says}")
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_verify_takes_another_folder(whole, tmp_path, capsys):
    cli.main(["verify", "--directory", str(whole.folder)])
    assert re.fullmatch(r"\d+ products, all as they were made\n", capsys.readouterr().out)
    assert Path.cwd() != whole.folder


def test_a_new_study_has_its_own_name_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "microtome run --configfile studies/my_question/config.yaml\n" in new_study(
        "my_question"
    )
    files = {file.name: file.read_text() for file in Path("studies/my_question").iterdir()}
    assert "residual_growth" not in "".join(files.values())
    assert files["README.md"].startswith("# My question\n")
    assert list(yaml.safe_load(files["config.yaml"])["studies"]) == ["my_question"]


def test_a_new_study_takes_no_place_that_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new_study("mine")
    for name in ("mine", "category_selectivity"):
        with pytest.raises(MicrotomeError, match="there is a study of that name"):
            new_study(name)
    for name in ("Mine", "my-study", "../mine", "", "a" * 101, "mine\n"):
        with pytest.raises(MicrotomeError, match="wants lower-case letters"):
            new_study(name)
    assert [folder.name for folder in Path("studies").iterdir()] == ["mine"]


def test_after_a_first_run_there_are_five_lines(here):
    lines = summary(first=True).splitlines()
    assert len(lines) == 5
    assert lines[0] == "Up to date: 2 figures and 0 tables; studies: 1, models: 1"
    assert str(PAGE) in lines[1]
    assert "studies/category_selectivity/figures.py" in lines[2]
    assert "microtome show tiny" in lines[3]
    assert "microtome new-study NAME" in lines[4]
    assert summary(first=False).splitlines() == lines[:2]


def make(*arguments, path=None):
    environment = os.environ | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_make_help_has_a_line_for_each_target():
    lines = make("help").splitlines()
    listed = [line.split()[1] for line in lines]
    assert {"figures", "book", "plan", "verify", "test", "lint", "docs", "help"} <= set(listed)
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)", text, re.M)[1].replace("\\", "").split()
    parts = {name for name in phony if name.startswith("lint-")} | {"chromium"}  # of other targets
    assert sorted(listed) == sorted(set(phony) - parts)
    assert all(re.fullmatch(r"make [a-z-]+  +\S.*", line) for line in lines)


def test_uv_is_told_how_pip_is_configured(tmp_path):
    """With a pip that answers as if it had a mirror; nothing is installed."""
    config = [
        ":env:.find-links='/own/wheels'",
        "global.cert='/own/cert.pem'",
        "global.extra-index-url='file:///one file:///two'",
        "global.find-links='/wheels /more'",
        "global.index-url='file:///mirror'",
        "global.timeout='60'",
    ]
    for name, says in {"uv": [], "python": config}.items():
        file = tmp_path / name
        file.write_text("#!/bin/sh\n" + "".join(f'echo "{line}"\n' for line in says))
        file.chmod(0o755)
    arguments = ("--dry-run", "--always-make", ".venv/installed", "PYTHON=python")
    commands = make(*arguments, path=tmp_path).splitlines()
    (locked,) = (line for line in commands if "--no-deps -r requirements.lock" in line)
    told = dict(re.findall(r"(\w+)='([^']*)'", locked.partition(" uv pip install ")[0]))
    assert told == {
        "UV_FIND_LINKS": "/own/wheels",  # as with pip, the environment wins
        "UV_INDEX": "file:///one file:///two",
        "UV_DEFAULT_INDEX": "file:///mirror",
        "SSL_CERT_FILE": "/own/cert.pem",
    }
    assert "--compile-bytecode" in locked
