"""Models that train as they will run: fake quantisers, rotations, integer codes."""

from ketune.quantization.coded_linear import CodedLinear
from ketune.quantization.fake_quantize import (
    Clipping,
    FakeQuantizer,
    LearnedClipping,
    Quantized,
    fake_quantize,
    quantize,
)
from ketune.quantization.linear import QuantizedLinear
from ketune.quantization.prepare import QuantizeConfig, dequantize_, quantize_
from ketune.quantization.range_search import FixedClipping, best_ratios, search_ranges_
from ketune.quantization.schemes import QuantizationError, QuantizationScheme, TensorScheme

__all__ = [
    "Clipping",
    "CodedLinear",
    "FakeQuantizer",
    "FixedClipping",
    "LearnedClipping",
    "QuantizationError",
    "QuantizationScheme",
    "QuantizeConfig",
    "Quantized",
    "QuantizedLinear",
    "TensorScheme",
    "best_ratios",
    "dequantize_",
    "fake_quantize",
    "quantize",
    "quantize_",
    "search_ranges_",
]
