"""Values of a configuration's fields from text, as a command line has them: `name=value`, checked against the field."""

from __future__ import annotations

import difflib
import enum
import json
import re
import types
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ketune.adapters.config import ConfigError

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_PLAIN_NAMES = re.compile(r"[\w.]+(,[\w.]+)*")
_NEEDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "values with commas between them, or a JSON list",
    dict: "a JSON object",
    type(None): "none",
}


def parse_fields(cls: type, settings: Iterable[str]) -> dict[str, Any]:
    """The values of `name=value` texts, in the types of a dataclass's fields.

    Numbers, `true`/`false` and `none` are written plainly, lists with commas or as JSON, dictionaries as JSON. A field
    that takes a list or a text gets a list where there are commas. For names of modules, such as PEFT's
    `target_modules`, a single plain name is a list as well: as a text PEFT would take it for a regular expression that
    has to match whole names. Anything else there (an expression, `all-linear`) stays text.

    Args:
        cls: a dataclass, e.g. `QAAConfig`.
        settings: texts such as "n_layers=2" or "target_modules=q_proj,v_proj".

    Returns:
        The values by field name, to be passed to the class or to `dataclasses.replace`.

    Raises:
        ConfigError: for a text without "=", an unknown field (with near misses), a field given twice, or a value that
            is not of the field's type.

    Example:
        >>> from ketune import QAAConfig
        >>> parse_fields(QAAConfig, ["n_layers=2", "target_modules=q_proj,v_proj"])
        {'n_layers': 2, 'target_modules': ['q_proj', 'v_proj']}
    """
    known = {field.name for field in fields(cls) if field.init}
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ConfigError(f"{setting!r}: write name=value, for example {min(known)}=...")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has {', '.join(sorted(known))}"
            raise ConfigError(f"{cls.__name__} has no field {name!r}: {hint}")
        if name in values:
            raise ConfigError(f"{cls.__name__}({name}=...): given twice; set each field once")
        try:
            values[name] = from_text(text.strip(), hints[name], names="modules" in name)
        except ValueError as error:
            raise ConfigError(f"{cls.__name__}({name}={text!r}): {error}") from None
    return values


def from_text(text: str, hint: Any, names: bool = False) -> Any:
    """A text as a value of an annotated type.

    Args:
        text: what was written.
        hint: the type.
        names: where a list and a text both fit, plain names make a list.

    Raises:
        ValueError: when it is none; the message says what is needed.
    """
    candidates = _alternatives(hint)
    if type(None) in candidates and text.lower() in ("none", "null"):
        return None
    origins = [get_origin(candidate) or candidate for candidate in candidates]
    if list in origins and str in origins:
        # The order of a union's members says nothing: typing may hand out an equal union made elsewhere.
        is_list = text.startswith("[") or (_PLAIN_NAMES.fullmatch(text) if names else "," in text)
        return _convert(text, candidates[origins.index(list if is_list else str)])
    needs = []
    # Text fits everything, so it comes last; an int is also a float, so it comes before.
    for candidate in sorted(candidates, key=_generality):
        try:
            return _convert(text, candidate)
        except ValueError as error:
            needs.append(str(error))
    raise ValueError(f"needs {' or '.join(dict.fromkeys(needs))}")


def _alternatives(hint: Any) -> list[Any]:
    """The members of a union, nested ones too; a list of one for any other type."""
    if get_origin(hint) in (Union, types.UnionType):
        return [alternative for member in get_args(hint) for alternative in _alternatives(member)]
    return [hint]


def _generality(hint: Any) -> int:
    order = [type(None), Literal, bool, int, float, dict, list]
    origin = get_origin(hint) or hint
    return order.index(origin) if origin in order else len(order) + (origin is str)


def _convert(text: str, hint: Any) -> Any:
    """One alternative of a type; ValueError says what it needs."""
    origin = get_origin(hint) or hint
    if origin is Literal:
        for value in get_args(hint):
            if text == str(value):
                return value
        raise ValueError(f"one of {', '.join(map(repr, get_args(hint)))}")
    if origin is bool:
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        raise ValueError(_NEEDS[bool])
    if origin is int or origin is float:
        try:
            return origin(text)
        except ValueError:
            raise ValueError(_NEEDS[origin]) from None
    if origin in (list, set, tuple):
        return _convert_list(text, get_args(hint))
    if origin is dict:
        return _convert_json(text, dict)
    if isinstance(origin, type) and issubclass(origin, enum.Enum):
        for member in origin:
            if text.lower() in (member.name.lower(), str(member.value).lower()):
                return member
        raise ValueError(f"one of {', '.join(repr(member.name) for member in origin)}")
    if origin is type(None):
        raise ValueError(_NEEDS[type(None)])
    return text


def _convert_list(text: str, arguments: tuple[Any, ...]) -> list[Any]:
    if text.startswith("["):
        return _convert_json(text, list)
    item = arguments[0] if arguments else str
    return [from_text(part.strip(), item) for part in text.split(",") if part.strip()]


def _convert_json(text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, kind):
        raise ValueError(_NEEDS[kind])
    return value


def plain_values(value: Any) -> Any:
    """A config's values as JSON has them: sets sorted, tuples as lists, enums by value."""
    if isinstance(value, dict):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain_values(item) for item in value)
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    return getattr(value, "value", value)
