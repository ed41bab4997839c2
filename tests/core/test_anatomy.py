"""Where sites are found: entries by hand, blocks that differ, changes of parts of what passes."""

import numpy as np
import pytest
import torch
import zoo
from conftest import build
from hooked import columns

from microtome.errors import MicrotomeError
from microtome.interventions.declared import declared
from microtome.interventions.run import intervene
from microtome.models import anatomy
from microtome.models.anatomy import find_sites
from microtome.models.taps import Sites, Tap, check_sites, plain_taps
from microtome.sweeps.batches import batched
from microtome.sweeps.sweep import sweep

IDS = np.array([7, 30, 4, 99, 12])


@pytest.fixture
def gpt2(tmp_path):
    return build(tmp_path / "gpt2", "gpt2")


def of_zoo(name, folder):
    """A checkpoint folder of a tiny model, and its model."""
    return zoo.fetched(name, folder), zoo.build(name)


def enter(monkeypatch, site, tap):
    monkeypatch.setattr(anatomy, "EXPLICIT", {"gpt2": {site: tap}})


def test_what_is_entered_by_hand_wins(gpt2, monkeypatch):
    assert find_sites(gpt2).taps["mlp_out"] == Tap("mlp")
    enter(monkeypatch, "mlp_out", Tap("mlp.c_proj"))
    assert find_sites(gpt2).taps["mlp_out"] == Tap("mlp.c_proj")


@pytest.mark.parametrize(
    ("site", "tap", "message"),
    [
        ("mlp_out", Tap("mlp.w_out"), "site 'mlp_out': nothing passes 'mlp.w_out'; correct its"),
        ("mlp_out", Tap("mlp.c_fc", start=80), "site 'mlp_out': another width passes 'mlp.c_fc'"),
        ("pre", Tap("attn"), "site 'pre': another width passes 'attn'; correct its entry in"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(gpt2, monkeypatch, site, tap, message):
    enter(monkeypatch, site, tap)
    with pytest.raises(MicrotomeError) as caught:
        find_sites(gpt2)
    assert str(caught.value).startswith(message)


def test_names_say_nothing(gpt2, monkeypatch, tmp_path):
    """Modules of other names, and one whose name misleads, are found all the same."""
    from transformers.models.gpt2 import modeling_gpt2

    class Swapped(modeling_gpt2.GPT2MLP):
        """An MLP whose last projection is called as the first one usually is."""

        def __init__(self, width, config):
            super().__init__(width, config)
            self.c_fc, self.c_proj = self.c_proj, self.c_fc

        def forward(self, hidden_states):
            return self.dropout(self.c_fc(self.act(self.c_proj(hidden_states))))

    monkeypatch.setattr(modeling_gpt2, "GPT2MLP", Swapped)
    folder = build(tmp_path / "swapped", "gpt2")
    taps = find_sites(folder).taps
    assert (taps["pre"], taps["post"]) == (Tap("mlp.c_proj"), Tap("mlp.c_fc", "input"))


def test_sites_are_kept_in_a_file(tmp_path):
    checkpoint, _ = of_zoo("deepseek_v3", tmp_path)
    found = find_sites(checkpoint)
    file = tmp_path / "sites.json"
    found.write(file)
    assert Sites.read(file) == found
    assert plain_taps(file, ["q", "k", "resid_post"]).keys() == {"q"}
    file.write_text(file.read_text()[:-20])
    with pytest.raises(MicrotomeError, match=r"sites.json: damaged; delete it, it is made again"):
        Sites.read(file)
    assert plain_taps(file, ["q"]) == {}


def test_blocks_that_differ_have_sites_of_their_own(tmp_path):
    """DeepSeek's first block has an MLP of one piece, the others have experts."""
    checkpoint, model = of_zoo("deepseek_v3", tmp_path)
    found = find_sites(checkpoint)
    assert (found.taps["pre"].layers, found.taps["router"].layers) == ((0,), (1,))
    assert found.taps["q"].layers is None
    parts = "self_attn.kv_a_proj_with_mqa and self_attn.kv_b_proj"
    assert found.absent == {"k": f"put together of parts of {parts}"}
    check_sites(["pre", "q"], found.taps, "deepseek_v3", [0])
    batches = batched(columns([IDS]), 1)
    with pytest.raises(MicrotomeError, match=r"site 'pre': layer 1 .* name layers among 0"):
        next(sweep(checkpoint, batches, ["pre"], [0, 1], taps=found.taps))
    (section,) = sweep(checkpoint, batches, ["pre"], [0], taps=found.taps)
    seen = []
    model.model.layers[0].mlp.gate_proj.register_forward_hook(lambda *call: seen.append(call[2]))
    model(torch.from_numpy(IDS)[None])
    np.testing.assert_array_equal(section.values["pre"], seen[0][0].detach())


def test_interventions_on_several_streams_are_refused(tmp_path):
    checkpoint, _ = of_zoo("gemma3n_text", tmp_path)
    entry = declared({"site": "z", "change": "zero", "read": {"resid_post": "all"}})
    with pytest.raises(MicrotomeError, match=r"gemma3n_text: its blocks hand on several streams"):
        intervene(checkpoint, columns([IDS]), entry, taps=find_sites(checkpoint).taps)


def at_output(find, columns):
    """Halve some columns of what a module of the last block returns."""

    def hook(module, args, output):
        value = output[0] if isinstance(output, tuple) else output
        value = value.clone()
        value[..., columns] *= 0.5
        return (value, *output[1:]) if isinstance(output, tuple) else value

    return lambda block: find(block).register_forward_hook(hook)


def at_input(find):
    def hook(module, args, kwargs):
        if args:
            return (args[0] * 0.5, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": kwargs["hidden_states"] * 0.5}

    return lambda block: find(block).register_forward_pre_hook(hook, with_kwargs=True)


EVERY = slice(None)


@pytest.mark.parametrize(
    ("name", "site", "blocks", "halve"),
    [
        # Groups of two queries, a key and a value: q is every first and second of four.
        (
            "falcon new",
            "q",
            "transformer.h",
            at_output(
                lambda block: block.self_attention.query_key_value,
                torch.arange(48).unflatten(0, (2, 4, 6))[:, :2].flatten(),
            ),
        ),
        ("granite", "attn_out", "model.layers", at_output(lambda block: block.self_attn, EVERY)),
        (
            "phi3",
            "pre_linear",
            "model.layers",
            at_output(lambda block: block.mlp.gate_up_proj, slice(44, 88)),
        ),
        ("opt", "ln2_out", "model.decoder.layers", at_input(lambda block: block.fc1)),
        ("llama", "ln1_out", "model.layers", at_input(lambda block: block.self_attn)),
    ],
)
def test_a_change_reaches_just_the_sites_part(tmp_path, name, site, blocks, halve):
    checkpoint, model = of_zoo(name, tmp_path)
    taps = find_sites(checkpoint).taps
    entry = {"site": site, "layers": [1], "change": {"scale": 0.5}, "read": {"logits": "all"}}
    found = intervene(checkpoint, columns([IDS]), declared(entry), taps=taps)
    halve(model.get_submodule(blocks)[1])
    with torch.no_grad():
        expected = model(torch.from_numpy(IDS)[None]).logits[0]
    assert (found["logits"] - found["clean_logits"]).any()
    np.testing.assert_allclose(found["logits"].squeeze(), expected, rtol=1e-4, atol=1e-5)
