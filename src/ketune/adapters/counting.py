"""Exact parameter counts from a model's config alone, and the sizes that fit a budget."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from ketune.adapters.adapter_layer import AdapterLayer
from ketune.adapters.config import ConfigError
from ketune.adapters.registry import Method
from ketune.assets.names import resolve_model
from ketune.errors import KetuneError

MAX_SIZE = 1 << 20


class BudgetTooSmall(KetuneError):
    """A budget that not even the smallest size of a method fits.

    Attributes:
        method: name of the method.
        smallest: trainable parameters of its smallest size.
    """

    def __init__(self, method: str, budget: int, smallest: int) -> None:
        super().__init__(
            f"a budget of {budget:,} trainable parameters is too small for {method}: "
            f"its smallest size has {smallest:,}; raise --budget to at least {smallest}"
        )
        self.method = method
        self.smallest = smallest


@dataclass(frozen=True)
class Sized:
    """A method's config at the largest size within a budget, and what it trains.

    Attributes:
        config: the PEFT config.
        size: the method's size (rank, prefix length, readouts, ...).
        count: its trainable parameters on the model in question.
    """

    config: PeftConfig
    size: int
    count: int


def meta_model(model: str | Path | PretrainedConfig, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model's modules without any weights, from a hub id, a folder, a `config.json` or a config object.

    Raises:
        KetuneError: when there is no config to be read.
    """
    config = model if isinstance(model, PretrainedConfig) else _read_config(model, trust_remote_code)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def _read_config(model: str | Path, trust_remote_code: bool) -> PretrainedConfig:
    place = resolve_model(model)
    try:
        return AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise KetuneError(
            f"no model config at {str(model)!r}: pass a hub id, a folder with config.json or such a file ({reason})"
        ) from error


def hidden_width(model: PreTrainedModel) -> int:
    """The width of a model's hidden states."""
    return model.config.get_text_config().hidden_size


def count_parameters(model: torch.nn.Module) -> int:
    """All parameters of a model; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_trainable(model: PreTrainedModel, config: PeftConfig | None) -> int:
    """The trainable parameters that a PEFT config gives on a model; all of them for None (full fine-tuning).

    The adapter is really injected, without weights, so the count is that of training, whatever the method.

    Args:
        model: a model from `meta_model`; left as it was.
        config: any PEFT config.

    Raises:
        ValueError: from PEFT, when no module matches.
    """
    if config is None:
        return count_parameters(model)
    try:
        return _count_injected(copy.deepcopy(model), config, "meta")
    except NotImplementedError:  # a method that computes with tensors as it is made
        return _count_injected(_flattened(model), config, "cpu")


def _count_injected(model: PreTrainedModel, config: PeftConfig, device: str) -> int:
    with torch.device(device), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted: Any = get_peft_model(model, replace(config))  # PEFT fills in fields of the config it is given
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)


def _flattened(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a `meta_model` on the CPU, whose tensors are one zero each, seen in all of their places."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.zeros((), dtype=buffer.dtype).expand(buffer.shape))
    return copied


def fit_budget(method: Method, model: PreTrainedModel, budget: int) -> Sized:
    """The largest size of a method whose trainable parameters on `model` are at most `budget`.

    What one size for all layers leaves unused goes to some layers as the next larger size, where the method allows it.

    Args:
        method: a method with a size; full fine-tuning has none.
        model: a model from `meta_model`.
        budget: number of trainable parameters.

    Raises:
        BudgetTooSmall: when size 1 does not fit; it names what would.
        ConfigError: when every size has as many parameters, though the method has sizes.
        ValueError: for full fine-tuning.
    """
    if method.configure is None:
        raise ValueError(f"fit_budget: {method.name!r} trains all weights and has no size to choose")

    def count(size: int) -> int | None:
        try:
            return count_trainable(model, method.config(size))
        except ConfigError:  # beyond the largest size that the method has on this model
            return None

    smallest = count_trainable(model, method.config(1))
    if smallest > budget:
        raise BudgetTooSmall(method.name, budget, smallest)
    config = method.config(1)
    if not method.size_name and config is not None:
        return Sized(config, 1, smallest)
    low, low_count, high = 1, smallest, 2
    if count(2) == smallest == count(MAX_SIZE):
        raise ConfigError(
            f"{method.name}: with these settings every {method.size_name} has the same {smallest:,} trainable "
            "parameters; leave the budget out and set the fields that decide its size"
        )
    while high < MAX_SIZE and (n := count(high)) is not None and n <= budget:
        low, low_count, high = high, n, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        n = count(middle)
        if n is not None and n <= budget:
            low, low_count = middle, n
        else:
            high = middle
    low = _first_with(count, low, low_count)
    config = method.config(low)
    assert config is not None
    if method.enlarge is not None and (n := count(high)) is not None and n > low_count:
        config, low_count = _fill(method.enlarge, model, config, high, low_count, budget)
    return Sized(config, low, low_count)


def _first_with(count: Callable[[int], int | None], size: int, wanted: int) -> int:
    """The smallest size with this count: ranks beyond what the layers can use add no parameters and are not taken."""
    if size == 1 or count(size - 1) != wanted:
        return size
    low, high = 0, size
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if count(middle) == wanted else (middle, high)
    return high


def _fill(
    enlarge: Callable[[PeftConfig, list[str], int], PeftConfig],
    model: PreTrainedModel,
    config: PeftConfig,
    size: int,
    count: int,
    budget: int,
) -> tuple[PeftConfig, int]:
    """Give as many layers as fit the larger size, spread evenly over the depth of the model."""
    modules = adapted_modules(model, config)
    order = [modules[i] for i in _evenly(len(modules))]
    best, best_count, low, high = config, count, 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        candidate = enlarge(config, sorted(order[:middle]), size)
        n = count_trainable(model, candidate)
        if n <= budget:
            best, best_count, low = candidate, n, middle
        else:
            high = middle
    return best, best_count


def _evenly(n: int) -> list[int]:
    """0..n-1 in an order whose every beginning is spread over the whole range (bit-reversed counting)."""
    bits = max(1, (n - 1).bit_length())
    mirrored = (int(format(i, f"0{bits}b")[::-1], 2) for i in range(2**bits))
    return [i for i in mirrored if i < n]


def adapted_modules(model: PreTrainedModel, config: PeftConfig) -> list[str]:
    """The names of the modules of a `meta_model` that a config puts an adapter on, in the model's order.

    Of parameters (`target_parameters`) it is the parameter's name.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted: Any = get_peft_model(model, replace(config))
    layers = ((name, m) for name, m in adapted.base_model.model.named_modules() if isinstance(m, BaseTunerLayer))
    names = [m.key(name) if isinstance(m, AdapterLayer) else name for name, m in layers]
    adapted.unload()
    return names


def parse_budget(text: str | int, base_parameters: int) -> int:
    """A number of trainable parameters from '0.1%' (of `base_parameters`), '5000', '12k' or '1.5M'.

    Raises:
        KetuneError: when the text is none of these, or not above zero.
    """
    raw = str(text).strip().lower().replace(",", "").replace("_", "")
    factors = {"%": base_parameters / 100, "k": 1e3, "m": 1e6, "b": 1e9}
    number, factor = (raw[:-1], factors[raw[-1]]) if raw and raw[-1] in factors else (raw, 1.0)
    try:
        value = int(float(number) * factor)
    except ValueError:
        value = 0
    if value < 1:
        raise KetuneError(
            f"budget {text!r}: give a share such as 0.1% or a count such as 5000, 12k or 1.5M, above zero"
        )
    return value
