"""Makes a method known to Hugging Face PEFT from outside.

PEFT keeps its methods in an enum (`PeftType`) and four dictionaries. It offers `register_peft_method` for the
dictionaries, but none for the enum, so this file adds the member at run time. It is the only place that touches enum
internals; `tests/adapters/test_peft_types.py` checks lookup, iteration, copying and pickling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method

if TYPE_CHECKING:
    from ketune.adapters.base import AdapterTuner
    from ketune.adapters.config import AdapterConfig


def ensure_peft_type(name: str) -> PeftType:
    """Return the `PeftType` member called `name` (upper case), adding it when PEFT does not ship one."""
    existing = PeftType.__members__.get(name)
    if existing is not None:
        return existing
    member: Any = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType._member_names_)
    # Enum's metaclass refuses plain attribute assignment of members, and Python 3.11+ looks members up as attributes.
    type.__setattr__(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    return member


def register_with_peft(name: str, config_cls: type[AdapterConfig], tuner_cls: type[AdapterTuner]) -> PeftType:
    """Register one method under `name` (lower case). Calling it twice with the same config class does nothing.

    Raises:
        RuntimeError: when another library (or a newer PEFT) already holds a method of this name.
    """
    peft_type = ensure_peft_type(name.upper())
    holder = PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type)
    if holder is config_cls:
        return peft_type
    if holder is not None:
        raise RuntimeError(
            f"PEFT already has a method {name!r} ({holder.__module__}.{holder.__qualname__}); "
            f"rename {config_cls.__qualname__}'s method or uninstall the package that registered the other one"
        )
    register_peft_method(name=name, config_cls=config_cls, model_cls=tuner_cls, prefix=f"{name}_")
    return peft_type
