"""`make verify` finds what changed or is missing, and names what makes it again."""

import shlex
import shutil

import pytest
from workflows import Clone


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model):
    """A run of one study on an untrained twin, whose weights lie in results/."""
    clone = Clone(tmp_path_factory.mktemp("whole"), model)
    clone.config["models"]["twin"] = {"source": "untrained://tiny?seed=1", "n_layers": 3}
    clone.change("studies", "category_selectivity", "models", to=["twin"])
    clone.run()
    return clone


STATISTIC = "statistics/category_selectivity/twin/rsa.h5"
LAYER = "activations/twin/words/layer-01.h5"
FIGURE = "figures/category_selectivity/twin/rsa_profile.svg"
WEIGHTS = "models/twin/checkpoint/model.safetensors"


@pytest.mark.parametrize(
    ("name", "damage"),
    [(STATISTIC, "deleted"), (LAYER, "changed"), (FIGURE, "changed"), (WEIGHTS, "deleted")],
)
def test_what_it_names_is_made_again_as_it_says(whole, tmp_path, name, damage):
    clone = whole.copy(tmp_path / "clone")
    file = clone.product(name)
    if damage == "deleted":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    (fault,) = clone.verify()
    assert fault.startswith(f"results/{name}: {'missing' if damage == 'deleted' else 'changed'}")
    command, *arguments = shlex.split(fault.partition("make it again: ")[2])
    assert command == "snakemake"
    clone.run(*arguments)
    assert clone.verify() == []
    assert clone.contents() == whole.contents()
    assert clone.planned() == set()


def test_what_was_removed_with_its_record_is_not_missed(whole, tmp_path):
    clone = whole.copy(tmp_path / "clone")
    for folder in ("activations", "checksums/activations"):
        shutil.rmtree(clone.product(folder))
    assert clone.verify() == []


def test_a_fault_that_two_jobs_meet_is_told_once_in_each_run(model, tmp_path):
    clone = Clone(tmp_path, model)
    clone.run("tokens")
    manifest = clone.product("models/tiny/manifest.json")
    manifest.write_text(manifest.read_text() + "\n")
    for _ in range(2):
        done = clone.snakemake("tokens", "--keep-going", "--cores", "2")
        assert done.returncode != 0
        assert done.stderr.count("Error in rule token_table") == 2
        told = [line for line in done.stderr.splitlines() if line.startswith("microtome: ")]
        assert len(told) == 1
        assert "results/models/tiny/manifest.json: changed or damaged" in told[0]
