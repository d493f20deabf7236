"""Words and arithmetic of OpenQASM: tokens, and expressions that are linear in the inputs of a program."""

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ketune.circuits._imported import ImportingError, Linear

CONSTANTS = {"pi": math.pi, "π": math.pi, "tau": math.tau, "τ": math.tau, "euler": math.e, "ℇ": math.e}
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "arcsin": math.asin,
    "arccos": math.acos,
    "arctan": math.atan,
    "exp": math.exp,
    "log": math.log,
    "ln": math.log,
    "sqrt": math.sqrt,
}
_TOKEN = re.compile(
    r"(?P<skip>\s+|//[^\n]*|/\*.*?\*/)|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<text>\"[^\"]*\")"
    r"|(?P<word>[^\W\d]\w*)|(?P<mark>->|\*\*|==|.)",
    re.DOTALL,
)


class Token(NamedTuple):
    kind: str
    text: str
    line: int


def tokens_of(text: str) -> list[Token]:
    tokens, line = [], 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "skip":
            tokens.append(Token(str(match.lastgroup), match.group(), line))
        line += match.group().count("\n")
    return tokens


class Reader:
    """Tokens from left to right."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens, self.place = tokens, 0

    @property
    def next(self) -> Token:
        if self.place < len(self.tokens):
            return self.tokens[self.place]
        return Token("end", "the end of the program", self.tokens[-1].line if self.tokens else 1)

    def take(self, text: str | None = None) -> Token:
        token = self.next
        if text is not None and token.text != text:
            raise self.error(f"{text!r} is expected, not {token.text!r}")
        self.place += 1
        return token

    def accept(self, text: str) -> bool:
        found = self.next.text == text
        self.place += found
        return found

    def until(self, text: str) -> list[Token]:
        """The tokens up to the given one, which is taken too."""
        start = self.place
        while self.next.text != text:
            if self.next.kind == "end":
                raise self.error(f"{text!r} is missing")
            self.place += 1
        self.place += 1
        return list(self.tokens[start : self.place - 1])

    def names(self, end: str) -> list[str]:
        return [token.text for token in self.until(end) if token.text != ","]

    def error(self, message: str) -> ImportingError:
        return ImportingError(f"OpenQASM, line {self.next.line}: {message}")


def constant(reader: Reader, values: dict[str, Linear]) -> float:
    value = expression(reader, values)
    if value.terms:
        raise reader.error("a constant is expected here, not an expression of inputs")
    return value.offset


def expression(reader: Reader, values: dict[str, Linear]) -> Linear:
    total = _product(reader, values)
    while reader.next.text in ("+", "-"):
        sign = 1.0 if reader.take().text == "+" else -1.0
        total = total + _product(reader, values) * sign
    return total


def _product(reader: Reader, values: dict[str, Linear]) -> Linear:
    total = _power(reader, values)
    while reader.next.text in ("*", "/"):
        divides = reader.take().text == "/"
        other = _power(reader, values)
        if other.terms and not divides and not total.terms:
            total, other = other, total
        if other.terms:
            raise reader.error("an angle that is not linear in the inputs; give it as an input of its own")
        if divides and not other.offset:
            raise reader.error("division by zero")
        total = total * (1 / other.offset if divides else other.offset)
    return total


def _power(reader: Reader, values: dict[str, Linear]) -> Linear:
    if reader.next.text in ("+", "-"):
        sign = 1.0 if reader.take().text == "+" else -1.0
        return _power(reader, values) * sign
    base = _atom(reader, values)
    if not reader.accept("**"):
        return base
    exponent = _power(reader, values)
    if base.terms or exponent.terms:
        raise reader.error("an angle that is not linear in the inputs; give it as an input of its own")
    return Linear(offset=base.offset**exponent.offset)


def _atom(reader: Reader, values: dict[str, Linear]) -> Linear:
    if reader.accept("("):
        value = expression(reader, values)
        reader.take(")")
        return value
    token = reader.take()
    if token.kind == "number":
        return Linear(offset=float(token.text))
    if token.text in values:
        return values[token.text]
    if token.text in _FUNCTIONS:
        reader.take("(")
        argument = constant(reader, values)
        reader.take(")")
        return Linear(offset=_FUNCTIONS[token.text](argument))
    reader.place -= 1
    raise reader.error(f"{token.text!r} in an expression: not a number, parameter or function that we know")
