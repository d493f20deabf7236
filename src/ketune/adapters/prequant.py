"""PreQuant: of a frozen, quantised weight only the outliers train."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from ketune.adapters.base import register
from ketune.adapters.config import AdapterConfig
from ketune.adapters.sparse_linear import scattered, sparse_linear
from ketune.adapters.update import HasWeight, Update, lifted
from ketune.quantization.coded_linear import CodedLinear, is_stored_as_met
from ketune.quantization.fake_quantize import fake_quantize
from ketune.quantization.linear import QuantizedLinear
from ketune.quantization.outliers import MOST_WEIGHTS, RULES, count_outliers, find_outliers, largest
from ketune.quantization.range_search import RANGES, FixedClipping, best_ratios
from ketune.quantization.schemes import TensorScheme

if TYPE_CHECKING:
    from ketune.adapters.adapter_layer import AdapterLayer


@dataclass
class PreQuantConfig(AdapterConfig):
    """Fine-tuning at the outliers of a weight that was quantised before (Gong et al., ACL Findings 2023, 2306.00014).

    The model is quantised once, for all tasks. For each task a small share of its weights trains in full precision, the
    outliers: those that rounding moves farthest. `update(x) = S x` with S zero but for these entries of the weight, and
    all zero at the start; a model can carry any number of such adapters.

    Beside layers of Ketune that keep outliers (`QuantizeConfig(outliers=0.005)`) the same entries train, and the
    adapter merges exactly, into them. Beside any other linear layer the outliers are found when the adapter is made: in
    a weight in floating point by the error that a quantiser of `bits` would make, in one that is quantised already,
    whose error nobody knows any more, by magnitude. Where they are is saved with the adapter.

    What is ours: the paper's own rule for outliers could not be read by us, and there is no released code.
    """

    size_field: ClassVar[str] = "n_outliers"
    start_fields: ClassVar[tuple[str, ...]] = ("init_weights", "outlier_rule", "bits", "range")

    share: float = field(
        default=0.005, metadata={"help": "Share of the entries of each weight that trains, above 0 and at most 1."}
    )
    n_outliers: int | None = field(
        default=None, metadata={"help": "Entries of each weight that train, instead of a share; None: `share`."}
    )
    outlier_rule: str = field(
        default="error",
        metadata={
            "help": "'error' takes the entries farthest from their quantised values, 'magnitude' the largest. For "
            "bases that keep no outliers of their own."
        },
    )
    bits: int = field(default=4, metadata={"help": "Of the quantiser whose error counts, for bases not quantised."})
    range: str = field(default="mse", metadata={"help": "Its range: 'mse' (least squared error) or 'minmax'."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("share", 0 < self.share <= 1, "must be above 0 and at most 1")
        self._require("n_outliers", self.n_outliers is None or self.n_outliers >= 1, "must be at least 1")
        self._choose("outlier_rule", RULES)
        self._require("bits", self.bits in range(1, 9), "must be from 1 to 8")
        self._choose("range", RANGES)

    def parameter_count(self, in_features: int, out_features: int) -> int:
        """`n_outliers`, at most in x out; else the share of in x out, rounded, and at least one."""
        entries = in_features * out_features
        return count_outliers(self.share, entries) if self.n_outliers is None else min(self.n_outliers, entries)


class PreQuantUpdate(Update):
    """`x -> S x`, zero at the start because all entries of S are."""

    meets_stored_weight = True
    index: torch.Tensor

    def __init__(self, config: PreQuantConfig, in_features: int, out_features: int) -> None:
        super().__init__(config, in_features, out_features)
        entries = in_features * out_features
        if entries > MOST_WEIGHTS:
            config._refuse(
                "target_modules",
                config.target_modules,
                f"a weight of {out_features} x {in_features} has more entries than the 32-bit places of its outliers "
                "can name; leave it out",
            )
        count = config.parameter_count(in_features, out_features)
        self.config = config
        self.values = nn.Parameter(torch.zeros(count))
        # Spread evenly until the layer is known, or the file that is loaded.
        places = torch.arange(count, dtype=torch.int64) * entries // count
        self.register_buffer("index", places.to(torch.int32))

    @torch.no_grad()
    def start_beside(self, layer: HasWeight) -> None:
        base = _base_of(layer)
        if isinstance(base, CodedLinear) and base.outlier_index is not None:
            found = _in_the_order_of(base, len(self.values))
        else:
            found = self._rank(layer.plain_weight(), _is_quantized(layer))
        self.index.copy_(found)

    def _rank(self, weight: torch.Tensor, quantized: bool) -> torch.Tensor:
        count, config = len(self.values), self.config
        if quantized or config.outlier_rule == "magnitude":
            return find_outliers(weight, count, "magnitude")
        scheme = TensorScheme(config.bits)
        clipping = FixedClipping(best_ratios(weight, scheme)) if config.range == "mse" else None
        return find_outliers(weight, count, "error", fake_quantize(weight, scheme, clipping))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values, device = self.values, x.device.type
        if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
            x, values = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (x, values))
        return sparse_linear(x, values, self.index, self.out_features)

    def beside(self, x: torch.Tensor, output: torch.Tensor, layer: AdapterLayer) -> torch.Tensor:
        base = _base_of(layer)
        # Outliers are entries of the weight as it is stored, which may meet its inputs rotated.
        return self(base.quantize_input(x) if is_stored_as_met(base) else x)

    def delta_weight_beside(self, layer: HasWeight) -> torch.Tensor:
        base, delta = _base_of(layer), self.delta_weight()
        if isinstance(base, QuantizedLinear) and base.was_coded and base.input_rotation is not None:
            return base.input_rotation.inverse(delta)  # pyright: ignore[reportCallIssue]
        return delta

    def delta_weight(self) -> torch.Tensor:
        return scattered(lifted(self.values), self.index, (self.out_features, self.in_features))


def _base_of(layer: Any) -> Any:
    """The layer beneath all adapters; None for a matrix of a stack of them."""
    return layer.get_base_layer() if hasattr(layer, "get_base_layer") else None


def _is_quantized(layer: Any) -> bool:
    return getattr(layer, "quantization_backend", None) is not None or isinstance(_base_of(layer), CodedLinear)


def _in_the_order_of(base: CodedLinear, count: int) -> torch.Tensor:
    """The base's outliers, the worst of them where fewer are asked for, and then the largest other entries."""
    assert base.outlier_index is not None
    assert base.outlier_value is not None
    if count == len(base.outlier_index):
        return base.outlier_index
    codes, places = base.dequantize_codes().reshape(-1), base.outlier_index.long()
    scores = lifted(codes.abs())
    errors = lifted(base.outlier_value) - lifted(codes[places])
    scores[places] = 1 + scores.max() + errors.abs()
    return largest(scores, count)


register("prequant", PreQuantConfig, PreQuantUpdate)
