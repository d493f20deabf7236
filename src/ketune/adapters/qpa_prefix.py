"""QPA for prefix tuning: the key and value vectors before the real ones are generated instead of stored.

PEFT makes prompt encoders in a closed list of cases on the method's type. A `QPAPrefixConfig` therefore is a
`PrefixTuningConfig` of type PREFIX_TUNING, so that every place of PEFT treats it as such, and the class that PEFT makes
prefix encoders of is replaced by one that looks at the config first. In a saved config the type is QPA_PREFIX, so that
a PEFT without Ketune refuses the folder instead of loading something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from peft import PeftType, PrefixEncoder, PrefixTuningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BasePromptEncoder
from torch import nn
from torch.nn import functional as F

from ketune.adapters._peft_types import ensure_peft_type
from ketune.adapters.config import describe_loading
from ketune.adapters.generator import one_bank
from ketune.adapters.generator_fields import GeneratorFields, make_plan


@dataclass
class QPAPrefixConfig(GeneratorFields, PrefixTuningConfig):
    """Prefix tuning with generated prefixes, see `QPAConfig` for the generator.

    The prefix is one vector of `num_virtual_tokens * num_layers * 2 * token_dim` numbers. `init_weights=None` starts
    at what the generator makes at its start; "zero" takes how far it has moved since, so that keys and values start at
    zero, as PEFT's own option does.
    """

    method: ClassVar[str] = "qpa_prefix"
    size_field: ClassVar[str] = "chunk"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_generator()
        self._require("prefix_projection", not self.prefix_projection, "the generator takes the projection's place")
        self._require("init_weights", self.init_weights in (None, "zero"), "choose None or 'zero'")

    def prefix_shape(self) -> tuple[int, int]:
        """(virtual tokens, keys and values of all layers); known once PEFT has seen the model."""
        if self.num_virtual_tokens is None or self.num_layers is None or self.token_dim is None:
            self._refuse(
                "num_virtual_tokens", self.num_virtual_tokens, "set it; get_peft_model fills in the other sizes"
            )
        return self.num_virtual_tokens, self.num_layers * 2 * self.token_dim

    def parameter_count(self) -> int:
        """Trainable parameters, as in `QPAConfig.parameter_count`."""
        tokens, width = self.prefix_shape()
        plan = make_plan([tokens * width], self.chunk, self.n_generators)
        return sum(self.generator_count(n, plan.chunk) for n in plan.n_chunks)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "peft_type": ensure_peft_type("QPA_PREFIX")}

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Save `adapter_config.json` as PEFT does, and put the loading lines into the model card beside it."""
        super().save_pretrained(save_directory, **kwargs)
        describe_loading(Path(save_directory) / "README.md", self.method)


class GeneratedPrefix(nn.Module):
    """Stands where PEFT has an embedding of virtual tokens."""

    def __init__(self, config: QPAPrefixConfig) -> None:
        super().__init__()
        self.shape = config.prefix_shape()
        self.from_zero = config.init_weights == "zero"
        self.bank = one_bank(config, [self.shape[0] * self.shape[1]], config.seed)

    @property
    def weight(self) -> torch.Tensor:
        """The prefix, (virtual tokens, keys and values of all layers)."""
        now, moved = self.bank(0)
        return (moved if self.from_zero else now).view(self.shape)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return F.embedding(tokens, self.weight)


class QPAPrefixEncoder(BasePromptEncoder):
    """PEFT's prefix encoder with a generator inside; what is saved is the generator."""

    SAVED = "qpa_prefix."

    def __init__(self, config: QPAPrefixConfig) -> None:
        super().__init__()
        self.embedding = GeneratedPrefix(config)

    def forward(self, prefix: torch.Tensor) -> torch.Tensor:
        return self.embedding(prefix)

    @classmethod
    def _get_adapter_state_dict(
        cls, model: Any, config: Any, adapter_name: str, state_dict: Any, unwanted_adapter_names: Any
    ) -> dict[str, torch.Tensor]:
        state = model.prompt_encoder[adapter_name].embedding.bank.state_dict()
        return {cls.SAVED + name: tensor.detach().cpu() for name, tensor in state.items()}

    def _load_adapter_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        own = {k.removeprefix(self.SAVED): v for k, v in state_dict.items() if k.startswith(self.SAVED)}
        self.embedding.bank.load_state_dict(own, strict=True)


class DispatchingPrefixEncoder(PrefixEncoder):
    """What PEFT finds under PREFIX_TUNING: its own encoder for its own config, ours for ours."""

    def __new__(cls, config: Any) -> Any:
        return QPAPrefixEncoder(config) if isinstance(config, QPAPrefixConfig) else PrefixEncoder(config)

    @classmethod
    def _get_adapter_state_dict(cls, model: Any, config: Any, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        encoder = QPAPrefixEncoder if isinstance(config, QPAPrefixConfig) else PrefixEncoder
        return encoder._get_adapter_state_dict(model, config, *args, **kwargs)


PEFT_TYPE_TO_CONFIG_MAPPING[ensure_peft_type("QPA_PREFIX")] = QPAPrefixConfig
_encoders: dict[PeftType, Any] = PEFT_TYPE_TO_TUNER_MAPPING  # pyright: ignore[reportAssignmentType]
_encoders[PeftType.PREFIX_TUNING] = DispatchingPrefixEncoder
