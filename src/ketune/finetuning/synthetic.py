"""Generates the default data set: short records and several ways to say each of them in English.

A record is one line of `key: value` fields, and its references are plain sentences that say the same:

    name: The Silver Fox | town: Harwick | food: trout | price: high
    The Silver Fox is an inn at Harwick. It serves trout and is dear.

The task has the shape of the E2E challenge (Novikova et al. 2017): some values are copied, some must be put into other
words, attributes may be absent, and each record has several references. The words are our own, so that the data set can
be generated anywhere and belongs to nobody. `TASK_DOMAIN` is the task; `PRETRAINING_DOMAINS` share its form and none of
its sentences, and are mixed into the text of the bundled base model (tools/pretrain_base.py).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ketune.finetuning._synthetic_domain import Domain
from ketune.finetuning._synthetic_inns import INNS
from ketune.finetuning._synthetic_pretraining import BOOKS, HORSES, PERSONS, SHIPS

DOMAINS = {"inns": INNS, "ships": SHIPS, "persons": PERSONS, "books": BOOKS, "horses": HORSES}
TASK_DOMAIN = "inns"
PRETRAINING_DOMAINS = tuple(name for name in DOMAINS if name != TASK_DOMAIN)
N_REFERENCES = 3
SEPARATOR = " | "
END_OF_PROMPT = "\n"

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
# Drawing distinct records slows down as the supply runs out; past this many misses in a row we call it empty.
_MAX_MISSES = 1000


@dataclass(frozen=True)
class Record:
    """One example of a data-to-text task.

    Attributes:
        prompt: the fields, `key: value | key: value`, and `END_OF_PROMPT`; a reference follows it directly.
        references: at least `N_REFERENCES` distinct texts that say what the prompt says, each without outer blanks.
    """

    prompt: str
    references: tuple[str, ...]


def generate(domain: str, n_records: int, seed: int) -> list[Record]:
    """Draws records of a domain, all with different prompts.

    Args:
        domain: `TASK_DOMAIN` or one of `PRETRAINING_DOMAINS`.
        n_records: how many.
        seed: the same seed gives the same records on every machine; a longer draw starts with the shorter one.

    Raises:
        ValueError: if the domain is unknown, `n_records` is negative, or the domain has fewer distinct records.
    """
    if domain not in DOMAINS:
        raise ValueError(f"generate(domain={domain!r}): unknown domain; choose one of {', '.join(DOMAINS)}")
    if n_records < 0:
        raise ValueError(f"generate(n_records={n_records}): must be 0 or more")
    records: dict[str, Record] = {}
    misses = 0
    for record in _draw(DOMAINS[domain], random.Random(f"ketune/{domain}/{seed}")):
        if len(records) == n_records:
            break
        misses = misses + 1 if record.prompt in records else 0
        if misses > _MAX_MISSES:
            raise ValueError(
                f"generate(domain={domain!r}, n_records={n_records}): the domain ran out of distinct records at "
                f"{len(records)}; ask for fewer"
            )
        records.setdefault(record.prompt, record)
    return list(records.values())


def splits(
    n_train: int, n_validation: int, n_test: int, seed: int, domain: str = TASK_DOMAIN
) -> dict[str, list[Record]]:
    """Draws the three splits of a task; no prompt occurs twice, in one split or in two.

    Returns:
        `{"train": [...], "validation": [...], "test": [...]}` of the lengths asked for. The test and validation records
        of a seed do not depend on `n_train`, so that learning curves over the size of the training set compare.

    Raises:
        ValueError: if a length is negative or the domain has too few distinct records.
    """
    for name, n in (("n_train", n_train), ("n_validation", n_validation), ("n_test", n_test)):
        if n < 0:
            raise ValueError(f"splits({name}={n}): must be 0 or more")
    records = generate(domain, n_test + n_validation + n_train, seed)
    n_held_out = n_test + n_validation
    return {"train": records[n_held_out:], "validation": records[n_test:n_held_out], "test": records[:n_test]}


def _draw(domain: Domain, rng: random.Random) -> Iterator[Record]:
    """Yields records without end; prompts may repeat."""
    while True:
        fields = _draw_fields(domain, rng)
        prompt = SEPARATOR.join(f"{key}: {value}" for key, value in fields.items()) + END_OF_PROMPT
        references: dict[str, None] = {}  # a set that keeps the order, so that the result does not depend on hashing
        while len(references) < N_REFERENCES:
            references.setdefault(_write(domain, fields, rng))
        yield Record(prompt, tuple(references))


def _draw_fields(domain: Domain, rng: random.Random) -> dict[str, str]:
    """Draws a name and at least two other attributes, in the domain's order of keys."""
    fields = {"name": domain.draw_name(rng)}
    n_present = rng.choice(domain.sizes)
    weights = [attribute.weight for attribute in domain.attributes]
    present: set[str] = set()
    while len(present) < n_present:
        present.add(rng.choices(domain.attributes, weights)[0].key)
    for attribute in domain.attributes:
        if attribute.key in present:
            fields[attribute.key] = rng.choice(attribute.values)
    return fields


def _write(domain: Domain, fields: dict[str, str], rng: random.Random) -> str:
    """Says the fields in one to four sentences: an opening, then predicates gathered under a pronoun or a noun."""
    words = {**fields, **domain.pronouns_of(fields["name"])}
    words["Name"] = words["name"]
    words["name"] = words["name"].replace("The ", "the ", 1)
    openings = [text for text in domain.openings if all(key in words for key in _PLACEHOLDER.findall(text))]
    opening = rng.choice(openings)
    said = set(_PLACEHOLDER.findall(opening))
    remaining = [a for key in rng.choice(domain.orders) for a in domain.attributes if a.key == key]
    remaining = [a for a in remaining if a.key in fields and a.key not in said]

    sentences = []
    clauses: list[str] = [opening]
    # An opening that ends in a full stop stands alone; another one takes further predicates ("... and serves trout").
    room = 0 if opening.endswith(".") else rng.randint(0, 1)
    if room == 0:
        sentences.append(opening.rstrip("."))
        clauses = []
    for attribute in remaining:
        text = rng.choice(attribute.phrases_for(fields[attribute.key])).replace("{}", "{" + attribute.key + "}")
        if attribute.stands_alone(text):
            if clauses:
                sentences.append(_join(clauses))
            sentences.append(text)
            clauses, room = [], 0
            continue
        if room == 0:
            if clauses:
                sentences.append(_join(clauses))
            clauses, room = [rng.choice(domain.subjects) + " " + text], rng.randint(0, 2)
        else:
            clauses.append(text)
            room -= 1
    if clauses:
        sentences.append(_join(clauses))
    return ". ".join(_capitalise(_PLACEHOLDER.sub(lambda m: words[m[1]], s)) for s in sentences) + "."


def _join(clauses: list[str]) -> str:
    """Joins predicates of one subject: "a", "a and b", "a, b and c"."""
    return clauses[0] if len(clauses) == 1 else ", ".join(clauses[:-1]) + " and " + clauses[-1]


def _capitalise(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


__all__ = ["N_REFERENCES", "PRETRAINING_DOMAINS", "TASK_DOMAIN", "Record", "generate", "splits"]
