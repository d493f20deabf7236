from __future__ import annotations

import os

import pytest

from ketune.cli import _options as options


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", (0, 1, 2)), ("1", (0,)), ("5,", (5,)), ("0,1,2", (0, 1, 2)), (" 4 , 7 ", (4, 7))]
)
def test_seeds_are_a_number_of_them_or_a_list(text, seeds):
    assert options.parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1,x", "2.5", "100000"])
def test_other_seeds_are_refused_with_both_ways_to_write_them(text):
    with pytest.raises(options.OptionError, match=r"--seeds .* how many \(3\)"):
        options.parse_seeds(text)


def test_names_are_split_at_commas():
    assert options.split_list("--methods", " lora, qaa,,") == ("lora", "qaa")
    with pytest.raises(options.OptionError, match="--methods ' , '"):
        options.split_list("--methods", " , ")


def test_rates_are_numbers_by_method():
    assert options.parse_rates("--lr", ["lora=1e-3", "qaa = 0.01"]) == {"lora": 1e-3, "qaa": 0.01}
    assert options.parse_rates("--lr", None) == {}


@pytest.mark.parametrize("texts", [["lora"], ["=1"], ["lora="], ["lora=fast"], ["lora=1", "lora=2"]])
def test_other_rates_are_refused(texts):
    with pytest.raises(options.OptionError, match="--lr"):
        options.parse_rates("--lr", texts)


def test_the_home_folder_is_spelled_out_and_nothing_else_changes(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert options.expand("~/my models/x") == "/home/ada/my models/x"
    assert options.expand("builtin:base") == "builtin:base"
    assert options.expand("owner/name") == "owner/name"
    assert options.expand_optional(None) is None


@pytest.mark.parametrize(
    ("model", "data", "folder"),
    [
        ("builtin:base", "builtin:inns", "base-inns"),
        ("../shared/tiny/", "my rows.jsonl", "tiny-my rows"),
        ("owner/name", "owner/set:config", "name-set"),
    ],
)
def test_a_comparison_goes_to_a_folder_named_after_model_and_data(model, data, folder):
    assert options.default_folder(model, data) == os.path.join("runs", folder)


def test_prompts_are_lines_or_rows_of_jsonl():
    lines = ["Once upon\n", "\n", '{"prompt": "a\\nb", "completion": "c"}\n', "[1, 2]\n", '{"x": 1}']
    assert options.read_prompts(lines) == ["Once upon", "a\nb", "[1, 2]", '{"x": 1}']
    with pytest.raises(options.OptionError, match="no prompt"):
        options.read_prompts(["\n"])


def test_a_file_is_written_whole_or_refused_in_one_line(tmp_path):
    options.write_file(str(tmp_path / "a b.txt"), "ü")
    assert (tmp_path / "a b.txt").read_bytes() == "ü".encode()
    with pytest.raises(options.OptionError, match="cannot be written"):
        options.write_file(str(tmp_path / "missing" / "x"), b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["a b.txt"]


def test_only_given_options_are_kept():
    assert options.given(a=0, b=None, c=False) == {"a": 0, "c": False}
