"""quantize: a model becomes codes, and the command says what that costs."""

from __future__ import annotations

import json

import pytest
from tests.cli.test_training_commands import refusal
from transformers import AutoModelForCausalLM

from ketune.quantization import CodedLinear

ROWS = ["--limit", "4", "--batch-size", "2"]


def test_the_default_rounds_and_the_written_model_loads_and_scores(ketune, model_folder, data_folder, tmp_path):
    out = tmp_path / "quantised model"
    answer = ketune("quantize", model_folder, "--data", data_folder, *ROWS, "--out", out)
    assert answer.code == 0, answer.err
    assert answer.out.startswith("w4a16, rounding: nearest, rotations: none\n")
    for word in ("size", "bits per weight", "validation loss, 4 rows", "relative error of the weights: mean"):
        assert word in answer.out
    assert "_proj)" in answer.out  # the worst layer
    assert f"saved: {out}\n" in answer.out
    assert answer.out.endswith(f"next:  ketune evaluate --model '{out}' --data {data_folder}\n")
    assert answer.err.splitlines()[:2] == ["loss before", "loss after"]
    model = AutoModelForCausalLM.from_pretrained(out)
    assert isinstance(model.model.layers[0].self_attn.q_proj, CodedLinear)
    score = ["--data", data_folder, "--split", "validation", "--n-generate", "0", "--json"]
    found = ketune("evaluate", "--model", out, *score).json["scores"]["loss"]
    assert f" {found:.4f}\n" in answer.out


def test_json_holds_what_the_table_shows(ketune, model_folder, data_folder, tmp_path):
    options = ["--bits", "w3a8kv8", "--rounding", "gptq", "--rotations", "adaptive", "--calibration", "6"]
    answer = ketune(
        "quantize",
        "-m",
        model_folder,
        *options,
        "-d",
        data_folder,
        *ROWS,
        "--split",
        "test",
        "-o",
        tmp_path / "q",
        "--json",
    )
    found = answer.json
    assert (found["bits"], found["rounding"], found["folder"]) == ("w3a8kv8", "gptq", str(tmp_path / "q"))
    assert (found["split"], found["n_rows"]) == ("test", 4)
    assert found["rotations"]["n_prompts"] == 6
    assert {choice["kind"] for choice in found["rotations"]["choices"]} == {"R1", "R2", "R3", "R4"}
    assert max(found["errors"].values()) == found["worst_error"] == found["errors"][found["worst_layer"]]
    assert 3 < found["bits_per_coded_weight"] < found["bits_per_weight"] < 32
    for phase in ("choosing rotations", "inputs of the layers", "rounding"):
        assert phase in answer.err.splitlines()


def test_without_data_there_is_no_loss(ketune, model_folder, tmp_path):
    answer = ketune("quantize", model_folder, "--bits", "w8a16", "--out", tmp_path / "q")
    assert answer.code == 0, answer.err
    assert "loss" not in answer.out
    assert answer.out.endswith(" --data DATA\n")
    assert answer.err == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bits", "4"], ["'4'", "w4a16"]),
        (["--bits", "w9a16"], ["bits=9", "1 to 8"]),
        (["--bits", "w16a4"], ["w16a4", "nothing is stored as codes"]),
        (["--bits", "w4a16g7"], ["group_size=7", "choose a divisor"]),
        (["--clip", "0"], ["clip=0", "above 0"]),
        (["--rounding", "up"], ["'up'", "'nearest'", "'gptq'"]),
        (["--rotations", "sometimes"], ["'sometimes'", "'adaptive'"]),
        (["--rotations", "adaptive"], ["rotations='adaptive'", "pass data"]),
        (["--rounding", "gptq"], ["rounding='gptq'", "pass data"]),
        (["--range", "best"], ["range='best'", "'mse'"]),
        (["--outliers", "2"], ["outliers=2.0", "below 1"]),
        (["--rounding", "gptq", "--outliers", "0.1", "--data", "builtin:inns"], ["outliers", "gptq"]),
        (["--data", "builtin:inns", "--split", "train"], ["split='train'", "'validation'"]),
        (["--data", "builtin:inns", "--calibration", "0"], ["n_calibration=0"]),
        (["--data", "./nowhere.csv"], ["./nowhere.csv"]),
        (["--model", "./another"], ["named twice"]),
    ],
)
def test_bad_input_is_answered_in_one_line_and_writes_nothing(ketune, model_folder, tmp_path, options, words):
    refusal(ketune("quantize", model_folder, *options, "--out", tmp_path / "q"), *words)
    assert not list(tmp_path.iterdir())


def test_an_adapter_is_no_model_and_codes_are_not_quantised_again(ketune, trained, model_folder, tmp_path):
    refusal(ketune("quantize", trained("lora") / "adapter", "--out", tmp_path / "q"), "holds an adapter")
    assert ketune("quantize", model_folder, "--out", tmp_path / "q").code == 0
    refusal(ketune("quantize", tmp_path / "q", "--out", tmp_path / "again"), "quantised already", "full precision")
    assert [path.name for path in tmp_path.iterdir()] == ["q"]


def test_quantize_writes_over_nothing(ketune, model_folder, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    refusal(ketune("quantize", model_folder, "--out", tmp_path), "new folder")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_was_merged_can_be_quantised(ketune, trained, tmp_path):
    assert ketune("merge", "--adapter", trained("lora"), "--out", tmp_path / "merged").code == 0
    answer = ketune("quantize", tmp_path / "merged", "--out", tmp_path / "q", "--json")
    assert answer.code == 0, answer.err
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "ketune"
