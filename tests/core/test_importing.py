"""This workflow beside rules of another one that imports it, run to the end from another folder."""

import copy
import shutil

import pytest
import yaml
from forked import shared
from workflows import CONFIG, KINDS, ROOT, TEXTS, WORDS, Clone

#: The other workflow's rules: a shell command of more than one word, and a script.
OWN_RULES = """
rule own:
    default_target: True
    input:
        "greeting.txt",
        "started.txt",
        rules.{all}.input,

rule greet:
    output:
        "greeting.txt",
    params:
        word=config["greeting"],
    shell:
        "for i in 1 2; do echo {{params.word}} $i; done > {{output}}; test $HOME || false"

rule own_script:
    output:
        "started.txt",
    script:
        "activations.py"
"""
#: Has the name of a script of this repository; says what started it.
OWN_SCRIPT = """
import os
from pathlib import Path
parent = Path("/proc", str(os.getppid()), "cmdline").read_text()
Path(snakemake.output[0]).write_text("forked" if "forks.py" in parent else "started")
"""
#: How another workflow imports this one, and what its rule `all` is called there.
WAYS = {
    "module": (
        f"""
module microtome:
    snakefile: "{ROOT}/Snakefile"
    config: config

use rule * from microtome as microtome_*

onstart:
    microtome.begin_run()

onerror:
    microtome.report_slurm_failures()
""",
        "microtome_all",
    ),
    "include": (f'shell.prefix("set -eu; {{{{ :; }}}}; ")\ninclude: "{ROOT}/Snakefile"\n', "all"),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory, model):
    """The same products, made by this workflow alone."""
    clone = Clone(tmp_path_factory.mktemp("alone"), model)
    clone.run()
    return clone


@pytest.mark.parametrize("way", WAYS)
def test_rules_of_another_workflow_run_beside_ours(alone, model, tmp_path, way):
    importing, place = tmp_path / "importing", tmp_path / "elsewhere"
    importing.mkdir()
    (place / "stimuli").mkdir(parents=True)
    shutil.copytree(alone.folder / "studies", place / "studies")
    imports, all_rule = WAYS[way]
    text = f'configfile: "outer.yaml"\n{imports}{OWN_RULES.format(all=all_rule)}'
    (importing / "Snakefile").write_text(text, encoding="utf-8")
    (importing / "activations.py").write_text(OWN_SCRIPT, encoding="utf-8")
    config = copy.deepcopy(CONFIG) | {"greeting": "hello"}
    config["models"]["tiny"]["source"] = str(model)
    for name, content in {
        "outer.yaml": config,
        "stimuli/words.yaml": WORDS,
        "stimuli/texts.yaml": TEXTS,
    }.items():
        (place / name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    done = shared().run(
        place,
        [
            *("--snakefile", str(importing / "Snakefile"), "--cores", "2"),
            *("--configfile", "outer.yaml", "--replace-workflow-config"),
        ],
    )
    assert done.returncode == 0, done.stderr
    assert (place / "greeting.txt").read_text() == "hello 1\nhello 2\n"
    assert (place / "started.txt").read_text() == "started"
    made = {
        str(file.relative_to(place)): file.read_bytes()
        for kind in KINDS
        for file in (place / "results" / kind).rglob("*")
        if file.is_file() and not file.name.startswith(".")
    }
    assert made == alone.contents()
