"""Sites that cannot be found by value, entered by hand.

`microtome.models.anatomy` finds the sites of nearly every model. An entry here wins over what it
finds; it is checked by shape.
"""

from microtome.models.taps import Tap

_GEMMA3N = {
    # What joins the residual stream is mixed with other streams, so that nothing adds up.
    "attn_out": Tap("post_attention_layernorm"),
    "resid_mid": Tap("pre_feedforward_layernorm", "input"),
    "ln2_out": Tap("mlp", "input"),
    "mlp_out": Tap("post_feedforward_layernorm"),
    # The first layers keep only the largest values of `pre` before the nonlinearity.
    "pre": Tap("mlp.gate_proj"),
    "pre_linear": Tap("mlp.up_proj"),
    "post": Tap("mlp.down_proj", "input"),
}

#: Taps by the `model_type` of a checkpoint's config.json.
EXPLICIT: dict[str, dict[str, Tap]] = {"gemma3n_text": _GEMMA3N}
