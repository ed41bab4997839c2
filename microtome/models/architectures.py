"""Where each architecture's activations are found inside one of its blocks.

An architecture is a mapping from a site to a `Tap`. Site names are TransformerLens' short names; q
and k are the projections' outputs, before rotary positions and before any per-head norm. A site may
be absent (parallel blocks have no `resid_mid`).

`resid_pre` and `resid_post`, a block's input and output, need no entry: they exist everywhere,
and so do the sites after the last block, `ln_final` and `logits`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from microtome.models.taps import ENDS, Tap
from microtome.sites import ATTENTION_SITES


def _fused(path: str, fused: Literal["blocks", "heads"]) -> dict[str, Tap]:
    return {part: Tap(path, part=part, fused=fused) for part in ("q", "k", "v")}


def _attended(path: str) -> dict[str, Tap]:
    return {site: Tap(path, "attention") for site in ATTENTION_SITES}


_GPT2 = {
    **_attended("attn"),
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
    **_attended("attention"),
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
    **_attended("self_attn"),
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
    "bert": _attended("attention"),
    "bloom": _attended("self_attention"),
    "gpt_oss": _attended("self_attn"),
    "gptj": _attended("attn"),
    "mpt": _attended("attn"),
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


def taps_of(config: Mapping[str, Any]) -> dict[str, Tap]:
    """The taps of all sites that lie inside a block of a model; none of an unknown architecture.

    Args:
        config: the content of the checkpoint's config.json.
    """
    architecture = str(config.get("model_type"))
    taps = dict(ARCHITECTURES.get(architecture, {}))
    # A config.json may leave out what is the default: GPT-NeoX' blocks are parallel.
    if config.get("use_parallel_residual", architecture == "gpt_neox"):
        taps.pop("resid_mid", None)  # attention and MLP both read resid_pre
    return taps


def plain_taps(manifest: str | Path, sites: Sequence[str]) -> dict[str, list[str | None]]:
    """The taps of some sites of a fetched model, as plain lists that a rule takes for a param.

    `microtome.models.taps.from_plain` makes taps of them again. Only what a job reads is its param,
    so that a new architecture, or a new site of this one, makes nothing stale. Sites that the
    architecture lacks are left out, and so are all if the checkpoint is damaged; the job says so.

    Args:
        manifest: the model's manifest, beside its checkpoint folder.
        sites: names of `microtome.sites.SITES`.

    Raises:
        FileNotFoundError: the model has not been fetched; it names the manifest, by which
            Snakemake knows that the param is to come.
    """
    if set(sites) <= set(ENDS):
        return {}
    manifest = Path(manifest)
    manifest.stat()
    try:
        file = manifest.with_name("checkpoint") / "config.json"
        taps = taps_of(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError):
        return {}
    return {site: list(taps[site]) for site in sites if site in taps}
