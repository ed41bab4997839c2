"""A checkpoint's model without its weights.

What a checkpoint is, a causal language model, a masked one, or one without head, is read off its
config.json. Where that names a head that the weights lack, `microtome.models.fetch` corrects it.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from microtome.errors import MicrotomeError, in_short

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

#: What a model's head predicts: the next token, the token in the place of a mask, or nothing, as
#: there is none.
Head = Literal["causal", "masked", "none"]


def names_no_head(architectures: Iterable[str] | None) -> bool:
    """Whether a config.json's `architectures` names a base model, as BertModel or LlamaModel."""
    [name, *_] = architectures or [""]
    return name.endswith("Model") and "Head" not in name  # GPT2LMHeadModel has one


def sees_or_hears(config: "PretrainedConfig") -> bool:
    """Whether a config's model takes images, video or sound beside text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES


def head_of(config: "PretrainedConfig") -> Head:
    """What the head of a config's model predicts.

    Heads for other ends than predicting tokens, as those of classifiers, are ignored.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    )

    causal = MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.get(
        config.model_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    )
    masked = MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(config.model_type)
    if names_no_head(config.architectures) or not (causal or masked):
        return "none"
    # Many encoders can be made decoders: BERT is BertForMaskedLM and BertLMHeadModel.
    decodes = getattr(config, "is_decoder", False) or causal in (config.architectures or ())
    if causal and (decodes or not masked or getattr(config, "is_encoder_decoder", False)):
        return "causal"
    return "masked"


def require_head(model: str, head: Head, *, next_token: bool = False) -> None:
    """Refuse to ask a model what its head does not predict.

    Args:
        model: what messages call it.
        head: what its head predicts.
        next_token: whether the next token is asked for.

    Raises:
        MicrotomeError: it has no head, or one that predicts masked tokens.
    """
    if next_token and head == "masked":
        raise MicrotomeError(
            f"{model} predicts masked tokens, and the next one is asked for; take a causal model"
        )
    if head == "none":
        raise MicrotomeError(
            f"{model} has no head, and so no logits or predictions; take a model that has one, or "
            "leave out what reads them"
        )


def auto_class(config: "PretrainedConfig") -> "type[_BaseAutoModelClass]":
    """The class of transformers that makes a config's model."""
    from transformers import (
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForMultimodalLM,
    )

    causal = AutoModelForMultimodalLM if sees_or_hears(config) else AutoModelForCausalLM
    return {"causal": causal, "masked": AutoModelForMaskedLM, "none": AutoModel}[head_of(config)]


def skeleton(config: "PretrainedConfig", dtype: "torch.dtype | None" = None) -> "PreTrainedModel":
    """The model of a config with every parameter on the meta device and every buffer real.

    Of a model that sees or hears it is the part that reads text.

    Args:
        config: the config of a language model.
        dtype: the dtype of its parameters, float32 by default.

    Raises:
        MicrotomeError: values from which no model can be built.
    """
    import torch
    from accelerate import init_empty_weights
    from transformers.initialization import no_init_weights

    from microtome.models.unallocated import Unallocated

    try:
        # Random initial values would not be kept; drawing them took seven eighths of the time.
        with no_init_weights(), init_empty_weights(include_buffers=False), Unallocated():
            model = auto_class(config).from_config(
                config, dtype=dtype or torch.float32, trust_remote_code=False
            )
    except Exception as error:  # whatever a model's modules say about its values
        raise MicrotomeError(
            f"{config.name_or_path}/config.json: transformers can build no model of it "
            f"({in_short(error)}); correct it"
        ) from error
    if sees_or_hears(config) and model.get_decoder() is not model:
        _keep_text_part(model)
    return without_pooler(model).eval()


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


def without_pooler(model: "PreTrainedModel") -> "PreTrainedModel":
    """A model without what some base models compute of a whole text; many checkpoints lack it."""
    from torch import nn

    if getattr(model, "pooler", None) is not None:
        model.pooler = nn.Identity()  # some models call it, whatever it is
    return model


def lacks_head(model: "PreTrainedModel", missing: Iterable[str]) -> bool:
    """Whether it is just the head of a model that a checkpoint lacks.

    All of it, or a part where config.json names another class: classifiers go on from parts of it.

    Args:
        model: a skeleton.
        missing: the names of its tensors that the checkpoint lacks.
    """
    prefix = f"{model.base_model_prefix}."
    tied = model.all_tied_weights_keys
    own = {name for name in model.state_dict() if not name.startswith(prefix)} - tied.keys()
    lacking = set(missing) - tied.keys()
    named = type(model).__name__ in (model.config.architectures or ())
    has_base = names_no_head([type(model.base_model).__name__])
    return has_base and bool(lacking) and (lacking == own if named else lacking <= own)
