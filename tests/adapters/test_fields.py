from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Literal

import pytest
from peft import LoraConfig

from ketune.adapters import ConfigError, QAAConfig
from ketune.adapters.fields import from_text, parse_fields


class Colour(enum.Enum):
    RED = "red-ish"


@dataclass
class Example:
    whole: int = 0
    maybe: int | None = None
    number: float = 0.0
    switch: bool = False
    word: str = ""
    modules: list[str] | str | None = None
    words: str | list[str] = ""
    sizes: list[int] | int | None = None
    table: dict[str, int] = field(default_factory=dict)
    choice: bool | Literal["pissa", "eva"] = True
    colour: Colour = Colour.RED
    hidden: int = field(default=0, init=False)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("whole=3", 3),
        ("maybe=4", 4),
        ("maybe=none", None),
        ("number=1e-3", 1e-3),
        ("number=2", 2.0),
        ("switch=true", True),
        ("switch=OFF", False),
        ("word= a=b ", "a=b"),
        ("word=none", "none"),
        ("modules=q_proj", ["q_proj"]),
        ("modules=q_proj,v_proj", ["q_proj", "v_proj"]),
        ("modules=all-linear", "all-linear"),
        (r"modules=.*\.(q|v)_proj", r".*\.(q|v)_proj"),
        ("modules=null", None),
        ('modules=["a,b"]', ["a,b"]),
        ("words=amplitudes", "amplitudes"),
        ("words=XZ,IY", ["XZ", "IY"]),
        ('words=["XZ"]', ["XZ"]),
        ("sizes=1", 1),
        ("sizes=1,2", [1, 2]),
        ('table={"a": 1}', {"a": 1}),
        ("choice=eva", "eva"),
        ("choice=false", False),
        ("colour=red", Colour.RED),
        ("colour=red-ish", Colour.RED),
    ],
)
def test_a_text_becomes_a_value_of_the_fields_type(setting, value):
    (found,) = parse_fields(Example, [setting]).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("whole=3.5", "whole='3.5'.*a whole number"),
        ("maybe=x", "a whole number or none|none or a whole number"),
        ("number=x", "a number"),
        ("switch=perhaps", "true or false"),
        ("sizes=1,x", "a whole number"),
        ("table=[1]", "a JSON object"),
        ("choice=best", "'pissa', 'eva'"),
        ("colour=blue", "'RED'"),
        ("whole", "name=value"),
        ("=3", "name=value"),
        ("wohle=3", "no field 'wohle'.*'whole'"),
        ("hidden=3", "no field 'hidden'"),
        ("zzz=3", "no field 'zzz': it has .*whole"),
    ],
)
def test_a_text_that_does_not_fit_is_refused_with_what_would(setting, message):
    with pytest.raises(ConfigError, match=message) as refused:
        parse_fields(Example, [setting])
    assert "\n" not in str(refused.value)


def test_a_field_is_set_once():
    with pytest.raises(ConfigError, match="given twice"):
        parse_fields(Example, ["whole=1", "whole=2"])


@pytest.mark.parametrize("cls", [QAAConfig, LoraConfig])
def test_the_values_are_those_that_a_real_config_takes(cls):
    values = parse_fields(cls, ["target_modules=q_proj,v_proj", "modules_to_save=none", "bias=none"])
    config = cls(**values)
    assert config.target_modules == {"q_proj", "v_proj"}
    assert config.modules_to_save is None


def test_a_plain_type_needs_no_field():
    assert from_text("7", int) == 7
    with pytest.raises(ValueError, match="a whole number"):
        from_text("seven", int)
