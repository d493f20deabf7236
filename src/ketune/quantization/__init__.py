"""Models that train as they will run: fake quantisers, rotations, integer codes."""

from ketune.quantization.coded_linear import CodedLinear
from ketune.quantization.fake_quantize import FakeQuantizer, LearnedClipping, Quantized, fake_quantize, quantize
from ketune.quantization.linear import QuantizedLinear
from ketune.quantization.prepare import QuantizeConfig, dequantize_, quantize_
from ketune.quantization.schemes import QuantizationError, QuantizationScheme, TensorScheme

__all__ = [
    "CodedLinear",
    "FakeQuantizer",
    "LearnedClipping",
    "QuantizationError",
    "QuantizationScheme",
    "QuantizeConfig",
    "Quantized",
    "QuantizedLinear",
    "TensorScheme",
    "dequantize_",
    "fake_quantize",
    "quantize",
    "quantize_",
]
