import json

import pytest
from tests.finetuning.tiny import make_tokenizer, write_jsonl

from ketune.errors import DataError
from ketune.finetuning import load_task
from ketune.finetuning.splits import MAX_HELD_OUT, Example, hold_out, merge_prompts

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def questions(n: int, start: int = 0) -> list[dict]:
    return [{"question": f"what is {i}", "answer": f"number {i}"} for i in range(start, start + n)]


def prompts_of(task) -> dict[str, set[str]]:
    return {name: set(getattr(task, name)["prompt"]) for name in ("train", "validation", "test")}


def assert_no_prompt_in_two_splits(task) -> None:
    prompts = prompts_of(task)
    assert not prompts["train"] & prompts["validation"]
    assert not prompts["train"] & prompts["test"]
    assert not prompts["validation"] & prompts["test"]


def test_one_file_is_split_in_three_and_loses_nothing(tmp_path):
    task = load_task(write_jsonl(tmp_path / "rows.jsonl", questions(50)))
    assert (len(task.train), len(task.validation), len(task.test)) == (41, 4, 5)
    assert_no_prompt_in_two_splits(task)
    assert len(set.union(*prompts_of(task).values())) == 50
    assert task.template == "qa"


def test_the_data_seed_decides_what_is_held_out(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", questions(50))
    first, again, other = load_task(path), load_task(path), load_task(path, seed=1)
    assert first.fingerprint == again.fingerprint
    assert prompts_of(first)["test"] != prompts_of(other)["test"]
    assert first.fingerprint != other.fingerprint


def test_rows_that_share_a_group_are_never_separated(tmp_path):
    rows = [{**row, "story": f"story {i % 12}"} for i, row in enumerate(questions(60))]
    task = load_task(write_jsonl(tmp_path / "rows.jsonl", rows), columns={"context": "story"})
    stories = [{prompt.splitlines()[0] for prompt in prompts} for prompts in prompts_of(task).values()]
    assert not stories[0] & stories[1]
    assert not stories[0] & stories[2]
    assert not stories[1] & stories[2]
    assert any("1 groups held out" in note for note in task.notes)


def test_the_user_can_name_the_group_column(tmp_path):
    rows = [{**row, "kapitel": i % 10} for i, row in enumerate(questions(60))]
    task = load_task(write_jsonl(tmp_path / "rows.jsonl", rows), columns={"group": "kapitel"})
    chapters = [{int(p.split()[3].rstrip("\n")) % 10 for p in prompts} for prompts in prompts_of(task).values()]
    assert sum(len(c) for c in chapters) == 10


def test_evaluation_rows_hold_each_prompt_once_with_all_references(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", questions(20))
    repeated = [
        {"question": f"what is {i}?", "answer": f"{word} {i}"} for i in range(3) for word in ("one", "two", "one")
    ]
    write_jsonl(tmp_path / "test.jsonl", repeated)
    task = load_task(tmp_path)
    assert task.test["references"][:] == [[f"one {i}", f"two {i}"] for i in range(3)]
    assert task.test["completion"][:] == ["one 0", "one 1", "one 2"]
    assert any("9 rows merged to 3 prompts" in note for note in task.notes)


def test_training_has_a_row_per_reference_and_no_repeated_rows(tmp_path):
    rows = [{"mr": f"n[{i}]", "ref": f"text {i} {k}"} for i in range(20) for k in (1, 2, 2)]
    task = load_task(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert len(task.train) == 2 * len(set(task.train["prompt"]))
    assert set(map(len, task.train["references"])) == {1}
    assert any("repeated rows dropped" in note for note in task.notes)


def test_a_prompt_in_two_splits_stays_in_the_test_and_is_noted(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [*questions(20), {"question": "what  is 100", "answer": "else"}])
    write_jsonl(tmp_path / "dev.jsonl", questions(5, start=96))
    write_jsonl(tmp_path / "test.jsonl", questions(5, start=100))
    task = load_task(tmp_path)
    assert_no_prompt_in_two_splits(task)
    assert (len(task.train), len(task.validation), len(task.test)) == (20, 4, 5)
    assert "train: 1 rows dropped, their prompt stands in another split" in task.notes
    assert "validation: 1 rows dropped, their prompt stands in another split" in task.notes


def test_two_sets_of_files_in_a_folder_are_never_mixed(tmp_path):
    write_jsonl(tmp_path / "b_train.jsonl", questions(20, 100))
    write_jsonl(tmp_path / "a_train.jsonl", questions(20))
    write_jsonl(tmp_path / "a_test.jsonl", questions(5, 50))
    write_jsonl(tmp_path / "notes_train.jsonl", [{"text": "just text"}])
    task = load_task(tmp_path)
    assert any("files: test = a_test.jsonl, train = a_train.jsonl" in note for note in task.notes)
    assert any("b_train.jsonl, notes_train.jsonl" in note for note in task.notes)
    other = load_task(tmp_path, train="b_train.jsonl")
    assert len(other.train) + len(other.validation) + len(other.test) == 20


def test_text_alone_is_learned_without_a_prompt(tmp_path):
    task = load_task(write_jsonl(tmp_path / "rows.jsonl", [{"text": f"text {i}", "label": 1} for i in range(20)]))
    assert task.template == "text"
    assert set(task.train["prompt"]) == {""}
    assert len(task.train) + len(task.validation) + len(task.test) == 20


def test_the_limit_is_drawn_by_the_seed_and_noted(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", questions(100))
    task = load_task(path, limit={"train": 7, "test": 3})
    assert (len(task.train), len(task.validation), len(task.test)) == (7, 9, 3)
    assert "train: 7 of 81 rows drawn (limit)" in task.notes
    assert task.train["prompt"][:] != load_task(path, limit=7, seed=5).train["prompt"][:]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 0}, "limit=0"),
        ({"limit": {"dev": 3}}, "'dev'"),
        ({"template": "alpaca"}, "needs the column 'instruction'.*'output'.*found 'question', 'answer'"),
        ({"template": "{question} {anser}"}, "'anser' .did you mean 'answer'"),
        ({"columns": {"question": "frage"}}, "no such column; found 'question', 'answer'"),
        ({"test": "nothing.jsonl"}, "nothing.jsonl: no such file"),
    ],
)
def test_bad_input_is_answered_in_one_line(tmp_path, options, words):
    path = write_jsonl(tmp_path / "rows.jsonl", questions(20))
    with pytest.raises(DataError, match=words) as caught:
        load_task(path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["./nowhere", "/no/such/folder", "missing.jsonl", "builtin:pubs"])
def test_a_source_that_is_not_there_is_named(source):
    with pytest.raises(DataError, match=source):
        load_task(source)


def test_too_few_prompts_for_three_splits_are_refused(tmp_path):
    with pytest.raises(DataError, match="at least three different prompts"):
        load_task(write_jsonl(tmp_path / "rows.jsonl", questions(2)))


def test_rows_without_an_answer_are_dropped_and_noted(tmp_path):
    rows = [*questions(20), {"question": "empty", "answer": " "}, {"question": "none", "answer": None}]
    task = load_task(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert "train: 2 rows dropped, no text in column 'answer'" in task.notes


def test_the_built_in_task_has_several_references_and_three_separate_splits():
    task = load_task()
    assert_no_prompt_in_two_splits(task)
    assert min(map(len, task.test["references"])) >= 3
    assert len(task.train) == sum(1 for _ in task.train)
    assert task.fingerprint == load_task("builtin:inns").fingerprint


def chats(n: int) -> list[dict]:
    return [
        {
            "conversations": [
                {"from": "human", "value": f"hello {i}"},
                {"from": "gpt", "value": f"good day {i}"},
                {"from": "human", "value": "and now?"},
                {"from": "gpt", "value": f"good night {i}"},
            ]
        }
        for i in range(n)
    ]


def test_each_answer_of_a_chat_is_a_row_and_a_chat_stays_in_one_split(tmp_path):
    task = load_task(write_jsonl(tmp_path / "rows.jsonl", chats(20)))
    assert task.template == "chat"
    assert len(task.train) + len(task.validation) + len(task.test) == 40
    numbers = [{prompt.split()[2] for prompt in prompts} for prompts in prompts_of(task).values()]
    assert sum(map(len, numbers)) == 20


def test_chats_are_written_by_the_tokenizer_s_template_with_one_end_of_text(tmp_path):
    tokenizer = make_tokenizer()
    task = load_task(write_jsonl(tmp_path / "rows.jsonl", chats(20)))
    plain = task.render(tokenizer)
    assert plain.train[0]["prompt"].startswith("User: hello")
    assert plain.train[0]["prompt"].endswith("Assistant: ")
    tokenizer.chat_template = CHAT_TEMPLATE
    rendered = task.render(tokenizer)
    row = next(row for row in rendered.train if "and now?" in row["prompt"])
    number = row["prompt"].split("<end>")[0].removeprefix("<|user|>hello ")
    assert row["prompt"] == (
        f"<|user|>hello {number}<end>\n<|assistant|>good day {number}<end>\n<|user|>and now?<end>\n<|assistant|>"
    )
    assert row["completion"] == f"good night {number}"
    assert row["references"] == [f"good night {number}"]
    assert rendered.render(tokenizer) is rendered


def test_a_message_without_content_is_named(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant"}]}] * 3
    with pytest.raises(DataError, match="needs a 'role' and a 'content'"):
        load_task(write_jsonl(tmp_path / "rows.jsonl", rows))


def test_held_out_groups_are_a_tenth_and_never_more_than_the_cap():
    examples = [Example(f"p{i}", (f"r{i}",)) for i in range(20 * MAX_HELD_OUT)]
    stay, held, n_groups = hold_out(examples, seed=0)
    assert (len(held), n_groups) == (MAX_HELD_OUT, MAX_HELD_OUT)
    assert len(stay) + len(held) == len(examples)
    assert hold_out(examples[:1], seed=0) == (examples[:1], [], 0)


def test_prompts_merge_up_to_white_space():
    merged = merge_prompts([Example("a  b", ("x",)), Example("a b\n", ("y", "x")), Example("c", ("z",))])
    assert [(e.prompt, e.references) for e in merged] == [("a  b", ("x", "y")), ("c", ("z",))]


def test_e2e_trains_on_devel_tests_on_test_and_leaves_the_other_form_alone(shared_data):
    task = load_task(shared_data / "e2e-nlg")
    assert "files: validation = cleaned_devel.jsonl, test = cleaned_test.jsonl" in task.notes
    assert any("lora_test.jsonl, lora_valid.jsonl" in note for note in task.notes)
    with open(shared_data / "e2e-nlg" / "cleaned_test.jsonl", encoding="utf-8") as file:
        by_mr: dict[str, list[str]] = {}
        for line in file:
            row = json.loads(line)
            by_mr.setdefault(row["mr"], []).append(row["ref"])
    assert len(task.test) == len(by_mr)
    row = task.test[0]
    assert row["references"] == list(dict.fromkeys(by_mr[row["prompt"].splitlines()[0]]))
    assert_no_prompt_in_two_splits(task)


def test_fairytaleqa_tests_on_val_and_holds_whole_stories_out_of_train(shared_data):
    task = load_task(shared_data / "fairytaleqa")
    assert task.template == "qa"
    assert len(task.test) == 1025
    assert any("train.stories.jsonl" in note for note in task.notes)
    with open(shared_data / "fairytaleqa" / "train.qa.jsonl", encoding="utf-8") as file:
        story_of = {json.loads(line)["section"].strip(): json.loads(line)["story"] for line in file}
    stories = [
        {story_of[prompt.rpartition("\nQuestion: ")[0]] for prompt in task.__getattribute__(split)["prompt"]}
        for split in ("train", "validation")
    ]
    assert not stories[0] & stories[1]
    assert len(stories[1]) == 23


def test_small_instructions_come_in_their_own_splits(shared_data):
    task = load_task(shared_data / "instruct-small-1100")
    assert task.template == "alpaca"
    assert len(task.validation) == 55
    assert_no_prompt_in_two_splits(task)
