"""The names of sites, the places in a model where activations are read, and their dimensions.

Names are TransformerLens' short names; q and k are the projections' outputs, before rotary
positions and before any per-head norm. Which sites a model has depends on its architecture:
`microtome.models.architectures` says where each lies.
"""

#: Every site of a block, in the order of computation, with the dimensions that follow `token`.
SITES: dict[str, tuple[str, ...]] = {
    "resid_pre": ("d_model",),
    "q": ("n_heads", "d_head"),
    "k": ("n_kv_heads", "d_head"),
    "v": ("n_kv_heads", "d_head"),
    "z": ("n_heads", "d_head"),
    "attn_out": ("d_model",),
    "resid_mid": ("d_model",),
    "ln2_out": ("d_model",),
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
