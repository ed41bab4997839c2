"""A checkpoint's model without its weights."""

from typing import TYPE_CHECKING

from microtome.errors import MicrotomeError, in_short

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


def skeleton(config: "PretrainedConfig", dtype: "torch.dtype | None" = None) -> "PreTrainedModel":
    """The model of a config with every parameter on the meta device and every buffer real.

    Args:
        config: the config of a causal language model.
        dtype: the dtype of its parameters, float32 by default.

    Raises:
        MicrotomeError: values from which no model can be built.
    """
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    try:
        # Random initial values would not be kept; drawing them took seven eighths of the time.
        with no_init_weights(), init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype or torch.float32, trust_remote_code=False
            )
    except Exception as error:  # whatever a model's modules say about its values
        raise MicrotomeError(
            f"{config.name_or_path}/config.json: transformers can build no model of it "
            f"({in_short(error)}); correct it"
        ) from error
    return model.eval()
