"""What a script takes, read off its code."""

from pathlib import Path

import pytest
from microtome.workflow.signature import signature

from microtome.errors import MicrotomeError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def read(tmp_path):
    def read(body, library="def f(x, y, n, seed=0, *, site): pass\n"):
        (tmp_path / "library.py").write_text(library, encoding="utf-8")
        script = tmp_path / "script.py"
        script.write_text(f"from library import f as g\n{body}\n", encoding="utf-8")
        return signature(script, tmp_path)

    return read


@pytest.mark.parametrize(
    ("body", "required", "options"),
    [
        ("", set(), set()),
        ('snakemake.params.options["n"]', {"n"}, {"n"}),
        ('options = snakemake.params.options\noptions["n"]', {"n"}, {"n"}),
        ('a, options = 1, dict(snakemake.params.options)\noptions.pop("n")', {"n"}, {"n"}),
        ('snakemake.params.options.get("n")', set(), {"n"}),
        ('options = dict(snakemake.params.options)\noptions.pop("n", 2)', set(), {"n"}),
        ("g(1, 2, **snakemake.params.options)", {"n", "site"}, {"n", "seed", "site"}),
        ("g(1, 2, site=3, **snakemake.params.options)", {"n"}, {"n", "seed"}),
        ("g(1, 2, 3, 4, site=3, **snakemake.params.options)", set(), set()),
        ("def h(x, *, n=1): pass\nh(1, **snakemake.params.options)", set(), {"n"}),
    ],
)
def test_options(read, body, required, options):
    found = read(f"with job(snakemake):\n    pass\n{body}")
    assert (found.required, found.options) == (required, options)


@pytest.mark.parametrize(
    "body",
    [
        "g(*rest, **snakemake.params.options)",
        "elsewhere(**snakemake.params.options)",
        "g(1, 2, snakemake.params.options)",
        "chosen = snakemake.params.options",
        "options = {'n': 1}\noptions['n']",
        "def h(options): return options['n']",
        "snakemake.params.options[key]",
        "'n' in snakemake.params.options",
        "snakemake.params['options']",
        "main(snakemake)",
        "def h(**more): pass\nh(**snakemake.params.options)",
    ],
)
def test_options_that_are_not_seen_are_not_guessed(read, body):
    found = read(body)
    assert (found.required, found.options) == (set(), None)


def test_inputs(read):
    assert read("f(snakemake.input.rsa, snakemake.input.layers[0])").inputs == {"rsa", "layers"}
    assert read('snakemake.input.get("rsa")').inputs == set()
    assert read('hasattr(snakemake.input, "rsa") and snakemake.input.rsa').inputs == set()


def test_a_script_that_is_not_python_is_named(read):
    with pytest.raises(MicrotomeError, match=r"script\.py, line 2: .*; correct it"):
        read("f(")


def test_what_the_scripts_of_the_workflow_take_is_seen():
    scripts = sorted((ROOT / "scripts").glob("*/*/*.py"))
    unseen = [script.stem for script in scripts if signature(script, ROOT).options is None]
    assert len(scripts) > 50
    assert unseen == []
