"""What a domain of the generated data sets is made of: names, attributes and the phrases that say them.

Phrases are predicates in the third person ("serves {}"), which the generator gathers under one subject, or whole
sentences, which begin with a capital or a placeholder in capitals and stand alone. `{}` is the value, `{he}`, `{his}`,
`{him}` are pronouns of the record's subject, `{Name}` is its name as written and `{name}` the same inside a sentence.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

_IT = {"he": "it", "his": "its", "him": "it"}
_HE = {"he": "he", "his": "his", "him": "him"}
_SHE = {"he": "she", "his": "her", "him": "her"}


@dataclass(frozen=True)
class Attribute:
    """One key of a record.

    Attributes:
        key: as it stands in the prompt.
        phrases: ways to say any value, with `{}` in its place; or, for values that are put into other words, a mapping
            from each value to the ways to say it.
        copied: the values, where `phrases` is not a mapping.
        weight: how often it occurs beside the others.
    """

    key: str
    phrases: tuple[str, ...] | Mapping[str, tuple[str, ...]]
    copied: tuple[str, ...] = ()
    weight: float = 1.0

    @property
    def values(self) -> tuple[str, ...]:
        return tuple(self.phrases) if isinstance(self.phrases, Mapping) else self.copied

    def phrases_for(self, value: str) -> tuple[str, ...]:
        return self.phrases[value] if isinstance(self.phrases, Mapping) else self.phrases

    @staticmethod
    def stands_alone(phrase: str) -> bool:
        """Whether a phrase is a sentence rather than a predicate."""
        return phrase[0].isupper() or phrase[0] == "{"


@dataclass(frozen=True)
class Domain:
    """A kind of record: its names, attributes and sentences.

    Attributes:
        names: parts of a name, one word drawn from each.
        attributes: in the order of the prompt.
        openings: first sentences; those whose placeholders are all in the record may be drawn. One with a full stop
            stands alone, another may go on with a predicate.
        subjects: what later sentences begin with.
        orders: orders in which the attributes may be told.
        sizes: numbers of attributes beside the name, one drawn per record; repeat one to make it likelier.
    """

    names: tuple[tuple[str, ...], ...]
    attributes: tuple[Attribute, ...]
    openings: tuple[str, ...]
    subjects: tuple[str, ...]
    orders: tuple[tuple[str, ...], ...]
    sizes: tuple[int, ...] = (2, 3, 4, 5, 6)

    def draw_name(self, rng: random.Random) -> str:
        return " ".join(rng.choice(part) for part in self.names)

    @staticmethod
    def pronouns_of(name: str) -> dict[str, str]:
        """Pronouns by the title that a name begins with."""
        title = name.split(" ", 1)[0]
        if title in ("Mr.", "Dr.", "Sir", "Captain"):
            return _HE
        return _SHE if title in ("Mrs.", "Miss", "Lady") else _IT


def words(text: str) -> tuple[str, ...]:
    """Splits a list of values that are separated by commas."""
    return tuple(word.strip() for word in text.split(","))
