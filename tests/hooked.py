"""The sweep of some texts, and full forwards of the Hugging Face model to hold beside it."""

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from microtome.models.architectures import taps_of
from microtome.models.checkpoint import read_json
from microtome.sites import SITES
from microtome.sweeps.batches import batched
from microtome.sweeps.sweep import sweep

GATED = {"llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma2", "gemma3"}


def sites_of(name):
    absent = set() if name in GATED else {"pre_linear"}
    absent |= {"resid_mid"} if name == "gpt_neox" else set()
    return [site for site in SITES if site not in absent]


def columns(texts, rows=None):
    """What the sweep reads of a token table."""
    numbers = np.repeat(np.arange(len(texts)), [len(ids) for ids in texts])
    table = {"sequence": numbers, "token_id": np.concatenate(texts)}
    return table if rows is None else table | {"row": np.concatenate(rows)}


def taps_at(checkpoint):
    """Where the sites of a checkpoint's model lie."""
    return taps_of(read_json(checkpoint / "config.json"))


def swept(checkpoint, sequences, sites, layers, batch_size=32, final_sites=()):
    """All rows of every layer and site, and the order the sections came in."""
    n_tokens = sum(map(len, sequences))
    arrays, order = {}, []
    for section in sweep(
        *(checkpoint, batched(columns(sequences), batch_size), sites, layers, final_sites),
        taps=taps_at(checkpoint),
    ):
        order.append(section.layer)
        for site, values in section.values.items():
            whole = arrays.setdefault(
                (section.layer, site), np.full((n_tokens, *values.shape[1:]), np.nan, np.float32)
            )
            whole[section.rows] = values
    return arrays, order


def hooked(model, name, ids, dtype=torch.float32):
    """Every site of every layer from one full forward; the taps are written out by hand.

    Returns (layer, site): array (batch, position, width).
    """
    seen = {}
    handles = []

    def keep(layer, site, part=lambda x: x):
        def note(value):
            value = value[0] if isinstance(value, tuple) else value
            seen[layer, site] = part(value).detach().clone().to(dtype).numpy()

        return note

    def after(module, note):
        handles.append(module.register_forward_hook(lambda m, args, out: note(out)))

    def before(module, note):
        handles.append(
            module.register_forward_pre_hook(
                lambda m, args, kwargs: note(args[0] if args else kwargs["hidden_states"]),
                with_kwargs=True,
            )
        )

    family = name.split("_sequential")[0]
    blocks = {
        "gpt2": lambda: model.transformer.h,
        "gpt_neo": lambda: model.transformer.h,
        "gpt_neox": lambda: model.gpt_neox.layers,
    }.get(family, lambda: model.model.layers)()
    for i, block in enumerate(blocks):
        before(block, keep(i, "resid_pre"))
        after(block, keep(i, "resid_post"))
        before(block.mlp, keep(i, "ln2_out"))
        if family == "gpt2":
            width = model.config.hidden_size
            for j, site in enumerate("qkv"):
                cut = slice(j * width, (j + 1) * width)
                note = keep(i, site, lambda x, cut=cut: x[..., cut])
                after(block.attn.c_attn, note)
            before(block.attn.c_proj, keep(i, "z"))
        elif family == "gpt_neo":
            attention = block.attn.attention
            for site in "qkv":
                after(getattr(attention, f"{site}_proj"), keep(i, site))
            before(attention.out_proj, keep(i, "z"))
        if family in ("gpt2", "gpt_neo"):
            after(block.attn, keep(i, "attn_out"))
            before(block.ln_2, keep(i, "resid_mid"))
            after(block.mlp.c_fc, keep(i, "pre"))
            before(block.mlp.c_proj, keep(i, "post"))
            after(block.mlp, keep(i, "mlp_out"))
        elif family == "gpt_neox":
            heads = model.config.num_attention_heads
            for j, site in enumerate("qkv"):

                def cut(x, j=j, heads=heads):
                    per_head = x.chunk(heads, dim=-1)
                    return torch.cat([head.chunk(3, dim=-1)[j] for head in per_head], dim=-1)

                after(block.attention.query_key_value, keep(i, site, cut))
            before(block.attention.dense, keep(i, "z"))
            after(block.attention, keep(i, "attn_out"))
            before(block.post_attention_layernorm, keep(i, "resid_mid"))
            after(block.mlp.dense_h_to_4h, keep(i, "pre"))
            before(block.mlp.dense_4h_to_h, keep(i, "post"))
            after(block.mlp, keep(i, "mlp_out"))
        else:
            for site in "qkv":
                after(getattr(block.self_attn, f"{site}_proj"), keep(i, site))
            before(block.self_attn.o_proj, keep(i, "z"))
            after(block.mlp.gate_proj, keep(i, "pre"))
            after(block.mlp.up_proj, keep(i, "pre_linear"))
            before(block.mlp.down_proj, keep(i, "post"))
            if family.startswith("gemma"):
                after(block.post_attention_layernorm, keep(i, "attn_out"))
                before(block.pre_feedforward_layernorm, keep(i, "resid_mid"))
                after(block.post_feedforward_layernorm, keep(i, "mlp_out"))
            else:
                after(block.self_attn, keep(i, "attn_out"))
                before(block.post_attention_layernorm, keep(i, "resid_mid"))
                after(block.mlp, keep(i, "mlp_out"))
    with torch.no_grad():
        output = model(torch.as_tensor(np.asarray(ids)), output_hidden_states=True)
    seen[None, "logits"] = output.logits.to(dtype).numpy()
    seen[None, "ln_final"] = (
        output.hidden_states[-1].to(dtype).numpy()
    )  # transformers' last is normed
    for handle in handles:
        handle.remove()
    return seen


def load(checkpoint):
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
