"""Interventions that ride the sweep: change what one block returns, and read the prediction.

The model is run block by block as in `microtome.sweeps.sweep`, and each block's weights are read
once. The text begins as one row. After every block, a changed copy of the unchanged row joins the
batch as a branch. Since a branch is not run through the blocks before its own, this takes half as
many passes through blocks as one forward for each intervention.
"""

from pathlib import Path

import numpy as np
import torch

from microtome.models.mapped import MappedModel


@torch.no_grad()
def scaled_blocks(checkpoint: Path, ids: np.ndarray, factor: float) -> np.ndarray:
    """Predict a text's next token with the output of one block scaled, for each block.

    Source: Mike X Cohen, "LLM breakdown 4/6: Transformer outputs (hidden states)", demo 3.

    Args:
        checkpoint: a checkpoint folder as `microtome.models.fetch.fetch` makes it.
        ids: the text's token ids, (position,).
        factor: what a block's output, the hidden state of every token, is multiplied by.

    Returns:
        Log-probabilities (natural) of the token after the last one, (1 + n_layers, d_vocab),
        float32: of the unchanged model, then with block 0, 1, … scaled.

    Raises:
        MicrotomeError: weights that do not fit the config.
    """
    model = MappedModel(checkpoint)
    text = torch.from_numpy(ids).long()[None]
    hidden, _ = model.record(text, 1)
    for layer in range(model.sizes["n_layers"]):
        # Recorded again for the present number of rows, which an argument may depend on (ALiBi has
        # a bias for each row and head). Nothing but the embeddings is computed for it.
        _, calls = model.record(text.expand(len(hidden), -1), layer + 1)
        hidden = model.run_block(layer, model.block_weights(layer), hidden, calls[layer])
        hidden = torch.cat([hidden, factor * hidden[:1]])
    # What follows the blocks treats each position on its own, so the last one is enough.
    _, logits = model.finish(text[:, -1:].expand(len(hidden), -1), hidden[:, -1:])
    return logits[:, -1].log_softmax(dim=-1).numpy()
