"""Checkpoints of the hub: what `fetch` asks it for, and what it says if that fails."""

import hashlib
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from origins import COMMIT, contents, logits, refused, shard, tiny
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

import microtome.models.sources as sources
from microtome.models.fetch import fetch, manifest

#: Sockets are watched: nothing but a loopback stand-in for the hub is reached.
pytestmark = pytest.mark.usefixtures("dialled")


def old_gpt2(folder: Path) -> PreTrainedModel:
    """GPT-2 as the hub has it: no `transformer.` prefix, causal masks among the weights."""
    model = tiny(folder, "gpt2")
    tensors = {
        name.removeprefix("transformer."): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(32, 32).tril().view(1, 1, 32, 32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return model


@pytest.mark.parametrize("form", ["old", "sharded", "renamed"])
def test_hub(form, hub, tmp_path, out, traps, dialled):
    origin = tmp_path / "origin"
    if form == "old":
        model = old_gpt2(origin)
    else:
        model = tiny(origin, "llama" if form == "sharded" else "gpt_neox")
        if form == "sharded":
            shard(origin)
    wanted = set(contents(origin))
    decoys = set(traps(origin))
    for decoy in ("onnx/config.json", "onnx/model.safetensors", "consolidated.safetensors"):
        (origin / decoy).parent.mkdir(exist_ok=True)
        (origin / decoy).write_bytes(b"not wanted")
    (origin / "README.md").write_text("# A model")
    hub.add("tiny/model", origin)
    before = contents(origin)

    source = sources.parse_source(f"hf://tiny/model@{COMMIT}")
    assert fetch(source, out) == COMMIT

    assert hub.fetched_files() == wanted
    assert not any(name in request for name in decoys for request in hub.requests)
    assert set(contents(out)) == wanted
    assert torch.equal(logits(out), logits(model))
    for name in wanted:
        assert (out / name).is_symlink() and (out / name).read_bytes() == before[name]
    found = manifest(out, name="tiny", source="s", revision=COMMIT)
    for name, entry in found["weights"].items():
        content = (out / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert "h.0.attn.bias" not in found["tensors"]  # the model has no use for it
    renamed = {
        name: tensor["name"] for name, tensor in found["tensors"].items() if "name" in tensor
    }
    assert (
        renamed
        == {
            "old": {name: f"transformer.{name}" for name in found["tensors"]},
            "sharded": {},
            "renamed": {"embed_out.weight": "lm_head.weight"},
        }[form]
    )
    assert len(found["weights"]) > 2 or form != "sharded"

    # A second time nothing is asked for, and so it needs no hub.
    asked, connected = len(hub.requests), len(dialled)
    hub.stop()
    cached = contents(Path(constants.HF_HUB_CACHE))
    fetch(source, out.with_name("again"))
    assert contents(out.with_name("again")) == contents(out)
    assert contents(Path(constants.HF_HUB_CACHE)) == cached  # linked to, never written to
    assert (len(hub.requests), len(dialled)) == (asked, connected)


def test_hub_unpinned(hub, tmp_path, out):
    tiny(tmp_path / "origin", "gpt2")
    hub.add("tiny/model", tmp_path / "origin")
    source = sources.parse_source("hf://tiny/model", allow_unpinned=True)
    assert fetch(source, out) == COMMIT
    hub.stop()
    assert fetch(source, out.with_name("again")) == COMMIT


def test_hub_refuses(hub, tmp_path, out):
    tiny(tmp_path / "origin", "gpt2")
    for name in ("gated", "gated-whole", "private", "down"):
        hub.add(f"tiny/{name}", tmp_path / "origin")
    hub.refusals["tiny/gated"] = (403, "GatedRepo")  # its file tree is public
    hub.trees_refused["tiny/gated-whole"] = (403, "GatedRepo")
    hub.trees_refused["tiny/private"] = (401, "")
    hub.trees_refused["tiny/down"] = (503, "")
    other = hashlib.sha1(b"another commit").hexdigest()
    for repository, revision, said in (
        ("tiny/missing", COMMIT, "no such repository"),
        ("tiny/private", COMMIT, "HF_TOKEN"),
        ("tiny/not--valid", COMMIT, "no such repository"),
        ("tiny/gated", other, "no such revision"),
        ("tiny/gated", "dev", "no such revision"),
        ("tiny/gated", COMMIT, "gated"),
        ("tiny/gated-whole", COMMIT, "gated"),
        ("tiny/down", COMMIT, "out of reach"),
    ):
        source = sources.Hub(repository, revision)
        refused(lambda source=source: fetch(source, out), f"hf://{repository}@{revision}: ", said)
        assert not list(out.parent.glob("*"))


def test_hub_out_of_reach(hub, out, dialled):
    hub.stop()
    refused(
        lambda: fetch(sources.Hub("tiny/model", COMMIT), out),
        f"hf://tiny/model@{COMMIT}: the hub is out of reach",
        "not in its cache",
    )
    assert dialled and not list(out.parent.glob("*"))


def test_hub_client_set_offline(hub, monkeypatch, tmp_path, out, dialled):
    tiny(tmp_path / "origin", "gpt2")
    hub.add("tiny/model", tmp_path / "origin")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(lambda: fetch(sources.Hub("tiny/model", COMMIT), out), "out of reach")
    assert not hub.requests


def test_hub_breaks_off(hub, tmp_path, out):
    model = tiny(tmp_path / "origin", "gpt2")
    hub.add("tiny/model", tmp_path / "origin")
    source = sources.Hub("tiny/model", COMMIT)
    hub.torn = {"model.safetensors"}
    refused(lambda: fetch(source, out), "hf://tiny/model@", "out of reach")
    assert not list(out.parent.glob("*"))
    hub.torn = set()
    fetch(source, out)
    assert torch.equal(logits(out), logits(model))


def test_hub_without_safetensors(hub, tmp_path, out, traps):
    tiny(tmp_path / "origin", "gpt2")
    (tmp_path / "origin" / "model.safetensors").unlink()
    decoys = traps(tmp_path / "origin")
    hub.add("tiny/model", tmp_path / "origin")
    refused(lambda: fetch(sources.Hub("tiny/model", COMMIT), out), "no safetensors")
    assert not hub.fetched_files() & set(decoys)
    assert not list(out.parent.glob("*"))
