from __future__ import annotations

import json

import pytest
from transformers import GPTNeoConfig

SIZES = {"125m": (768, 12, 12), "1.3b": (2048, 24, 16)}


@pytest.fixture(scope="module")
def gpt_neo(tmp_path_factory):
    """Config files of GPT-Neo, without weights."""
    folder = tmp_path_factory.mktemp("gpt neo")

    def path(size: str):
        width, layers, heads = SIZES[size]
        config = GPTNeoConfig(
            hidden_size=width,
            num_layers=layers,
            num_heads=heads,
            attention_types=[[["global", "local"], layers // 2]],
        )
        config.save_pretrained(folder / size)
        return folder / size / "config.json"

    return path


def test_the_published_counts_come_from_a_config_without_weights(ketune, gpt_neo):
    rows = ketune("methods", "--model", gpt_neo("125m"), "--json").json["methods"]
    counts = {(row["name"], row["preset"]): row["trainable_parameters"] for row in rows}
    assert counts["lora", None] == 294_912
    assert counts["qaa", "published"] == 202_992


@pytest.mark.parametrize(
    ("size", "options", "count"),
    [
        ("125m", ["--preset", "published", "--set", "up_bias=false"], 184_560),
        ("125m", ["--set", "ansatz=ry_ring", "--set", "up_bias=false"], 184_560),
        ("125m", ["--set", "ansatz=ry_ring", "--set", "up_bias=true"], 202_992),
        ("1.3b", ["--preset", "published"], 1_180_176),
    ],
)
def test_the_counts_of_qaa_are_those_of_the_paper(ketune, gpt_neo, size, options, count):
    answer = ketune("methods", "--model", gpt_neo(size), "--method", "qaa", *options, "--json")
    (row,) = answer.json["methods"]
    assert row["trainable_parameters"] == count
    assert answer.err == ""


def test_the_table_shows_what_json_says(ketune, model_folder):
    answer = ketune("methods", "--model", model_folder)
    found = ketune("methods", "--model", model_folder, "--json").json
    assert f"{found['n_parameters']:,} parameters" in answer.out
    lines = answer.out.splitlines()
    for row in found["methods"]:
        name = row["name"] + (f" --preset {row['preset']}" if row["preset"] else "")
        line = next(line for line in lines if line.startswith(f"{name}  "))
        assert f"{row['trainable_parameters']:,}" in line
        assert f"{row['learning_rate']:g}" in line
        assert row["citation"] in answer.out


def test_a_budget_sizes_each_method_below_it(ketune, model_folder):
    found = ketune("methods", "--model", model_folder, "--budget", "600", "--json").json
    assert found["budget"] == 600
    counts = {row["name"]: row["trainable_parameters"] for row in found["methods"] if row["name"] != "full"}
    assert all(count is None or count <= 600 for count in counts.values())
    assert any(count is not None and count > 500 for count in counts.values())


def test_a_method_that_the_budget_leaves_out_says_what_it_needs(ketune, model_folder):
    answer = ketune("methods", "--model", model_folder, "--budget", "100")
    assert answer.code == 0
    assert "lora: a budget of 100 trainable parameters is too small" in answer.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "qaaa"], ["'qaaa'", "did you mean 'qaa'"]),
        (["--method", "qaa", "--set", "anzatz=ry_ring"], ["'anzatz'", "did you mean 'ansatz'"]),
        (["--method", "qaa", "--set", "ansatz=ry_rin"], ["'ry_rin'", "did you mean 'ry_ring'"]),
        (["--method", "qaa", "--set", "n_layers=two"], ["n_layers='two'", "a whole number"]),
        (["--method", "qaa", "--set", "n_layers"], ["'n_layers'", "name=value"]),
        (["--method", "qaa", "--preset", "best"], ["'best'", "published"]),
        (["--method", "qaa", "--control", "frosen"], ["'frosen'", "'frozen'"]),
        (["--method", "qaa", "--budget", "3"], ["too small", "at least"]),
        (["--method", "qaa", "--budget", "much"], ["'much'", "0.1%"]),
        (["--method", "qaa", "--budget", "1%", "--size", "2"], ["size=2", "one of them"]),
        (["--method", "lora", "--set", "target_modules=q_prj,v_proj"], ["'q_prj'", "'q_proj'"]),
        (["--method", "full", "--size", "3"], ["full", "size"]),
        (["--size", "3"], ["--method"]),
    ],
)
def test_bad_input_is_answered_in_one_line_that_helps(ketune, model_folder, options, words):
    answer = ketune("methods", "--model", model_folder, *options)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    for word in words:
        assert word in answer.err


def test_a_model_that_is_not_there_is_answered_in_one_line(ketune, tmp_path):
    answer = ketune("methods", "--model", tmp_path / "nothing here")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "nothing here" in answer.err


def test_json_holds_the_config_of_the_adapter(ketune, model_folder):
    options = ["--method", "lora", "--size", "3", "--set", "target_modules=q_proj,v_proj"]
    (row,) = ketune("methods", "--model", model_folder, *options, "--json").json["methods"]
    assert (row["size"], row["config"]["r"]) == (3, 3)
    assert row["config"]["target_modules"] == ["q_proj", "v_proj"]
    assert json.dumps(row)
