"""The script that fetches: checkpoint and manifest, and what the config promises of them."""

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from origins import COMMIT, refused, save, tiny
from transformers import AutoConfig, AutoModelForCausalLM

from microtome.models.anatomy import find_sites
from microtome.models.fetch import manifest
from microtome.models.taps import Sites

#: Sockets are watched: nothing but a loopback stand-in for the hub is reached.
pytestmark = pytest.mark.usefixtures("dialled")


@pytest.fixture(scope="module")
def main() -> Callable[..., None]:
    script = Path(__file__).parents[2] / "scripts" / "fetch_model.py"
    run = runpy.run_path(str(script))["main"]
    return lambda *given: run(*given, given[-1].with_name("sites.json"))


def test_script(main, tmp_path, out):
    tiny(tmp_path / "mine", "gpt2")
    file = out.with_name("manifest.json")
    model = {"source": str(tmp_path / "mine"), "n_layers": 2}
    main("mine", model, None, out, file)
    written = file.read_bytes()
    assert Sites.read(file.with_name("sites.json")) == find_sites(out)
    expected = manifest(out, name="mine", source=model["source"], revision=model["source"])
    assert json.loads(written) == expected

    shutil.rmtree(out)
    main("mine", model, None, out, file)
    assert file.read_bytes() == written

    fresh = out.parents[1] / "fresh"
    untrained = {"source": "untrained://mine?seed=1", "n_layers": 2}
    main("fresh", untrained, out, fresh / "checkpoint", fresh / "manifest.json")
    found = json.loads((fresh / "manifest.json").read_text())
    assert found["revision"] == "seed 1" and found["tensors"] == expected["tensors"]


def test_script_wants_a_pinned_hub_model(main, hub, tmp_path, out):
    tiny(tmp_path / "origin", "gpt2")
    hub.add("tiny/model", tmp_path / "origin")
    file = out.with_name("manifest.json")
    model = {"source": "hf://tiny/model@main", "n_layers": 2}
    refused(lambda: main("tiny", model, None, out, file), "'main' is no commit")
    assert not hub.requests
    main("tiny", model | {"allow_unpinned": True}, None, out, file)
    assert json.loads(file.read_text())["revision"] == COMMIT


def test_script_wrong_n_layers(main, tmp_path, out):
    tiny(tmp_path / "mine", "gpt2")
    file = out.with_name("manifest.json")
    model = {"source": str(tmp_path / "mine"), "n_layers": 3}
    refused(lambda: main("mine", model, None, out, file), "models.mine.n_layers", "says 3", "has 2")
    assert not file.exists()


def test_script_without_attention_heads(main, tmp_path, out):
    config = AutoConfig.for_model(
        "mamba", vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "mine")
    file = out.with_name("manifest.json")
    model = {"source": str(tmp_path / "mine"), "n_layers": 2}
    main("mine", model, None, out, file)
    assert {"q", "k", "v", "z"} <= Sites.read(file.with_name("sites.json")).absent.keys()


def test_script_model_that_cannot_be_swept(main, tmp_path, out):
    save(tmp_path / "mine", "hrm_text")
    file = out.with_name("manifest.json")
    model = {"source": str(tmp_path / "mine"), "n_layers": 24}
    refused(lambda: main("mine", model, None, out, file), "lists of 24 blocks, expected one")
    assert not file.exists()
