"""Quantised models in transformers: `save_pretrained` writes what they are, and `from_pretrained` builds them again."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ketune.quantization.schemes import QuantizationError
from ketune.quantization.structure import build_structure, describe_structure

VERSION = 1
METHOD = "ketune"
"""The `quant_method` of our models, in the `quantization_config` of their config.json."""


@register_quantization_config(METHOD)
class KetuneQuantizationConfig(QuantizationConfigMixin):
    """What a quantised model is made of, as its config.json has it; `describe_structure` makes it.

    Args:
        kinds: The different kinds of layers: how weight and inputs are quantised, what is rotated.
        layers: The kind of each quantised linear layer, by its name.
        attention: The same for attention layers with quantised keys and values.
        fused_norms: Whether gains and biases of the norms are in the weights beside them.
        shifted_norms: Names of the RMS norms that smoothing gave a bias.
        version: Of this description.

    Raises:
        QuantizationError: Without a description: such a model is made with `quantize_`, not while it is loaded.
    """

    def __init__(
        self,
        kinds: list[dict[str, Any]] | None = None,
        layers: dict[str, int] | None = None,
        attention: dict[str, int] | None = None,
        fused_norms: bool = False,
        shifted_norms: list[str] | None = None,
        version: int = VERSION,
        **kwargs: Any,
    ) -> None:
        self.quant_method = METHOD  # pyright: ignore[reportAttributeAccessIssue]  (transformers has an enum of its own)
        if kinds is None or layers is None:
            raise QuantizationError(
                "KetuneQuantizationConfig describes a model that is quantised already; to quantise one, load it and "
                "call ketune.quantization.quantize_(model, QuantizeConfig('w4a16', step='convert'))"
            )
        if version > VERSION:
            raise QuantizationError(
                f"this model was written by a newer Ketune (description {version}, here {VERSION}): "
                "pip install -U ketune"
            )
        self.kinds, self.layers, self.attention, self.fused_norms = kinds, layers, attention or {}, fused_norms
        self.shifted_norms, self.version = shifted_norms or [], version


@register_quantizer(METHOD)
class KetuneHfQuantizer(HfQuantizer):
    """Builds the modules of a quantised model before transformers loads their tensors."""

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        build_structure(model, self.quantization_config)  # pyright: ignore[reportArgumentType]
        # The steps stay in float32 whatever dtype is asked for.
        model._keep_in_fp32_modules_strict = {*(model._keep_in_fp32_modules_strict or ()), "scale"}

    def is_serializable(self) -> bool:
        """True: the codes are tensors like any others."""
        return True

    @property
    def is_trainable(self) -> bool:
        """True: adapters can be trained beside the codes, which stay as they are."""
        return True


def attach_quantizer(model: PreTrainedModel) -> None:
    """Tell a model whose weights are codes how it is saved."""
    config = KetuneQuantizationConfig(**describe_structure(model))
    model.config.quantization_config = config
    for name, value in (
        ("hf_quantizer", KetuneHfQuantizer(config)),
        ("is_quantized", True),
        ("quantization_method", METHOD),
    ):
        setattr(model, name, value)


def detach_quantizer(model: PreTrainedModel) -> None:
    """The reverse, for a model that has weights again."""
    quantizer = getattr(model, "hf_quantizer", None)
    if isinstance(quantizer, KetuneHfQuantizer):
        quantizer.remove_quantization_config(model)
