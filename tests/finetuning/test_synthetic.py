"""The generated data sets: what they promise to the model, to the metrics and to whoever repeats a run."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ketune.finetuning.synthetic import (
    DOMAINS,
    END_OF_PROMPT,
    N_REFERENCES,
    PRETRAINING_DOMAINS,
    SEPARATOR,
    TASK_DOMAIN,
    generate,
    splits,
)

ALL_DOMAINS = (TASK_DOMAIN, *PRETRAINING_DOMAINS)


def fields_of(prompt: str) -> dict[str, str]:
    return dict(field.split(": ", 1) for field in prompt.removesuffix(END_OF_PROMPT).split(SEPARATOR))


def test_a_known_seed_gives_the_record_written_down_here():
    record = generate("inns", 1, seed=0)[0]
    assert fields_of(record.prompt) == {
        "name": "The Painted Rose",
        "town": "Wexford",
        "food": "boiled fowl",
        "host": "Mrs. Nash",
        "near": "the church",
        "dogs": "yes",
    }
    assert record.references[0] == (
        "The Painted Rose is an inn near the church. "
        "It serves boiled fowl and lies at Wexford. It is kept by Mrs. Nash. You may bring your dog."
    )


@pytest.mark.parametrize(
    ("domain", "digest"),
    [
        ("inns", "199af04464726b25"),
        ("ships", "6948ece8bce79e4f"),
        ("persons", "8491aa13e4ca3971"),
        ("books", "b817bc4b6003300e"),
        ("horses", "949b6557234337a3"),
    ],
)
def test_records_are_the_same_in_every_process_and_release(domain, digest):
    # Strings hash differently in each process, so an order taken from a set would show here. The bundled model was
    # trained on the records of the last four domains: whoever changes those must train it again.
    drawn = [(record.prompt, record.references) for record in generate(domain, 200, seed=7)]
    assert hashlib.sha256(repr(drawn).encode()).hexdigest()[:16] == digest


@given(st.sampled_from(ALL_DOMAINS), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_every_record_has_its_form_and_three_different_references(domain, seed):
    for record in generate(domain, 15, seed):
        fields = fields_of(record.prompt)
        assert next(iter(fields)) == "name"
        assert 3 <= len(fields) <= 7
        keys = [attribute.key for attribute in DOMAINS[domain].attributes]
        assert [key for key in keys if key in fields] == list(fields)[1:]
        assert len(set(record.references)) == len(record.references) >= N_REFERENCES
        for text in record.references:
            assert text == text.strip()
            assert text.endswith(".")
            assert text[0].isupper()
            assert "{" not in text
            assert ".." not in text
            assert "  " not in text


@given(st.sampled_from(ALL_DOMAINS), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_every_reference_says_every_field(domain, seed):
    attributes = {attribute.key: attribute for attribute in DOMAINS[domain].attributes}
    for record in generate(domain, 10, seed):
        fields = fields_of(record.prompt)
        for text in record.references:
            assert fields["name"].removeprefix("The ") in text
            for key, value in fields.items():
                if key == "name":
                    continue
                if attributes[key].copied:
                    assert value in text
                else:
                    # Some wording of the value stands in the text, whatever pronoun fills its gaps.
                    stems = [phrase.split("{")[0] for phrase in attributes[key].phrases_for(value)]
                    assert any(stem.lower() in text.lower() for stem in stems), (key, value, text)


def test_the_task_has_more_than_twenty_thousand_distinct_records():
    prompts = [record.prompt for record in generate(TASK_DOMAIN, 20_001, seed=3)]
    assert len(set(prompts)) == 20_001


def test_splits_have_the_lengths_asked_for_and_share_no_record():
    parts = splits(n_train=3000, n_validation=200, n_test=300, seed=1)
    assert {name: len(records) for name, records in parts.items()} == {"train": 3000, "validation": 200, "test": 300}
    prompts = [record.prompt for records in parts.values() for record in records]
    assert len(set(prompts)) == 3500


def test_held_out_records_stay_when_the_training_split_grows():
    small, large = (splits(n_train=n, n_validation=20, n_test=30, seed=5) for n in (10, 100))
    assert small["test"] == large["test"]
    assert small["validation"] == large["validation"]
    assert small["train"] == large["train"][:10]


def test_other_seeds_give_other_records():
    assert generate(TASK_DOMAIN, 20, seed=0) != generate(TASK_DOMAIN, 20, seed=1)


def test_pretraining_domains_share_only_the_key_name_with_the_task():
    def keys(domain):
        return {attribute.key for attribute in DOMAINS[domain].attributes}

    for domain in PRETRAINING_DOMAINS:
        assert not keys(domain) & keys(TASK_DOMAIN)


def test_values_hold_no_separator_so_that_prompts_can_be_read_back():
    for domain in DOMAINS.values():
        for attribute in domain.attributes:
            assert all(SEPARATOR.strip() not in value and ":" not in value for value in attribute.values)


def test_every_attribute_is_told_in_every_order():
    for domain in DOMAINS.values():
        keys = sorted(attribute.key for attribute in domain.attributes)
        assert all(sorted(order) == keys for order in domain.orders)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generate("taverns", 1, 0), "'taverns'.*choose one of inns"),
        (lambda: generate("inns", -1, 0), "n_records=-1"),
        (lambda: splits(1, -2, 3, 0), "n_validation=-2"),
    ],
)
def test_bad_requests_are_answered_with_the_value_and_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_asking_for_more_records_than_exist_says_how_many_there_are(monkeypatch):
    from ketune.finetuning import synthetic
    from ketune.finetuning._synthetic_domain import Attribute, Domain

    tiny = Domain(
        names=(("Box",),),
        attributes=(
            Attribute("size", ("is {}",), ("big", "small")),
            Attribute("lid", ("has a {} lid",), ("red", "blue")),
        ),
        openings=("{Name} stands here", "Here is {Name}.", "I see {Name}."),
        subjects=("it",),
        orders=(("size", "lid"), ("lid", "size")),
        sizes=(2,),
    )
    monkeypatch.setitem(synthetic.DOMAINS, "boxes", tiny)
    assert len(generate("boxes", 4, 0)) == 4
    with pytest.raises(ValueError, match="distinct records at 4"):
        generate("boxes", 5, 0)
