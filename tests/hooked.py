"""The sweep of some texts, and full forwards of the Hugging Face model to hold beside it."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from microtome.models.anatomy import find_sites
from microtome.sites import ATTENTION_SITES, SITES
from microtome.sweeps.batches import batched
from microtome.sweeps.sweep import sweep

BERT_PROJECTIONS = {"q": "query", "k": "key", "v": "value"}
GATED = {"llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma2", "gemma3"}


def sites_of(name):
    absent = {*ATTENTION_SITES, "router"} | (set() if name in GATED else {"pre_linear"})
    absent |= {"resid_mid"} if name == "gpt_neox" else set()
    return [site for site in SITES if site not in absent]


def columns(texts, rows=None):
    """What the sweep reads of a token table."""
    numbers = np.repeat(np.arange(len(texts)), [len(ids) for ids in texts])
    table = {"sequence": numbers, "token_id": np.concatenate(texts)}
    return table if rows is None else table | {"row": np.concatenate(rows)}


@cache
def taps_at(checkpoint):
    """Where the sites of a checkpoint's model lie."""
    return find_sites(checkpoint).taps


def swept(checkpoint, sequences, sites, layers, batch_tokens=1024, final_sites=()):
    """All rows of every layer and site, and the order the sections came in."""
    n_tokens = sum(map(len, sequences))
    arrays, order = {}, []
    for section in sweep(
        *(checkpoint, batched(columns(sequences), batch_tokens), sites, layers, final_sites),
        taps=taps_at(checkpoint),
    ):
        order.append(section.layer)
        for site, values in section.values.items():
            whole = arrays.setdefault(
                (section.layer, site), np.full((n_tokens, *values.shape[1:]), np.nan, np.float32)
            )
            whole[section.rows] = values
    return arrays, order


class Place(NamedTuple):
    """Where a site lies: a module's first argument or its output, and what part of that it is."""

    module: nn.Module
    side: str
    part: Callable[[Tensor], Tensor] = lambda values: values


def places(model, name):
    """The place of each site, by (layer, site); written out by hand."""
    family = name.split("_sequential")[0]
    blocks = {
        "gpt2": lambda: model.transformer.h,
        "gpt_neo": lambda: model.transformer.h,
        "gpt_neox": lambda: model.gpt_neox.layers,
        "bloom": lambda: model.transformer.h,
        "bert": lambda: model.base_model.encoder.layer,
    }.get(family, lambda: model.model.layers)()
    found = {}
    for layer, block in enumerate(blocks):
        match family:
            case "gpt2" | "gpt_neo":
                sites = _gpt(block, family, model.config.hidden_size)
            case "gpt_neox":
                sites = _gpt_neox(block, model.config.num_attention_heads)
            case "bloom":
                sites = {}
            case "bert":
                sites = _bert(block)
            case _:
                sites = _llama(block, gemma=family.startswith("gemma"))
        if name == "gpt_neox":  # attention and MLP both read resid_pre
            del sites["resid_mid"]
        sites["resid_pre"] = Place(block, "input")
        sites["resid_post"] = Place(block, "output")
        found |= {(layer, site): place for site, place in sites.items()}
    return found


def _gpt(block, family, width):
    if family == "gpt2":  # q, k and v one after another
        fused = block.attn.c_attn
        projections = {
            site: Place(fused, "output", lambda x, i=i: x[..., i * width : (i + 1) * width])
            for i, site in enumerate("qkv")
        }
        z = block.attn.c_proj
    else:
        attention = block.attn.attention
        projections = {site: Place(getattr(attention, f"{site}_proj"), "output") for site in "qkv"}
        z = attention.out_proj
    return projections | {
        "ln1_out": Place(block.attn, "input"),
        "z": Place(z, "input"),
        "attn_out": Place(block.attn, "output"),
        "resid_mid": Place(block.ln_2, "input"),
        "ln2_out": Place(block.mlp, "input"),
        "pre": Place(block.mlp.c_fc, "output"),
        "post": Place(block.mlp.c_proj, "input"),
        "mlp_out": Place(block.mlp, "output"),
    }


def _gpt_neox(block, n_heads):
    fused = block.attention.query_key_value  # q, k and v of head 0, then those of head 1, …
    projections = {
        site: Place(fused, "output", lambda x, i=i: x.unflatten(-1, (n_heads, 3, -1))[..., i, :])
        for i, site in enumerate("qkv")
    }
    return projections | {
        "ln1_out": Place(block.attention, "input"),
        "z": Place(block.attention.dense, "input"),
        "attn_out": Place(block.attention, "output"),
        "resid_mid": Place(block.post_attention_layernorm, "input"),
        "ln2_out": Place(block.mlp, "input"),
        "pre": Place(block.mlp.dense_h_to_4h, "output"),
        "post": Place(block.mlp.dense_4h_to_h, "input"),
        "mlp_out": Place(block.mlp, "output"),
    }


def _bert(block):
    heads, after = block.attention.self, block.attention.output
    return {
        **{site: Place(getattr(heads, name), "output") for site, name in BERT_PROJECTIONS.items()},
        "z": Place(after.dense, "input"),
        "attn_out": Place(after.dense, "output"),
        "ln2_out": Place(block.intermediate.dense, "input"),
        "pre": Place(block.intermediate.dense, "output"),
        "post": Place(block.output.dense, "input"),
        "mlp_out": Place(block.output.dense, "output"),
    }


def _llama(block, gemma):
    attention, mlp = block.self_attn, block.mlp
    after_attention = block.post_attention_layernorm
    return {
        "ln1_out": Place(attention, "input"),
        "q": Place(attention.q_proj, "output"),
        "k": Place(attention.k_proj, "output"),
        "v": Place(attention.v_proj, "output"),
        "z": Place(attention.o_proj, "input"),
        # Gemma norms what attention and MLP return before it joins the residual stream.
        "attn_out": Place(after_attention if gemma else attention, "output"),
        "resid_mid": Place(block.pre_feedforward_layernorm if gemma else after_attention, "input"),
        "ln2_out": Place(mlp, "input"),
        "pre": Place(mlp.gate_proj, "output"),
        "pre_linear": Place(mlp.up_proj, "output"),
        "post": Place(mlp.down_proj, "input"),
        "mlp_out": Place(block.post_feedforward_layernorm if gemma else mlp, "output"),
    }


def at(place, do):
    """Call a function with a place's values at every forward, (batch, position, …).

    They are the tensor that the model goes on with, or a view of it: what is written into them
    is what all that follows reads.
    """

    def before(module, args, kwargs):
        do(place.part(args[0] if args else kwargs["hidden_states"]))

    def after(module, args, output):
        do(place.part(output[0] if isinstance(output, tuple) else output))

    if place.side == "input":
        return place.module.register_forward_pre_hook(before, with_kwargs=True)
    return place.module.register_forward_hook(after)


def hooked(model, name, ids, dtype=torch.float32):
    """Every site of every layer from one full forward.

    Returns (layer, site): array (batch, position, width).
    """
    seen = {}

    def keep(key):
        return lambda values: seen.update({key: values.flatten(2).clone().to(dtype).numpy()})

    handles = [at(place, keep(key)) for key, place in places(model, name).items()]
    with torch.no_grad():
        output = model(torch.as_tensor(np.asarray(ids)), output_hidden_states=True)
    for handle in handles:
        handle.remove()
    seen[None, "logits"] = output.logits.to(dtype).numpy()
    seen[None, "ln_final"] = (
        output.hidden_states[-1].to(dtype).numpy()
    )  # transformers' last is normed
    return seen


def load(checkpoint):
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


def assert_swept_as_loaded(checkpoint, model):
    """Hidden states and logits of a sweep are those of a model that transformers has loaded."""
    random = np.random.default_rng(0)
    d_vocab = model.get_input_embeddings().num_embeddings
    texts = [random.integers(0, d_vocab, length) for length in (7, 7, 4)]
    n_layers = model.config.get_text_config().num_hidden_layers
    found, _ = swept(
        checkpoint, texts, ["resid_post"], range(n_layers), final_sites=["ln_final", "logits"]
    )
    text = list(model.get_decoder().modules())
    blocks = next(module for module in text if isinstance(module, nn.ModuleList))
    decoder = next(module for module in text if blocks in module.children())
    assert len(blocks) == n_layers
    seen = {}

    def keep(key):
        return lambda module, args, output: seen.update(
            {key: output if isinstance(output, Tensor) else output[0]}
        )

    for layer, block in enumerate(blocks):
        block.register_forward_hook(keep((layer, "resid_post")))
    decoder.register_forward_hook(keep((None, "ln_final")))
    for rows, members in ((slice(0, 14), texts[:2]), (slice(14, 18), texts[2:])):
        with torch.no_grad():
            ids = torch.tensor(np.stack(members))
            seen[None, "logits"] = model.eval()(input_ids=ids, use_cache=False).logits
        assert len(seen) == n_layers + 2
        for key, values in seen.items():
            assert values.std() > 0
            np.testing.assert_array_equal(found[key][rows], values.flatten(0, 1), err_msg=str(key))
