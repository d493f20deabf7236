"""finetune, evaluate, generate and merge, one after the other on a tiny model."""

from __future__ import annotations

import io
import json
import math
import sys

import pytest
from transformers import AutoModelForCausalLM


def refusal(answer, *words: str) -> str:
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.count("\n") == 1, answer.err
    for word in words:
        assert word in answer.err
    return answer.err


# --------------------------------------------------------------------------------------------------------- finetune


def test_finetune_saves_an_adapter_and_says_where(ketune, trained, model_folder, data_folder):
    folder = trained("lora")
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    again = ketune(
        *("finetune", "--model", model_folder, "--data", data_folder, "--method", "lora", "--out", folder),
        *("--steps", "2", "--batch-size", "4", "--training", "save_steps=0"),
    )
    assert again.code == 0
    assert f"saved: {folder / 'adapter'}" in again.out
    assert "LoRA: " in again.out
    assert "step 2/2" in again.err


def test_finetune_prints_json_and_nothing_else_to_standard_output(ketune, tmp_path, model_folder, data_folder):
    found = ketune(
        *("finetune", model_folder, "--data", data_folder, "--method", "qaa", "--out", tmp_path / "run"),
        *("--steps", "3", "--batch-size", "2", "--lr", "0.02", "--budget", "600", "--set", "n_layers=2", "--json"),
        *("--training", "logging_steps=1", "--training", "save_steps=0"),
    ).json
    assert found["method"] == "qaa"
    assert found["learning_rate"] == 0.02
    assert 0 < found["trainable_parameters"] <= 600
    assert [record["step"] for record in found["history"]] == [1, 2, 3]
    assert math.isfinite(found["validation_loss"])
    saved = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert saved["n_layers"] == 2


def test_finetune_uses_the_rate_of_the_method_unless_told(ketune, tmp_path, model_folder, data_folder):
    from ketune.adapters import get_method

    found = ketune(
        *("finetune", model_folder, "--data", data_folder, "--method", "prefix", "--size", "2"),
        *("--out", tmp_path / "run", "--steps", "1", "--training", "save_steps=0", "--json"),
    ).json
    assert found["learning_rate"] == get_method("prefix").at_width(32).learning_rate
    assert found["size"] == 2


def test_a_run_that_diverges_ends_with_exit_code_1(ketune, tmp_path, model_folder, data_folder):
    answer = ketune(
        *("finetune", model_folder, "--data", data_folder, "--method", "full", "--out", tmp_path / "run"),
        *("--steps", "30", "--lr", "1e30", "--training", "grad_norm_clip=0", "--training", "logging_steps=1"),
        *("--training", "warmup_ratio=0", "--training", "save_steps=0"),
    )
    assert answer.code == 1
    assert "smaller --lr" in answer.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "qaaa"], ["'qaaa'", "'qaa'"]),
        (["--set", "target_modules=q_prj"], ["'q_prj'", "'q_proj'"]),
        (["--budget", "5"], ["too small", "at least"]),
        (["--training", "batch_sise=3"], ["'batch_sise'", "'batch_size'"]),
        (["--training", "batch_size=few"], ["batch_size='few'", "a whole number"]),
        (["--batch-size", "0"], ["batch_size=0", ">= 1"]),
        (["--steps", "3", "--epochs", "1"], ["--steps 3", "--epochs 1"]),
        (["--column", "prompt"], ["--column", "name=value"]),
        (["--column", "prompt=frage"], ["frage", "'prompt'"]),
        (["--model", "elsewhere"], ["twice", "elsewhere"]),
        (["--train", "missing.jsonl"], ["missing.jsonl"]),
    ],
)
def test_finetune_answers_bad_input_in_one_line(ketune, tmp_path, model_folder, data_folder, options, words):
    answer = ketune("finetune", model_folder, "--data", data_folder, "--out", tmp_path / "run", *options)
    refusal(answer, *words)


def test_a_model_folder_without_weights_is_answered_in_one_line(ketune, tmp_path, model_folder, data_folder):
    bare = tmp_path / "bare model"
    bare.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_bytes((model_folder / name).read_bytes())
    answer = ketune("finetune", bare, "--data", data_folder, "--out", tmp_path / "run")
    refusal(answer, "no weights", "model.safetensors")


def test_data_without_the_needed_columns_is_answered_in_one_line(ketune, tmp_path, model_folder):
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n1,2\n3,4\n")
    answer = ketune("finetune", model_folder, "--data", rows, "--template", "alpaca", "--out", tmp_path / "run")
    refusal(answer, "rows.csv", "instruction")


# --------------------------------------------------------------------------------------------------------- evaluate


def test_evaluate_scores_an_adapter_and_json_says_the_same(ketune, trained, data_folder):
    options = ["--data", data_folder, "--n-generate", "2", "--max-new-tokens", "3"]
    found = ketune("evaluate", "--adapter", trained("lora"), *options, "--json").json
    scores = found["scores"]
    assert (found["split"], found["n_rows"], found["n_generated"]) == ("test", 6, 2)
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))
    answer = ketune("evaluate", "--adapter", trained("lora") / "adapter", *options, "--samples", "1")
    assert answer.code == 0
    assert f"{scores['loss']:.4f}" in answer.out
    assert "BLEU" in answer.out
    assert answer.out.count("prompt  ") == 1


def test_evaluate_scores_a_model_without_an_adapter(ketune, model_folder, data_folder):
    options = ["--data", data_folder, "--split", "validation", "--n-generate", "0"]
    found = ketune("evaluate", "--model", model_folder, *options, "--json").json
    assert found["n_rows"] == 4
    assert "bleu" not in found["scores"]


def test_evaluate_follows_an_adapter_whose_base_model_moved(ketune, trained, model_folder, data_folder, tmp_path):
    adapter = tmp_path / "moved"
    adapter.mkdir()
    for path in (trained("lora") / "adapter").iterdir():
        (adapter / path.name).write_bytes(path.read_bytes())
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    options = ["evaluate", "--adapter", adapter, "--data", data_folder, "--n-generate", "0"]
    refusal(ketune(*options), "gone", str(adapter))
    assert ketune(*options, "--model", model_folder).code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["adapter", "builtin:base"]),
        (["--adapter", "./nowhere"], ["./nowhere", "ketune finetune --out"]),
        (["--model", "builtin:base", "--split", "tset"], ["'tset'", "'test'"]),
        (["--model", "builtin:base", "--data", "./nowhere.csv"], ["./nowhere.csv"]),
        (["--model", "builtin:base", "--data", "builtin:outs"], ["builtin:outs", "builtin:inns"]),
    ],
)
def test_evaluate_answers_bad_input_in_one_line(ketune, options, words):
    refusal(ketune("evaluate", *options), *words)


# --------------------------------------------------------------------------------------------------------- generate


def test_generate_continues_each_prompt_and_json_pairs_them(ketune, trained):
    options = ["--adapter", trained("lora"), "--max-new-tokens", "4"]
    printed = ketune("generate", *options, "--prompt", "the fox", "--prompt", "[an owl]").out
    found = ketune("generate", *options, "--prompt", "the fox", "--prompt", "[an owl]", "--json").json
    assert [row["prompt"] for row in found] == ["the fox", "[an owl]"]
    assert printed == "".join(row["text"] + "\n" for row in found)  # to the character, tabs and all


def test_generate_reads_standard_input_and_draws_by_the_seed(ketune, model_folder, monkeypatch):
    def texts(*options: str) -> list[str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO('the fox\n{"prompt": "an owl"}\n'))
        rows = ketune("generate", "--model", model_folder, "--max-new-tokens", "8", *options, "--json").json
        assert [row["prompt"] for row in rows] == ["the fox", "an owl"]
        return [row["text"] for row in rows]

    drawn = texts("--temperature", "1.5", "--seed", "1")
    assert drawn == texts("--temperature", "1.5", "--seed", "1")
    assert drawn != texts("--temperature", "1.5", "--seed", "2")
    assert texts() == texts("--seed", "5")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--prompt", "x"], ["adapter"]),
        (["--prompt", "x", "--temperature", "-1"], ["temperature=-1"]),
        (["--prompt", "x", "--max-new-tokens", "0"], ["max_new_tokens=0"]),
    ],
)
def test_generate_answers_bad_input_in_one_line(ketune, model_folder, options, words):
    model = [] if words == ["adapter"] else ["--model", model_folder]
    refusal(ketune("generate", *model, *options), *words)


def test_generate_without_any_prompt_says_how_to_give_one(ketune, model_folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    refusal(ketune("generate", "--model", model_folder), "--prompt", "standard input")


# ------------------------------------------------------------------------------------------------------------ merge


@pytest.mark.parametrize("method", [("lora",), ("qaa", "--set", "readout=amplitudes")])
def test_a_merged_model_needs_neither_peft_nor_ketune_and_has_the_same_loss(
    ketune, trained, data_folder, tmp_path, method
):
    out = tmp_path / "merged model"
    found = ketune("merge", "--adapter", trained(*method), "--out", out, "--json").json
    assert (found["folder"], found["method"]) == (str(out), method[0])
    model = AutoModelForCausalLM.from_pretrained(out)
    assert sum(p.numel() for p in model.parameters()) == found["n_parameters"]
    score = ["--data", data_folder, "--n-generate", "0", "--json"]
    before = ketune("evaluate", "--adapter", trained(*method), *score).json["scores"]["loss"]
    after = ketune("evaluate", "--model", out, *score).json["scores"]["loss"]
    assert after == pytest.approx(before, abs=1e-5)


@pytest.mark.parametrize(
    ("method", "reason"),
    [("qaa", "readout='amplitudes'"), ("prefix", "prefix_tuning"), ("full", "all weights were trained")],
)
def test_what_cannot_be_merged_says_why(ketune, trained, tmp_path, method, reason):
    answer = ketune("merge", "--adapter", trained(method), "--out", tmp_path / "merged")
    refusal(answer, reason)
    assert not list(tmp_path.iterdir())


def test_merge_writes_over_nothing(ketune, trained, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    refusal(ketune("merge", "--adapter", trained("lora"), "--out", tmp_path), "new folder")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_prune_turns_sora_into_a_lora_of_the_same_function(ketune, trained, data_folder, tmp_path):
    out = tmp_path / "pruned"
    answer = ketune("merge", "--adapter", trained("sora"), "--prune", "--out", out)
    assert answer.code == 0
    assert "ranks left" in answer.out
    assert json.loads((out / "adapter_config.json").read_text())["peft_type"] == "LORA"
    score = ["--data", data_folder, "--n-generate", "0", "--json"]
    before = ketune("evaluate", "--adapter", trained("sora"), *score).json["scores"]["loss"]
    after = ketune("evaluate", "--adapter", out, *score).json["scores"]["loss"]
    assert after == pytest.approx(before, abs=1e-5)


def test_only_sora_can_be_pruned(ketune, trained, tmp_path):
    refusal(ketune("merge", "--adapter", trained("lora"), "--prune", "--out", tmp_path / "x"), "only SoRA", "lora")
