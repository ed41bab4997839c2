"""The plan of shards, against what a run makes; and of a cluster, against arithmetic."""

import math
import re
from base64 import b64decode

from workflows import Clone

from microtome.sweeps import cost
from microtome.sweeps.schedule import schedule

FILES = re.compile(r"^([\d,]+) jobs write ([\d,]+) files, which take about ([\d,]+) inodes", re.M)

#: Whose files have checksums.
FOLDERS = ("activations", "statistics/corpus", "tokens/tiny/words")


def test_files_are_counted_as_a_run_makes_them(tmp_path, model):
    """Of a sweep in parts and of streamed statistics, in shards, with all that lies beside them."""
    clone = Clone(tmp_path, model)
    clone.save_study("corpus", {"statistics": {"moments": {"sites": ["q"]}, "entropies": {}}})
    studies = {"category_selectivity": {"models": ["tiny"]}}
    clone.change("studies", to=studies | {"corpus": {"models": ["tiny"], "stimuli": "words"}})
    clone.change("sweep", "sequences_per_job", to=2)
    clone.change("sweep", "layers_per_job", to=1)
    clone.change("plan", to={"nodes": 2})
    said = clone.snakemake("plan", "--quiet", "all").stdout
    jobs, files, inodes = (int(n.replace(",", "")) for n in FILES.search(said).groups())
    assert jobs == 3 * 2 + 3  # six words, two layers; and the streams
    assert re.search(r"^On 2 nodes 9 jobs take .* The nodes' time: .*% starting, ", said, re.M)
    clone.run("statistics")

    def below(*folders):
        found = (file for folder in folders for file in clone.product(folder).rglob("*"))
        return {str(file.relative_to(clone.folder)) for file in found if file.is_file()}

    made = below("activations", "statistics/corpus")
    assert len(made) == files, made
    beside = below("tokens/tiny/words", *(f"checksums/{folder}" for folder in FOLDERS))
    beside |= below("logs/activations", "logs/join", "logs/streams", "logs/merge")
    records = (clone.folder / ".snakemake" / "metadata").iterdir()
    recorded = {b64decode(file.name).decode() for file in records} & made
    assert len(made) + len(beside) + len(recorded) == inodes


def test_a_cluster_is_taken_as_it_is_described():
    """Two shards on one node, that reads 10 GB in 5 s, computes 12 TFLOP in 3 s and writes 2 GB in
    a second, each after a start; merging reads 4 GB. Submitting takes 0.1 s."""
    shard = [cost.Cost(memory=0, disk=2 * 10**9, seconds=0, read=10e9, operations=12e12)]
    plan = {"nodes": 1, "link": 2, "teraflops": 4}
    found = schedule([shard] * 2, 4 * 10**9, plan, threads=1)
    assert math.isclose(found.seconds, 0.1 + 2 * (cost.START + 5 + 3 + 1) + cost.START + 2)
    found = schedule([shard] * 2, 0, plan | {"own_disk": 10}, threads=1)
    assert math.isclose(found.seconds, 0.1 + 2 * (cost.START + 1 + 3 + 1))
    found = schedule([shard] * 2, 0, {"nodes": 2, "bandwidth": 0.5}, threads=4)
    # The first one begins at 0.1 s and reads alone for 0.1 s; so it ends reading, and begins to
    # write, 0.1 s before the second one. From then on the file system moves 4 GB.
    first_written = 0.1 + cost.START + 0.1 + 39.8 + 12e12 / (4 * cost.COMPUTE)
    assert math.isclose(found.seconds, first_written + 4 / 0.5)
