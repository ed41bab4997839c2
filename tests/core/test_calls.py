"""What blocks are called with: the tensors of many batches are kept once."""

import gc

import numpy as np
import pytest
import torch
from hooked import columns, taps_at

from microtome.errors import MicrotomeError
from microtome.models.calls import Call, SharedTensors
from microtome.models.mapped import MappedModel
from microtome.sweeps.batches import batched
from microtome.sweeps.sweep import sweep

#: Texts of three lengths, many of each, in batches of two, the shortest of three.
LENGTHS = [40] * 6 + [31] * 6 + [17] * 3
SEQUENCES = [np.random.default_rng(i).integers(1, 101, n) for i, n in enumerate(LENGTHS)]


def mask_bytes():
    """Memory of all masks (…, length, length) that are alive, each storage once."""
    storages = {}
    for found in gc.get_objects():
        if type(found) is torch.Tensor and found.ndim == 4:
            length = found.shape[-1]
            if length in LENGTHS and length == found.shape[-2]:
                storage = found.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.mark.parametrize(("name", "kinds"), [("gpt_neo", 1), ("gemma2", 2), ("llama", 0)])
def test_masks_of_all_batches_take_the_room_of_one_text(checkpoints, name, kinds):
    gc.collect()
    before = mask_bytes()
    seen = []
    sections = sweep(
        *(checkpoints[name], batched(columns(SEQUENCES), 80), ["attn_out"], [0, 1, 2, 3]),
        taps=taps_at(checkpoints[name]),
    )
    for number, _ in enumerate(sections):
        if number in (0, 9, 27):
            seen.append(mask_bytes() - before)
    assert number == 27
    assert set(seen) == {kinds * 40 * 40 * 4}


def call(*args, **kwargs):
    return Call(args, kwargs)


def test_tensors_become_views_with_the_same_numbers():
    mask = torch.randn(1, 1, 9, 9)
    cosines, written = torch.randn(1, 9, 4), {"keys": torch.ones(3)}
    longest = mask.expand(3, -1, -1, -1).contiguous()
    first = [call(longest, positions=(cosines, True), cache=written), call(longest)]
    other = [call(mask[:, :, :5, :5].repeat(2, 1, 1, 1), positions=(cosines[:, :5].clone(), True))]
    shared = SharedTensors()
    found, found_other = shared.of(first), shared.of(other)
    assert torch.equal(found[0].args[0], longest)
    assert found[0].args[0] is found[1].args[0]
    assert found[0].args[0].untyped_storage().nbytes() == 9 * 9 * 4
    assert found[0].kwargs["cache"] is written  # blocks may write to it
    assert torch.equal(found_other[0].args[0], other[0].args[0])
    for mine, theirs in (
        (found_other[0].args[0], found[0].args[0]),
        (found_other[0].kwargs["positions"][0], cosines),
    ):
        assert mine.untyped_storage().data_ptr() == theirs.untyped_storage().data_ptr()
    assert found_other[0].kwargs["positions"][1] is True


def test_tensors_of_other_numbers_stay_what_they_are():
    shared = SharedTensors()
    shared.of([call(torch.zeros(2, 1, 6, 6))])
    rows = torch.randn(2, 1, 3, 3)
    for own in (rows, torch.zeros(1, 1, 7, 7), torch.zeros(1, 1, 3, 3, dtype=torch.bool)):
        found = shared.of([call(own)])[0].args[0]
        assert torch.equal(found, own) and found.dtype == own.dtype


def test_a_block_that_changes_what_batches_share_is_refused(checkpoints, monkeypatch):
    run_block = MappedModel.run_block

    def changing(self, layer, weights, hidden, call):
        for value in call.kwargs.values():
            if isinstance(value, torch.Tensor) and len(value) == 1:
                value.mul_(1)
        return run_block(self, layer, weights, hidden, call)

    monkeypatch.setattr(MappedModel, "run_block", changing)
    batches = batched(columns(SEQUENCES[:2]), 1)
    with pytest.raises(MicrotomeError, match="gpt_neo: its blocks change their masks"):
        list(sweep(checkpoints["gpt_neo"], batches, ["resid_post"], [1], taps={}))
