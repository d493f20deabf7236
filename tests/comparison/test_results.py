"""One result file: written whole, read back the same, readable by PEFT's tooling, and PEFT's readable by ours."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pandas
import pytest
import torch
from tests.comparison.result_builder import build_result, failed_result, write_folder

from ketune import files
from ketune.comparison.results import Result, ResultError, load_results

# The dtypes that PEFT's method_comparison/processing.py casts its columns to, in the version of 2026 (task MetaMathQA).
PEFT_DTYPES = {
    "experiment_name": "string",
    "model_id": "string",
    "train_config": "string",
    "peft_type": "string",
    "peft_config": "string",
    "accelerator_memory_reserved_avg": int,
    "accelerator_memory_max": int,
    "accelerator_memory_reserved_99th": int,
    "total_time": float,
    "train_time": float,
    "file_size": int,
    "num_trainable_params": int,
    "test_accuracy": float,
    "train_loss": float,
    "train_samples": int,
    "train_total_tokens": int,
    "peft_version": "string",
    "peft_branch": "string",
    "transformers_version": "string",
    "datasets_version": "string",
    "torch_version": "string",
    "bitsandbytes_version": "string",
    "created_at": "string",
}


def read_as_peft_does(folder: Path) -> pandas.DataFrame:
    """Look up every key that PEFT's reader looks up, with plain subscripts as it does, and cast as it casts."""
    rows = []
    for path in folder.glob("*.json"):
        row = json.loads(path.read_text())
        run, train, packages = row["run_info"], row["train_info"], row["meta_info"]["package_info"]
        peft_type = run["peft_config"]["peft_type"] if run["peft_config"] else "full-finetuning"
        if train["status"] != "success":
            continue
        last = train["metrics"][-1]
        taken = {key: value for key, value in (run | train).items() if key in PEFT_DTYPES}
        taken |= {
            "model_id": run["train_config"]["model_id"],
            "peft_type": peft_type,
            "test_accuracy": last["test accuracy"],
            "train_loss": last["train loss"],
            "train_samples": last["train samples"],
            "train_total_tokens": last["train total tokens"],
        }
        taken |= {
            f"{name}_version": packages[f"{name}-version"]
            for name in ("peft", "transformers", "datasets", "torch", "bitsandbytes")
        }
        row["meta_info"]["system_info"]
        rows.append(taken)
    frame = pandas.DataFrame(rows)
    assert set(frame) == set(PEFT_DTYPES)
    frame = frame.astype(PEFT_DTYPES)
    frame["created_at"] = pandas.to_datetime(frame["created_at"])
    return frame


def peft_result(memory_key: str = "accelerator_memory") -> dict:
    """The shape of a file in PEFT's method_comparison/MetaMathQA/results, shortened."""
    return {
        "run_info": {
            "created_at": "2025-06-19T19:15:35+00:00",
            "total_time": 1993.49,
            "experiment_name": "lora/llama-3.2-3B-rank32",
            "peft_branch": "main",
            "train_config": {"model_id": "meta-llama/Llama-3.2-3B", "seed": 0, "optimizer_kwargs": {"lr": 1e-4}},
            "peft_config": {"peft_type": "LORA", "r": 32},
            "error_msg": "",
        },
        "train_info": {
            f"{memory_key}_reserved_avg": 11868689976,
            f"{memory_key}_max": 22273851392,
            f"{memory_key}_reserved_99th": 17710763212,
            "train_time": 1796.18,
            "file_size": 36715216,
            "num_trainable_params": 9175040,
            "num_total_params": 3221924864,
            "status": "success",
            "metrics": [
                {
                    "step": 250,
                    "valid accuracy": 0.34,
                    "train loss": 0.98,
                    "train samples": 1000,
                    "tokens / sec": 6743.6,
                },
                {
                    "step": 5000,
                    "test accuracy": 0.48218347232752085,
                    "train loss": 0.6069052599668503,
                    "train samples": 20000,
                    "train total tokens": 4198051,
                },
            ],
        },
        "meta_info": {
            "model_info": {"sha": "13afe51", "created_at": "2024-09-18T15:23:48+00:00"},
            "dataset_info": {"metamath": {"sha": "aa4f34d", "created_at": "2023-09-21T17:22:46+00:00"}},
            "package_info": {"peft-version": "0.15.2.dev0", "torch-version": "2.7.1+cu126"},
            "system_info": {"system": "Linux", "gpu": "NVIDIA L40S"},
            "pytorch_info": "PyTorch built with: ...",
        },
    }


def test_a_result_comes_back_from_its_file_as_it_went_in(tmp_path):
    result = build_result("qaa", "trained", seed=1)
    path = result.save(tmp_path / result.file_name)
    assert path.name == "qaa--recommended--seed1.json"
    assert Result.load(path) == result


def test_fields_that_this_version_does_not_know_survive_a_round_trip(tmp_path):
    data = build_result("lora").to_dict()
    data["ketune"]["from_the_future"] = {"a": 1}
    data["train_info"]["energy_joule"] = 12.5
    written = Result.from_dict(data).to_dict()
    assert written["ketune"]["from_the_future"] == {"a": 1}
    assert written["train_info"]["energy_joule"] == 12.5


def test_the_written_file_has_the_keys_of_the_contract_in_place(tmp_path):
    data = json.loads(build_result("qaa", "trained").save(tmp_path / "a.json").read_text())
    assert list(data) == ["run_info", "train_info", "meta_info", "ketune"]
    assert data["ketune"]["control"] == "trained"
    assert data["ketune"]["test"]["loss"] == data["train_info"]["metrics"][-1]["train loss"]


def test_peft_tooling_finds_every_key_it_reads_with_the_type_it_casts_to(tmp_path):
    results = [build_result("full"), build_result("lora"), build_result("qaa", "trained"), failed_result()]
    frame = read_as_peft_does(write_folder(tmp_path, results) / "results").set_index("peft_type")
    assert set(frame.index) == {"full-finetuning", "LORA", "QAA"}
    assert frame.loc["LORA", "num_trainable_params"] == 20480
    assert frame.loc["QAA", "experiment_name"] == "qaa/recommended"
    assert math.isnan(frame.loc["QAA", "test_accuracy"])


def test_a_finished_cell_without_a_key_that_peft_reads_is_refused_by_name(tmp_path):
    result = build_result("lora")
    del result.train_info.metrics[-1]["train total tokens"]
    del result.meta_info["package_info"]["bitsandbytes-version"]
    result.train_info.file_size = None
    with pytest.raises(ResultError) as error:
        result.save(tmp_path / "lora.json")
    for name in ("train total tokens", "bitsandbytes-version", "train_info.file_size", "lora--r4--seed0.json"):
        assert name in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_cell_needs_no_measurements(tmp_path):
    loaded = Result.load(failed_result().save(tmp_path / "sora.json"))
    assert not loaded.ok
    assert loaded.run_info.error_msg == "RuntimeError: loss is nan at step 3"


@pytest.mark.parametrize("memory_key", ["accelerator_memory", "cuda_memory"])
def test_results_that_peft_published_are_read_with_what_they_have(tmp_path, memory_key):
    (tmp_path / "lora--llama-3.2-3B-rank32.json").write_text(json.dumps(peft_result(memory_key)))
    (result,) = load_results(tmp_path)
    assert (result.ketune.method, result.ketune.experiment, result.ketune.seed) == ("lora", "llama-3.2-3B-rank32", 0)
    assert result.ketune.learning_rate == 1e-4
    assert result.train_info.accelerator_memory_max == 22273851392
    assert result.last_metrics["test accuracy"] == 0.48218347232752085
    assert result.ketune.test == {}


def test_peft_names_of_full_and_prefix_tuning_become_ours():
    for theirs, ours in {"full-finetuning": "full", "prefixtuning": "prefix", "vera": "vera"}.items():
        data = peft_result()
        data["run_info"]["experiment_name"] = f"{theirs}/x"
        assert Result.from_dict(data).ketune.method == ours


def test_both_spellings_of_a_canceled_cell_are_read_as_pefts():
    for spelling in ("canceled", "cancelled"):
        data = peft_result()
        data["train_info"]["status"] = spelling
        assert Result.from_dict(data).train_info.status == "canceled"


def test_a_half_written_file_is_reported_by_name_and_the_others_are_read(tmp_path, caplog):
    write_folder(tmp_path, [build_result("lora"), build_result("full")])
    whole = (tmp_path / "results" / "lora--r4--seed0.json").read_text()
    (tmp_path / "results" / "qaa--x--seed0.json").write_text(whole[: len(whole) // 2])
    (tmp_path / "results" / "list.json").write_text("[1, 2]")
    (tmp_path / "results" / ".lora--r4--seed1.json.77.tmp").write_text("{")
    problems: list[str] = []
    assert [result.ketune.method for result in load_results(tmp_path, problems)] == ["full", "lora"]
    assert len(problems) == 2
    assert problems[0].startswith("list.json: the file holds list")
    assert problems[1].startswith("qaa--x--seed0.json: not readable as JSON")
    with caplog.at_level(logging.WARNING):
        load_results(tmp_path)
    assert "qaa--x--seed0.json" in caplog.text


def test_a_comparison_before_its_first_cell_has_no_results_and_no_problems(tmp_path):
    (tmp_path / "comparison.json").write_text("{}")
    problems: list[str] = []
    assert load_results(tmp_path, problems) == []
    assert problems == []


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ResultError, match=r"no folder .*nowhere.*ketune compare"):
        load_results(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("train_info", "status", "done", "train_info.status is 'done'; choose one of 'success', 'failed', 'canceled'"),
        (
            "train_info",
            "num_trainable_params",
            "12",
            "train_info.num_trainable_params is str '12'; expected int or null",
        ),
        ("ketune", "control", "off", "ketune.control is 'off'; choose one of None, 'trained'"),
        ("ketune", "history", {}, "ketune.history is dict '{}'; expected list"),
        ("ketune", "seed", True, "ketune.seed is bool 'True'; expected int"),
        ("ketune", "method", "", "no method"),
        ("run_info", "peft_config", "lora", "run_info.peft_config is str 'lora'; expected dict or null"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(section, key, value, message):
    data = build_result("qaa", "trained").to_dict()
    data[section][key] = value
    with pytest.raises(ResultError) as error:
        Result.from_dict(data)
    assert message in str(error.value)


@pytest.mark.parametrize("section", ["run_info", "train_info", "meta_info"])
def test_a_missing_section_is_named(section):
    data = build_result("lora").to_dict()
    del data[section]
    with pytest.raises(ResultError, match=f"'{section}' is missing; expected a JSON object"):
        Result.from_dict(data)


def test_numbers_that_json_cannot_hold_become_null_with_a_note_that_names_them(tmp_path):
    result = build_result("lora")
    result.ketune.test["perplexity"] = math.inf
    result.ketune.history[1]["loss"] = math.nan
    path = result.save(tmp_path / "lora.json")
    assert "NaN" not in path.read_text()
    loaded = Result.load(path)
    assert loaded.ketune.test["perplexity"] is None
    assert loaded.ketune.notes == [
        "Not a finite number, written as null: ketune.history[1].loss, ketune.test.perplexity."
    ]
    assert result.ketune.notes == []


def test_numbers_of_torch_are_written_as_numbers(tmp_path):
    result = build_result("lora")
    result.ketune.test["loss"] = torch.tensor(0.25)
    result.train_info.metrics[-1]["train loss"] = torch.tensor(math.nan)
    loaded = Result.load(result.save(tmp_path / "lora.json"))
    assert loaded.ketune.test["loss"] == 0.25
    assert loaded.last_metrics["train loss"] is None


def test_sets_in_a_peft_config_are_written_sorted(tmp_path):
    result = build_result("lora")
    assert result.run_info.peft_config is not None
    result.run_info.peft_config["target_modules"] = {"v_proj", "q_proj"}
    loaded = Result.load(result.save(tmp_path / "lora.json"))
    assert loaded.run_info.peft_config is not None
    assert loaded.run_info.peft_config["target_modules"] == ["q_proj", "v_proj"]


def test_a_kill_while_writing_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "lora.json"
    build_result("lora", learning_rate=1.0).save(path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        build_result("lora", learning_rate=2.0).save(path)
    assert Result.load(path).ketune.learning_rate == 1.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["lora.json"]
