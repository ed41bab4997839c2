"""The workflow on three nodes: jobs are spread, a disk is slow, nodes are lost, all is killed."""

import json
import time
from contextlib import ExitStack

import pytest
from cluster import PROFILE, clone_in, ended_well, start, sweep_held, unswept, wait_for
from slurm import NODES

from microtome.sweeps import cost
from microtome.texts.lengths import read_lengths

pytestmark = pytest.mark.cluster

#: What the sweep is for.
SIMILARITIES = {
    "stimuli": "words",
    "statistics": {"cosine_similarities": {"sites": ["q"], "word_token": -1, "layers": [0, 1]}},
    "figures": {"cosine_matrices": {"layer": 1, "limits": [0.0, 1.0]}},
}
SHARDS = ("00000", "00001", "00002")
#: A job of each shard, by the comment that the plugin gives it.
JOBS = [f"rule_activations__tiny__words_wildcards_{shard}" for shard in SHARDS]


@pytest.fixture(scope="module")
def local(tmp_path_factory, model):
    """A run on one machine, whose sweep has three shards."""
    clone = clone_in(tmp_path_factory.mktemp("local"), model)
    clone.save_study("category_selectivity", SIMILARITIES)
    clone.config["studies"] = {"category_selectivity": {"models": ["tiny"]}}
    clone.change("sweep", "sequences_per_job", to=2)
    clone.run()
    return clone


def all_held(clone) -> ExitStack:
    """Keep the jobs of all shards from going on."""
    held = ExitStack()
    for shard in SHARDS:
        held.enter_context(sweep_held(clone, f"words/{shard}"))
    return held


def asked(clone, shard) -> int:
    """The memory that a shard's job requests, from its own token table."""
    model = cost.model(json.loads(clone.product("models/tiny/manifest.json").read_text()))
    lengths = read_lengths(clone.product(f"tokens/tiny/words/{shard}.h5"))
    settings = {key: clone.config["sweep"][key] for key in ("batch_tokens", "threads")}
    return cost.sweep(model, lengths, ["q"], [0, 1], **settings).mem_mb()


def test_an_array_is_spread_and_a_slow_disk_holds_up_no_other_node(slurm, local, tmp_path):
    clone = unswept(local, tmp_path)
    slurm.wait_for_nodes(*NODES)
    before = len(slurm.jobs())
    slurm.stalled.touch()
    main = start(clone, "--slurm-array-jobs", "all")
    done = []
    while len(done) < 2:
        assert main.poll() is None, (clone.folder / "main.log").read_text()
        time.sleep(0.5)
        done = [job for job in slurm.jobs()[before:] if job["JobState"] == "COMPLETED"]
    [waits] = [job for job in slurm.jobs()[before:] if job not in done]
    assert waits["JobState"] == "RUNNING"
    assert waits["NodeList"] == "node3"
    assert {job["NodeList"] for job in done} == {"node1", "node2"}
    slurm.stalled.unlink()
    assert ended_well(main, clone)
    tasks = slurm.jobs()[before:]
    assert sorted(job["ArrayTaskId"] for job in tasks) == ["1", "2", "3"]
    # A MiB for the plugin's list of commands.
    assert {job["MinMemoryNode"] for job in tasks} == {f"{asked(clone, SHARDS[0]) + 1}M"}
    assert len({job["ArrayJobId"] for job in tasks}) == 1
    assert clone.contents() == local.contents()
    assert clone.verify() == []


def test_jobs_of_a_lost_node_run_elsewhere(slurm, local, tmp_path):
    """One node is set down, and Slurm queues its job again. Another one vanishes, with a job that
    may not be queued again, so that Snakemake submits a new one. The old one does not know of that,
    and both do the work."""
    clone = unswept(local, tmp_path)
    slurm.wait_for_nodes(*NODES)
    before = len(slurm.jobs())
    with all_held(clone):
        main = start(clone)
        jobs = [wait_for(slurm, main, before, job, "RUNNING") for job in JOBS]
        nodes = [job["NodeList"] for job in jobs]
        assert sorted(nodes) == sorted(NODES)
        slurm.set_node(nodes[0], "down")
        wait_for(slurm, main, before, JOBS[0], "PENDING")
        slurm.set_job(jobs[0], "starttime=now")  # not two minutes later, as Slurm wants it
        slurm.set_job(jobs[1], "requeue=0")
        slurm.cut_off(jobs[1])
        slurm.set_node(nodes[1], "down")  # as Slurm does when it has not heard of it for long
        wait_for(slurm, main, before, JOBS[1], "NODE_FAIL")
        wait_for(slurm, main, before, JOBS[1], "PENDING")
    assert ended_well(main, clone)
    states = {}
    for job in slurm.jobs()[before:]:
        states.setdefault(job["Comment"], []).append((job["JobState"], job["NodeList"]))
    last = nodes[2]
    assert states[JOBS[0]] == [("COMPLETED", last)]
    assert states[JOBS[1]] == [("NODE_FAIL", nodes[1]), ("COMPLETED", last)]
    assert states[JOBS[2]] == [("COMPLETED", last)]
    assert clone.contents() == local.contents()
    assert clone.verify() == []
    slurm.start_node(nodes[1])
    for node in nodes[:2]:
        slurm.set_node(node, "resume")
    slurm.wait_for_nodes(*NODES)


def test_the_same_command_goes_on_while_jobs_of_a_killed_run_work(slurm, local, tmp_path):
    clone = unswept(local, tmp_path)
    slurm.wait_for_nodes(*NODES)
    before = len(slurm.jobs())
    with all_held(clone):
        main = start(clone, "--set-resources", "activations__tiny__words:gpu=1")
        for job in JOBS:
            assert wait_for(slurm, main, before, job, "RUNNING")["TresPerJob"] == "gres:gpu:1"
        main.kill()
        main.wait()
        after = len(slurm.jobs())
        main = start(clone)
        for job in JOBS:
            wait_for(slurm, main, after, job, "PENDING")
    assert ended_well(main, clone)
    for shard, job in zip(SHARDS, slurm.jobs()[before:after], strict=True):
        assert job["MinMemoryNode"] == f"{asked(clone, shard)}M"
    assert {job["JobState"] for job in slurm.jobs()[before:]} == {"COMPLETED"}
    assert clone.contents() == local.contents()
    assert clone.verify() == []
    assert clone.planned(*PROFILE) == set()
