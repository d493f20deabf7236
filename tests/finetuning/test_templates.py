import json

import pytest

from ketune.errors import DataError
from ketune.finetuning.templates import TEMPLATES, custom_template, detect, find_template, no_template_message

ROWS = {
    "alpaca": {"instruction": "Add.", "input": "1 2", "output": "3"},
    "e2e": {"mr": "name[Fox]", "ref": "It is the Fox."},
    "triples": {"category": "x", "triples": ["a | b | c", "d | e | f"], "refs": ["one", "two", "one", " "]},
    "qa": {"story": "s", "section": "A fox ran.", "question": "Who?", "answers": ["a fox"], "attribute": "x"},
    "math": {"question": "1+1?", "answer": "1+1=2\n#### 2"},
    "plain": {"task": "t", "prompt": "Say hi", "completion": "hi"},
    "summary": {"source": "long", "targets": ["short"]},
    "text": {"text": "just text", "label": "x"},
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
}


@pytest.mark.parametrize("name", ROWS)
def test_a_built_in_template_is_found_from_the_columns(name):
    template, _ = detect(list(ROWS[name]), [ROWS[name]])
    assert template.name == name


def test_gsm8k_answers_make_the_difference_between_math_and_questions():
    row = {"question": "1+1?", "answer": "2"}
    template, columns = detect(list(row), [row])
    assert template.name == "qa"
    assert template.render(row, columns) == ("Question: 1+1?\nAnswer: ", ["2"])


def test_prompts_hold_the_inputs_and_never_the_target():
    for name, row in ROWS.items():
        if name in ("chat", "text"):
            continue
        template, columns = detect(list(row), [row])
        prompt, references = template.render(row, columns)
        inputs = [value for role, column in columns.items() if role != template.target for value in [row[column]]]
        for value in inputs:
            for text in value if isinstance(value, list) else [value]:
                assert text in prompt, name
        assert references, name
        assert not any(reference in prompt for reference in references if len(reference) > 3), name


def test_alpaca_without_input_uses_the_shorter_prompt():
    columns = {"instruction": "instruction", "output": "output", "input": "input"}
    row = {"instruction": "Add {x}.", "input": "", "output": "3"}
    prompt, _ = TEMPLATES["alpaca"].render(row, columns)
    assert "### Input" not in prompt
    assert "Add {x}." in prompt


def test_repeated_and_empty_references_are_dropped_in_order():
    row = ROWS["triples"]
    template, columns = detect(list(row), [row])
    assert template.render(row, columns)[1] == ["one", "two"]


def test_plain_prompts_keep_their_blanks_and_take_the_completion_s():
    template, columns = TEMPLATES["plain"], {"prompt": "prompt", "completion": "completion"}
    assert template.render({"prompt": "Paris is\n", "completion": "big"}, columns) == ("Paris is\n", ["big"])
    assert template.render({"prompt": "Paris is", "completion": " big"}, columns) == ("Paris is ", ["big"])


def test_the_user_s_text_is_split_at_the_last_column():
    template = custom_template(r"Q: {question}\nA: {answer}")
    columns = template.columns_in(["answer", "question"])
    assert template.render({"question": "why", "answer": "so"}, columns) == ("Q: why\nA: ", ["so"])


@pytest.mark.parametrize("suffix", [".txt", ".json"])
def test_a_template_can_stand_in_a_file(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    as_json = json.dumps({"prompt": "{a} -> ", "completion": "{b}"})
    path.write_text(as_json if suffix == ".json" else "{a} -> {b}\n")
    template = find_template(path)
    assert template.render({"a": "1", "b": "2"}, template.columns_in(["a", "b"])) == ("1 -> ", ["2"])


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("alpacca", "did you mean 'alpaca'"),
        ("no-such-file.txt", "neither a built-in template"),
        ("{question", "columns"),
        ("{a} then {b} and more", "text after the last column"),
        ("{a} {a}", "must not stand in the prompt"),
        ({"prompt": "{a}"}, "exactly the keys"),
        ({"prompt": "{a}", "completion": "{b} {c}"}, "exactly one column"),
        ('{"prompt": ', "not valid JSON"),
    ],
)
def test_a_template_that_cannot_work_is_refused_in_one_line(template, words):
    with pytest.raises(DataError, match=words) as caught:
        find_template(template)
    assert "\n" not in str(caught.value)


def test_unknown_columns_are_answered_with_near_misses_and_what_to_pass():
    message = no_template_message("data.jsonl", ["instrution", "outputs"])
    assert "'instrution' looks like 'instruction'" in message
    assert "'{instrution}\\n{outputs}'" in message
