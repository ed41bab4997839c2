"""Where each architecture's activations are found inside one of its blocks.

An architecture is a mapping from a site to a `Tap`: a submodule of the block, the side of it
that is read, and, for projections that compute q, k and v at once, the part of it. Site names
are TransformerLens' short names; q and k are the projections' outputs, before rotary positions
and before any per-head norm. A site may be absent (parallel blocks have no `resid_mid`).

`resid_pre` and `resid_post`, a block's input and output, need no entry: they exist everywhere,
and so do the sites after the last block, `ln_final` and `logits`.
"""

from dataclasses import dataclass
from typing import Any, Literal

from microtome.errors import MicrotomeError, nearest
from microtome.sites import SITES


@dataclass(frozen=True)
class Tap:
    """One place to read a tensor of shape (batch, position, width).

    Attributes:
        path: the submodule, from the block.
        side: its first argument, or its output (the first element, where it is a tuple).
        part: which of q, k, v is cut out of a fused projection.
        fused: how a fused projection lays them out: one after another over the whole width
            ("blocks": GPT-2), or one after another within every head ("heads": GPT-NeoX).
    """

    path: str
    side: Literal["input", "output"] = "output"
    part: Literal["q", "k", "v"] | None = None
    fused: Literal["blocks", "heads"] = "blocks"


def _fused(path: str, fused: Literal["blocks", "heads"]) -> dict[str, Tap]:
    return {part: Tap(path, part=part, fused=fused) for part in ("q", "k", "v")}


_GPT2 = {
    **_fused("attn.c_attn", "blocks"),
    "z": Tap("attn.c_proj", "input"),
    "attn_out": Tap("attn"),
    "resid_mid": Tap("ln_2", "input"),
    "ln2_out": Tap("mlp", "input"),
    "pre": Tap("mlp.c_fc"),
    "post": Tap("mlp.c_proj", "input"),
    "mlp_out": Tap("mlp"),
}
_GPT_NEO = _GPT2 | {
    "q": Tap("attn.attention.q_proj"),
    "k": Tap("attn.attention.k_proj"),
    "v": Tap("attn.attention.v_proj"),
    "z": Tap("attn.attention.out_proj", "input"),
}
_GPT_NEOX = {
    **_fused("attention.query_key_value", "heads"),
    "z": Tap("attention.dense", "input"),
    "attn_out": Tap("attention"),
    "resid_mid": Tap("post_attention_layernorm", "input"),
    "ln2_out": Tap("mlp", "input"),
    "pre": Tap("mlp.dense_h_to_4h"),
    "post": Tap("mlp.dense_4h_to_h", "input"),
    "mlp_out": Tap("mlp"),
}
_LLAMA = {
    "q": Tap("self_attn.q_proj"),
    "k": Tap("self_attn.k_proj"),
    "v": Tap("self_attn.v_proj"),
    "z": Tap("self_attn.o_proj", "input"),
    "attn_out": Tap("self_attn"),
    "resid_mid": Tap("post_attention_layernorm", "input"),
    "ln2_out": Tap("mlp", "input"),
    "pre": Tap("mlp.gate_proj"),
    "pre_linear": Tap("mlp.up_proj"),
    "post": Tap("mlp.down_proj", "input"),
    "mlp_out": Tap("mlp"),
}
# Gemma 2 and 3 norm what attention and MLP return before it joins the residual stream;
# attn_out and mlp_out are what joins it.
_GEMMA = _LLAMA | {
    "attn_out": Tap("post_attention_layernorm"),
    "resid_mid": Tap("pre_feedforward_layernorm", "input"),
    "mlp_out": Tap("post_feedforward_layernorm"),
}

#: Taps by `model_type` of the checkpoint's config.json.
ARCHITECTURES: dict[str, dict[str, Tap]] = {
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gpt2": _GPT2,
    "gpt_neo": _GPT_NEO,
    "gpt_neox": _GPT_NEOX,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
}


def taps(config: Any, sites: list[str]) -> dict[str, Tap]:
    """The taps of the sites that lie inside a block.

    Args:
        config: the checkpoint's transformers config.
        sites: names of `SITES`; `resid_pre` and `resid_post` are left out of the answer.

    Raises:
        MicrotomeError: an unknown site, or one that the architecture does not have.
    """
    known = dict(ARCHITECTURES.get(config.model_type, {}))
    if getattr(config, "use_parallel_residual", False):
        known.pop("resid_mid", None)  # attention and MLP both read resid_pre
    found = {}
    for site in sites:
        if site not in SITES:
            raise MicrotomeError(f"site {site!r} does not exist; {nearest(site, list(SITES))}")
        if site in ("resid_pre", "resid_post"):
            continue
        if site not in known:
            has = [s for s in SITES if s in known or s in ("resid_pre", "resid_post")]
            raise MicrotomeError(
                f"site {site!r} is not known for the architecture {config.model_type!r}; "
                f"it has {', '.join(has)} (others go into microtome/model/architectures.py)"
            )
        found[site] = known[site]
    return found
