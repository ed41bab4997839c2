"""This workflow beside rules of another one that imports it, run to the end from another folder."""

import copy
import shutil

import pytest
import yaml
from forked import shared
from workflows import CONFIG, KINDS, ROOT, TEXTS, WORDS, Clone

#: The other workflow's rules: shell commands in this and that shell, and scripts. In the place of
#: OURS stands a rule of ours.
OWN_RULES = r"""
rule own:
    default_target: True
    input:
        expand("{name}.txt", name="greeting quoted posix forked bash run after".split()),
        rules.OURS.input,

rule greet:
    output:
        "greeting.txt",
    params:
        word=config["greeting"],
    shell:
        "for i in 1 2; do echo {params.word} $i; done > {output}; test $HOME || false"

rule quoted:
    output:
        "quoted.txt",
    shell:
        "(exit 3) || echo $? '{{two  words}}' \"$(printf '%s' a\\ b)\" ${{NONE:-none}} > {output}"

rule posix:
    output:
        "posix.txt",
    resources:
        shell_exec="sh",
    shell:
        "false | true; echo $0 > {output}"

rule own_script:
    output:
        "forked.txt",
    script:
        "activations.py"

rule bash_script:
    output:
        "bash.txt",
    script:
        "own.sh"

rule run:
    output:
        "run.txt",
    run:
        shell("echo a command > {output}")
        with open(output[0], "a") as file:
            file.write("and Python\n")

rule after:
    input:
        "results/statistics/category_selectivity/tiny/rsa.h5",
    output:
        "after.txt",
    shell:
        "test -s {input} && echo there | tee {output}"

rule breaks_in_a_pipe:
    output:
        "pipe.txt",
    shell:
        "false | tee {output}"

rule breaks_with_a_status:
    output:
        "status.txt",
    shell:
        "touch {output}; exit 7"
"""
#: Has the name of a script of this repository; says what started it.
OWN_SCRIPT = """
import os
from pathlib import Path
parent = Path("/proc", str(os.getppid()), "cmdline").read_text()
Path(snakemake.output[0]).write_text("forked" if "forks.py" in parent else "started")
"""
#: What the rules write.
WRITTEN = {
    "greeting": "hello 1\nhello 2\n",
    "quoted": "3 {two  words} a b none\n",
    "posix": "sh\n",
    "forked": "started",
    "bash": "bash.txt\n",
    "run": "a command\nand Python\n",
    "after": "there\n",
}
#: What a workflow may have set before: it is the prefix of every command, in every shell.
PREFIX = """
shell.prefix("test -z \\"$BASH_VERSION\\" || set -euo pipefail; : '{{ }}'; ")
"""
MODULE = f"""
module microtome:
    snakefile: "{ROOT}/Snakefile"
    config: config

onstart:
    microtome.begin_run()

onerror:
    microtome.report_slurm_failures()
"""
#: How another workflow imports this one, and what a rule of ours is called there.
WAYS = {
    # With a rule of its own that is called as one of ours, and a changed rule of ours.
    "module": (
        MODULE
        + """
use rule * from microtome as microtome_*

use rule activations__tiny__words from microtome as microtome_activations__tiny__words with:
    threads: 2

rule statistics:
    shell:
        "false"
""",
        "microtome_all",
    ),
    # By its own names, in shells with more around each command.
    "names": (
        MODULE
        + PREFIX
        + """
shell.suffix("&& echo >> commands")

use rule * from microtome
""",
        "tokens",
    ),
    "include": (f'{PREFIX}include: "{ROOT}/Snakefile"\n', "all"),
}


class Importing:
    """Another workflow, and the folder that it runs in."""

    def __init__(self, folder, model, studies, rules):
        """Write its Snakefile with these rules, in another folder than its config and texts."""
        self.snakefile = folder / "importing" / "Snakefile"
        self.place = folder / "elsewhere"
        self.snakefile.parent.mkdir()
        (self.place / "stimuli").mkdir(parents=True)
        shutil.copytree(studies, self.place / "studies")
        for name, content in {
            "Snakefile": f'configfile: "outer.yaml"\n{rules}',
            "activations.py": OWN_SCRIPT,
            "own.sh": 'echo "${snakemake_output[0]}" > "${snakemake_output[0]}"\n',
        }.items():
            self.snakefile.with_name(name).write_text(content, encoding="utf-8")
        config = copy.deepcopy(CONFIG) | {"greeting": "hello"}
        config["models"]["tiny"]["source"] = str(model)
        for name, content in {
            "outer.yaml": config,
            "stimuli/words.yaml": WORDS,
            "stimuli/texts.yaml": TEXTS,
        }.items():
            text = yaml.safe_dump(content, sort_keys=False)
            (self.place / name).write_text(text, encoding="utf-8")

    def snakemake(self, *arguments):
        settings = ["--configfile", "outer.yaml", "--replace-workflow-config", "--cores", "2"]
        snakefile = ["--snakefile", str(self.snakefile)]
        return shared().run(self.place, [*arguments, *snakefile, *settings])


@pytest.fixture(scope="module")
def alone(tmp_path_factory, model):
    """The same products, made by this workflow alone."""
    clone = Clone(tmp_path_factory.mktemp("alone"), model)
    clone.run()
    return clone


@pytest.mark.parametrize("way", WAYS)
def test_rules_of_another_workflow_run_beside_ours(alone, model, tmp_path, way):
    imports, ours = WAYS[way]
    rules = imports + OWN_RULES.replace("OURS", ours)
    other = Importing(tmp_path, model, alone.folder / "studies", rules)
    done = other.snakemake()
    assert done.returncode == 0, done.stderr
    written = {name: (other.place / f"{name}.txt").read_text() for name in WRITTEN}
    assert written == WRITTEN
    made = {
        str(file.relative_to(other.place)): file.read_bytes()
        for kind in KINDS
        for file in (other.place / "results" / kind).rglob("*")
        if file.is_file() and not file.name.startswith(".")
    }
    expected = alone.contents()
    assert made == {file: expected[file] for file in (made if ours == "tokens" else expected)}
    assert ("threads: 2" in done.stderr) == (way == "module")
    done = other.snakemake("--keep-going", "pipe.txt", "status.txt")
    assert done.returncode == 1
    assert "returned non-zero exit status 7" in done.stderr
    assert not (other.place / "pipe.txt").exists()
    assert not (other.place / "status.txt").exists()
    assert "forks.py" not in done.stderr
    assert (other.place / "commands").exists() == (way == "names")


TWICE = f"""
import copy
second = copy.deepcopy(config)
second["models"] = {{"other": config["models"]["tiny"]}}
for study in second["studies"].values():
    study["models"] = ["other"]

module one:
    snakefile: "{ROOT}/Snakefile"
    config: config

module two:
    snakefile: "{ROOT}/Snakefile"
    config: second

use rule * from one as one_*
use rule token_table, fetch_model from two as two_*

onstart:
    one.begin_run()
    two.begin_run()

rule own:
    default_target: True
    input: expand("results/tokens/{{model}}/words.h5", model=["tiny", "other"])
"""


def test_two_modules_may_be_this_workflow(alone, model, tmp_path):
    other = Importing(tmp_path, model, alone.folder / "studies", TWICE)
    done = other.snakemake()
    assert done.returncode == 0, done.stderr
    tables = [other.place / "results" / "tokens" / name / "words.h5" for name in ("tiny", "other")]
    assert all(table.exists() for table in tables)


def test_paths_that_a_module_changes_are_refused(alone, model, tmp_path):
    rules = MODULE.replace("config: config", 'config: config\n    prefix: "below"')
    rules += "use rule * from microtome"
    done = Importing(tmp_path, model, alone.folder / "studies", rules).snakemake()
    assert done.returncode == 1
    assert "microtome: `prefix:` and `replace_prefix:` of a module would move" in done.stderr


def test_snakemakes_linter_finds_no_more_than_here(alone, model, tmp_path):
    rules = f"{MODULE}use rule * from microtome as microtome_*\n"
    rules = rules.replace(str(ROOT), "../" * len(tmp_path.parts) + str(ROOT).lstrip("/"))
    done = Importing(tmp_path, model, alone.folder / "studies", rules).snakemake("--lint")
    found = {line for line in done.stderr.splitlines() if line.startswith("    * ")}
    assert found == {"    * Specify a conda environment or container for each rule.:"}
