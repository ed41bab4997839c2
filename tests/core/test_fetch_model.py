"""The script that fetches: checkpoint and manifest, and what the config promises of them."""

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from origins import COMMIT, refused, tiny
from transformers import AutoConfig, AutoModelForCausalLM

from microtome.models.fetch import manifest

#: Sockets are watched: nothing but a loopback stand-in for the hub is reached.
pytestmark = pytest.mark.usefixtures("dialled")


@pytest.fixture(scope="module")
def main() -> Callable[..., None]:
    script = Path(__file__).parents[2] / "scripts" / "fetch_model.py"
    return runpy.run_path(str(script))["main"]


def test_script(main, tmp_path, out):
    tiny(tmp_path / "mine", "gpt2")
    file = out.with_name("manifest.json")
    model = {"source": str(tmp_path / "mine"), "n_layers": 2}
    main("mine", model, None, out, file)
    written = file.read_bytes()
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
    refused(lambda: main("mine", model, None, out, file), out, "num_attention_heads")
    assert not file.exists()
