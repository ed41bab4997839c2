"""A checkpoint's model without its weights."""

from typing import TYPE_CHECKING

from microtome.errors import MicrotomeError, in_short

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass


def sees_or_hears(config: "PretrainedConfig") -> bool:
    """Whether a config's model takes images, video or sound beside text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES


def auto_class(config: "PretrainedConfig") -> "type[_BaseAutoModelClass]":
    """The class of transformers that makes a config's model."""
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    return AutoModelForMultimodalLM if sees_or_hears(config) else AutoModelForCausalLM


def skeleton(config: "PretrainedConfig", dtype: "torch.dtype | None" = None) -> "PreTrainedModel":
    """The model of a config with every parameter on the meta device and every buffer real.

    Of a model that sees or hears it is the part that reads text.

    Args:
        config: the config of a causal language model.
        dtype: the dtype of its parameters, float32 by default.

    Raises:
        MicrotomeError: values from which no model can be built.
    """
    import torch
    from accelerate import init_empty_weights
    from transformers.initialization import no_init_weights

    try:
        # Random initial values would not be kept; drawing them took seven eighths of the time.
        with no_init_weights(), init_empty_weights(include_buffers=False):
            model = auto_class(config).from_config(
                config, dtype=dtype or torch.float32, trust_remote_code=False
            )
    except Exception as error:  # whatever a model's modules say about its values
        raise MicrotomeError(
            f"{config.name_or_path}/config.json: transformers can build no model of it "
            f"({in_short(error)}); correct it"
        ) from error
    if sees_or_hears(config):
        _keep_text_part(model)
    return model.eval()


def _keep_text_part(model: "PreTrainedModel") -> None:
    """Take out of a model what reads images, video or sound; text alone never runs it."""
    text = {model.get_input_embeddings(), model.get_decoder(), model.get_output_embeddings()}

    def keep(module: "nn.Module") -> None:
        for name, child in module.named_children():
            if child not in text:
                if text.isdisjoint(child.modules()):
                    setattr(module, name, None)
                else:
                    keep(child)

    keep(model)
