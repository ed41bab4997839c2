"""The workflow through a real Slurm: what is submitted, what it asks for, what survives."""

import json
import re
from pathlib import Path

import pytest
from cluster import PROFILE, clone_in, ended_well, start, sweep_held, unswept, wait_for
from workflows import SCALED, TEXTS, Clone

from microtome.sweeps import cost
from microtome.texts.lengths import read_lengths

pytestmark = pytest.mark.cluster

WORDS_SWEEP, TEXTS_SWEEP = "rule_activations__tiny__words", "rule_activations__tiny__texts"
SCALING = "rule_intervention__hidden_states__scaled_blocks"
#: All that is submitted; the rest of the workflow is made beside the main process.
HEAVY = {WORDS_SWEEP, TEXTS_SWEEP, SCALING}


def clone_for(folder: Path, model: Path) -> Clone:
    """The tests' small config with one more study, which has an intervention."""
    clone = clone_in(folder, model)
    clone.save(TEXTS | {"texts": ["A fly, a beetle, and one more"]}, "stimuli/insects.yaml")
    clone.save_study("hidden_states", SCALED)
    clone.change("studies", "hidden_states", to={"models": ["tiny"], "stimuli": "insects"})
    return clone


@pytest.fixture(scope="module")
def local(tmp_path_factory, model):
    """A run without a cluster."""
    clone = clone_for(tmp_path_factory.mktemp("local"), model)
    clone.run()
    return clone


@pytest.fixture(scope="module")
def submitted(slurm, tmp_path_factory, model, request):
    """A run on the cluster, from nothing, and the jobs that Slurm saw of it."""
    clone = clone_for(tmp_path_factory.mktemp("submitted"), model)
    before = len(slurm.jobs())
    main = start(clone)
    request.getfixturevalue("local")  # made in the time that the other one waits for Slurm
    assert ended_well(main, clone)
    return clone, slurm.jobs()[before:]


def rule(job: dict[str, str]) -> str:
    """The rule that a job runs: the plugin's comment, up to the wildcards."""
    return next((name for name in HEAVY if job["Comment"].startswith(name)), job["Comment"])


def test_same_bytes_as_without_a_cluster(submitted, local):
    clone, _ = submitted
    # Logs of fetching and paths in manifests are the same: both read the model from one folder.
    assert clone.contents() == local.contents()
    assert clone.verify() == []


def test_a_second_run_submits_nothing(slurm, submitted):
    clone, _ = submitted
    before = len(slurm.jobs())
    assert clone.run(*PROFILE) == set()
    assert len(slurm.jobs()) == before


def test_only_what_runs_the_model_is_a_job(submitted):
    _, jobs = submitted
    assert sorted(map(rule, jobs)) == sorted(HEAVY)
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}


def test_jobs_ask_for_what_their_model_needs(submitted):
    clone, jobs = submitted
    asked = {rule(job): job for job in jobs}
    for name, job in asked.items():
        assert job["CPUs/Task"] == str(clone.config["sweep"]["threads"])
        assert job["TimeLimit"] == "00:10:00"
        assert "TresPerJob" not in job, name
    manifest = json.loads(clone.product("models/tiny/manifest.json").read_text())
    lengths = read_lengths(clone.product("tokens/tiny/words.h5"))
    needed = cost.sweep(
        cost.model(manifest), lengths, ["q", "k", "v"], [0, 1], batch_tokens=32, threads=1
    )
    assert asked[WORDS_SWEEP]["MinMemoryNode"] == f"{needed.mem_mb()}M"
    lengths = read_lengths(clone.product("tokens/tiny/texts.h5"))
    needed = cost.sweep(
        cost.model(manifest), lengths, ["ln2_out", "mlp_out"], [1], batch_tokens=32, threads=1
    )
    assert asked[TEXTS_SWEEP]["MinMemoryNode"] == f"{needed.mem_mb()}M"
    # One text of 8 tokens, changed in each of 3 blocks, and a number kept of each; beside them the
    # residual stream of the text in the clean run.
    needed = cost.intervention(
        *(cost.model(manifest), [8], {(layer, 8): 1 for layer in range(3)}),
        **{"predicted": 1, "kept": 1, "beside": 8 * 24, "batch_tokens": 32, "threads": 1},
    )
    assert asked[SCALING]["MinMemoryNode"] == f"{needed.mem_mb()}M"


#: A job that Slurm has ended.
ENDED = ("CANCELLED", "FAILED", "OUT_OF_MEMORY")


def test_jobs_that_are_ended_are_tried_again_with_more(slurm, local, tmp_path):
    clone = unswept(local, tmp_path)
    before = len(slurm.jobs())
    # Both sweeps stand still until Slurm has ended them, as late as it may notice their memory.
    with sweep_held(clone, "words"):
        with sweep_held(clone, "texts"):
            few = "activations__tiny__words:mem_mb=attempt*attempt*300"
            main = start(clone, "--logger", "microtome", "--set-resources", few)
            job = wait_for(slurm, main, before, TEXTS_SWEEP, "RUNNING")
            slurm.ask("scancel", job["JobId"])
            wait_for(slurm, main, before, TEXTS_SWEEP, *ENDED)
        wait_for(slurm, main, before, WORDS_SWEEP, *ENDED)
    assert ended_well(main, clone)
    assert clone.contents() == local.contents()
    tried = {}
    for job in slurm.jobs()[before:]:
        tried.setdefault(rule(job), []).append(job)
    ended = {name: [job["JobState"] for job in jobs] for name, jobs in tried.items()}
    assert ended[SCALING] == ["COMPLETED"]
    assert ended[TEXTS_SWEEP] == ["CANCELLED", "COMPLETED"]
    assert ended[WORDS_SWEEP][0] != "COMPLETED"
    assert ended[WORDS_SWEEP][-1] == "COMPLETED"
    first, second = (int(job["MinMemoryNode"].rstrip("M")) for job in tried[TEXTS_SWEEP])
    assert second == 2 * first
    assert tried[WORDS_SWEEP][0]["MinMemoryNode"] == "300M"
    assert tried[WORDS_SWEEP][1]["MinMemoryNode"] == "1200M"
    said = (clone.folder / "main.log").read_text()
    assert re.search(r"^\d+ of \d+ jobs left, [23] submitted", said, re.M)
    assert "microtome: activations__tiny__texts: ended by Slurm (CANCELLED)\n" in said
    assert "  it is tried again\n" in said
    assert re.match(r"\d+ jobs done in ", said.splitlines()[-1])


def test_a_job_that_is_never_given_enough_is_reported_and_the_rest_survives(slurm, local, tmp_path):
    """With a job for each layer, of which the second is the one."""
    clone = unswept(local, tmp_path)
    clone.change("sweep", "layers_per_job", to=1)
    before = len(slurm.jobs())
    few = "activations__tiny__words-01:mem_mb=300"
    with sweep_held(clone, "words-01"):  # until Slurm has noticed its memory
        main = start(clone, "--retries", "0", "--set-resources", few)
        assert main.wait() != 0
    states = {job["Comment"]: job["JobState"] for job in slurm.jobs()[before:]}
    ended = {comment for comment, state in states.items() if state != "COMPLETED"}
    assert ended == {f"{WORDS_SWEEP}-01"}
    said = (clone.folder / "main.log").read_text()
    report = [line for line in said.splitlines() if line.startswith("microtome: ")]
    assert len(report) == 1
    assert re.match(
        r"microtome: activations__tiny__words-01: ended by Slurm \([A-Z_]+\); see ", report[0]
    )
    assert "memory limit" in Path(report[0].rpartition(" ")[2]).read_text(encoding="utf-8")
    made = {path: content for path, content in clone.contents().items() if "/resid-" not in path}
    expected = {
        path: content
        for path, content in local.contents().items()
        if path.endswith(("words.h5", "words/layer-00.h5"))
        or ("category_selectivity" not in path and "/words/" not in path)
        if path != "results/page/index.html"  # it has a picture of each study
    }
    assert made == expected


def test_gpus_are_asked_for_as_soon_as_the_config_says_so(local, tmp_path):
    clone = local.copy(tmp_path / "clone")
    clone.change("sweep", "device", to="cuda")
    done = clone.snakemake("--dry-run")
    assert (done.stdout + done.stderr).count(" gpu=1") == len(HEAVY)
