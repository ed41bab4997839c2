"""The names of sites, the places in a model where activations are read, and their dimensions.

Names are TransformerLens' short names; q and k are the projections' outputs, before rotary
positions and before any per-head norm. Which sites a model has depends on its architecture:
`microtome.models.anatomy` finds where each lies.
"""

from collections.abc import Mapping

#: Every site of a block, in the order of computation, with the dimensions that follow `token`.
SITES: dict[str, tuple[str, ...]] = {
    "resid_pre": ("d_model",),
    "ln1_out": ("d_model",),
    "q": ("n_heads", "d_head"),
    "k": ("n_kv_heads", "d_head"),
    "v": ("n_kv_heads", "d_head"),
    "q_rot": ("n_heads", "d_head"),
    "k_rot": ("n_kv_heads", "d_head"),
    "scores": ("n_heads", "key"),
    "pattern": ("n_heads", "key"),
    "z": ("n_heads", "d_head"),
    "attn_out": ("d_model",),
    "resid_mid": ("d_model",),
    "ln2_out": ("d_model",),
    "router": ("n_experts",),
    "pre": ("d_mlp",),
    "pre_linear": ("d_mlp",),
    "post": ("d_mlp",),
    "mlp_out": ("d_model",),
    "resid_post": ("d_model",),
}
#: The sites after the last block: the final norm's output and the head's.
FINAL_SITES: dict[str, tuple[str, ...]] = {"ln_final": ("d_model",), "logits": ("d_vocab",)}
#: The residual stream on its way through a block; what final norm and head can be applied to.
RESIDUAL = ("resid_pre", "resid_mid", "resid_post")
#: The dimensions of every site, block or final, that follow `token`.
DIMENSIONS = SITES | FINAL_SITES
#: Sites that are read where attention is called.
ATTENTION_SITES = ("q_rot", "k_rot", "scores", "pattern")
#: Those of them with a value for each `key`, the positions in a text as long as the longest.
KEYED_SITES = ("scores", "pattern")
#: What NaN means there, as files say it.
ABSENT = (
    "NaN: no such key. The token's attention does not reach it (a causal mask, a window), or its "
    "text is shorter"
)


def dimensions(site: str, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The dimensions of a model's site that follow `token`.

    They are `DIMENSIONS`, but for models whose values have another width than their queries and
    keys: there, v and z have `d_value` numbers per head.

    Args:
        site: its name.
        sizes: the model's dimensions, as `microtome.models.checkpoint.sizes` names them.
    """
    names = DIMENSIONS[site]
    return (names[0], "d_value") if site in ("v", "z") and "d_value" in sizes else names


def shape(site: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The sizes of a model's `dimensions` of a site."""
    return tuple(sizes[name] for name in dimensions(site, sizes))
