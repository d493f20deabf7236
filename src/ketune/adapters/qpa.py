"""QPA: a circuit and a small network generate the parameters of LoRA, DoRA or a bottleneck for all layers at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ketune.adapters.base import register
from ketune.adapters.config import AdapterConfig, ConfigError, module_seed
from ketune.adapters.generated import TARGETS, LowRank
from ketune.adapters.generator import GeneratorBank, one_bank
from ketune.adapters.generator_fields import RELEASED_HIDDEN, GeneratorFields, make_plan
from ketune.adapters.update import HasWeight, Place, Update
from ketune.circuits import Circuit

if TYPE_CHECKING:
    from ketune.adapters.adapter_layer import AdapterLayer

PRESETS: dict[str, dict[str, Any]] = {
    "published": {
        "r": 4,
        "chunk": 2048,
        "n_layers": 8,
        "hidden": list(RELEASED_HIDDEN),
        "activation": "none",
        "init": "released",
    },
    "recommended": {},
}


@dataclass
class QPAConfig(GeneratorFields, AdapterConfig):
    """Quantum parameter adaptation (Liu, Yang, Goan and Hsieh, ICLR 2025, arXiv 2410.09846).

    The parameters of a layer are a flat vector, cut into chunks. Chunk i comes out of a mapping model G whose input is
    the bit string of i, as -1 and +1, and one number q_i: `q = (beta tanh(gamma 2^(N-1) p))^alpha` less its mean, with
    p the probabilities of an N-wire circuit (RY on each wire, then an open chain of CNOTs, `n_layers` times). The mean
    of each layer's vector is subtracted. Circuit and mapping model train; after training the vector is made once, and
    `export_plain` writes it as an ordinary LoRA or DoRA adapter.

    Where we deviate from the released code, on purpose: bit strings have a fixed order (theirs is a new random
    permutation in every forward pass); the mapping model has activations (theirs has none, `activation="none"`); the
    first factor is `B(theta) - B(theta_0)`, so that training starts at the base model; one generator serves all
    adapted layers. `preset("published")` has the released sizes, constants and starting distributions, without
    activations.
    """

    size_field: ClassVar[str] = "chunk"
    has_shared_part: ClassVar[bool] = True

    target: str = field(
        default="lora",
        metadata={"help": "What is generated: 'lora', 'dora' or 'adapter' (a bottleneck on the layer's output)."},
    )
    r: int = field(default=8, metadata={"help": "Rank, or width of the bottleneck. It costs no trainable parameters."})
    lora_alpha: float | None = field(
        default=None, metadata={"help": "The update is scaled by lora_alpha / r; None means 2 r, as released."}
    )
    sharing: str = field(
        default="all", metadata={"help": "'all': one generator for all layers; 'module': one for each."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_generator()
        self._choose("target", tuple(TARGETS))
        self._require("r", self.r >= 1, "must be at least 1")
        self._require(
            "lora_alpha", self.lora_alpha is None or self.lora_alpha > 0, "must be above zero, or None for 2 r"
        )
        self._choose("sharing", ("all", "module"))
        advice = (
            "layers that share a generator share its chunks; set sharing='module' to give layers sizes of their own"
        )
        self._require("size_pattern", not self.size_pattern or self.sharing == "module", advice)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> QPAConfig:
        """The configuration called `published` or `recommended`, with any field overridden."""
        if name not in PRESETS:
            raise ConfigError(f"QPAConfig.preset({name!r}): choose one of {', '.join(map(repr, PRESETS))}")
        return cls(**{**PRESETS[name], **overrides})

    @property
    def scale(self) -> float:
        """lora_alpha / r."""
        return 2.0 if self.lora_alpha is None else self.lora_alpha / self.r

    def vector_length(self, in_features: int, out_features: int) -> int:
        """How many numbers one layer takes."""
        return TARGETS[self.target].length(in_features, out_features, self.r)

    def parameter_count(self, in_features: int, out_features: int) -> int:
        """Trainable parameters of an adapter on this one layer; `model_parameter_count` for several that share.

        `N L + (N + 2) h_1 + (h_1 + 1) h_2 + ... + (h_k + 1) n` with N = ceil(log2 C) wires for C chunks of length n,
        and `N L + (N + 2) n` with `fused_linear`.
        """
        return self.model_parameter_count([(in_features, out_features)])

    def model_parameter_count(self, shapes: Sequence[tuple[int, int]]) -> int:
        return sum(self.generator_count(n, plan.chunk) for plan in self._plans(shapes) for n in plan.n_chunks)

    def circuits(self, shapes: Sequence[tuple[int, int]]) -> list[Circuit]:
        """For each layer the circuit that generates it (its first one, with several generators)."""
        plans = self._plans(shapes)
        if self.sharing == "module":
            return [self.circuit_of(plan.n_chunks[0]) for plan in plans]
        return [self.circuit_of(plans[0].n_chunks[pieces[0].generator]) for pieces in plans[0].pieces]

    def _plans(self, shapes: Sequence[tuple[int, int]]) -> list[Any]:
        lengths = [self.vector_length(*shape) for shape in shapes]
        groups = [lengths] if self.sharing == "all" else [[length] for length in lengths]
        return [make_plan(group, self.chunk, self.n_generators) for group in groups]

    def make_shared(self, places: Sequence[Place]) -> GeneratorBank:
        lengths = [self.vector_length(place.in_features, place.out_features) for place in places]
        if self.sharing == "all":
            return one_bank(self, lengths, self.seed, not self.init_weights)
        groups = []
        for place, length in zip(places, lengths):
            chunk = self.for_module(place.name).chunk
            groups.append((make_plan([length], chunk, self.n_generators), module_seed(self.seed, place.seed_name)))
        return GeneratorBank(self, groups, lengths, not self.init_weights)


class QPAUpdate(Update):
    """The change of one layer that its generated vector stands for; it has no parameters of its own."""

    def __init__(self, config: QPAConfig, in_features: int, out_features: int) -> None:
        super().__init__(config, in_features, out_features)
        unit = config.init == "balanced"
        self.target = TARGETS[config.target](in_features, out_features, config.r, config.scale, unit)
        self.why_not_mergeable = self.target.why_not_mergeable
        self.index = 0

    def attach(self, shared: torch.nn.Module, place: Place) -> None:
        super().attach(shared, place)
        self.index = place.index

    def vectors(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """The generated vector, and how far it has moved since the start."""
        now, moved = self.shared(self.index)
        return now.to(device), moved.to(device)

    def beside(self, x: torch.Tensor, output: torch.Tensor, layer: AdapterLayer) -> torch.Tensor:
        return self.target.change(*self.vectors(x.device), x, output, layer)

    def delta_weight_beside(self, layer: HasWeight) -> torch.Tensor:
        return self.target.delta_weight(*self.vectors(layer.plain_weight().device), layer)

    def low_rank_factors(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        if type(self.target) is not LowRank:  # DoRA's change is no thin product
            return None
        now, moved = self.shared(self.index)
        return self.target.factors(now, moved)


register("qpa", QPAConfig, QPAUpdate)
