"""Experiment folders: ours are PEFT's layout, and any PEFT adapter configuration can join."""

from __future__ import annotations

import json

import pytest
from peft import IA3Config, LoraConfig, PeftConfig

from ketune.adapters import QAAConfig
from ketune.comparison.experiments import (
    Experiment,
    ExperimentError,
    around,
    read_config,
    read_user_experiment,
    training_to_peft,
    unique_names,
    write_experiment,
)


def folder_with(tmp_path, config=None, training=None, name="mine"):
    folder = tmp_path / name
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        config.save_pretrained(folder)
    if training is not None:
        (folder / "training_params.json").write_text(json.dumps(training))
    return folder


def test_a_written_experiment_is_read_by_peft_itself(tmp_path):
    experiment = Experiment("qaa", "default", 5e-3)
    write_experiment(tmp_path, experiment, QAAConfig(n_layers=2), {"max_steps": 9, "max_length": 64}, "some/model")
    folder = tmp_path / "experiments" / "qaa" / "default"
    assert PeftConfig.from_pretrained(str(folder)).n_layers == 2
    training = json.loads((folder / "training_params.json").read_text())
    assert training["model_id"] == "some/model"
    assert training["max_steps"] == 9
    assert training["max_seq_length"] == 64
    assert training["optimizer_kwargs"]["lr"] == 5e-3


def test_training_params_hold_nothing_that_pefts_own_reader_refuses():
    """PEFT's `TrainConfig(**params)` takes these fields and no others (method_comparison/MetaMathQA/utils.py)."""
    theirs = {"model_id", "dtype", "max_seq_length", "batch_size", "batch_size_eval", "max_steps", "eval_steps"}
    theirs |= {"compile", "use_gc", "query_template", "seed", "grad_norm_clip", "optimizer_type", "optimizer_kwargs"}
    theirs |= {"lr_scheduler", "use_amp", "autocast_adapter_dtype", "generation_kwargs", "attn_implementation"}
    theirs |= {"init_kv_cache_prefix"}
    from ketune.finetuning import TrainingParams

    assert set(training_to_peft(TrainingParams().to_dict(), Experiment("lora", "default", 1e-3), "m")) <= theirs


def test_full_fine_tuning_is_a_folder_without_an_adapter_configuration(tmp_path):
    experiment = Experiment("full", "default", 1e-4)
    write_experiment(tmp_path, experiment, None, {}, "m")
    assert not (tmp_path / experiment.path / "adapter_config.json").exists()
    assert read_config(tmp_path / experiment.path) is None


def test_a_users_folder_brings_its_method_name_rate_and_decay(tmp_path):
    training = {"optimizer_kwargs": {"lr": 2e-3, "weight_decay": 0.1}, "max_steps": 5000}
    folder = folder_with(tmp_path, IA3Config(task_type="CAUSAL_LM"), training)
    experiment, config = read_user_experiment(folder, 1e-3, ())
    assert isinstance(config, IA3Config)
    assert (experiment.method, experiment.name) == ("ia3", "mine")
    assert experiment.learning_rate == 2e-3
    assert experiment.weight_decay == 0.1
    assert any("max_steps" in note for note in experiment.notes)


def test_a_folder_in_pefts_layout_gives_its_method_by_its_place(tmp_path):
    folder = folder_with(tmp_path, LoraConfig(), name="experiments/dora/llama-rank32")
    experiment, _ = read_user_experiment(folder, 1e-3, ())
    assert experiment.id == "dora--llama-rank32"


def test_a_folder_without_a_rate_says_which_one_was_used(tmp_path):
    experiment, _ = read_user_experiment(folder_with(tmp_path, LoraConfig()), 3e-3, ())
    assert experiment.learning_rate == 3e-3
    assert any("0.003" in note for note in experiment.notes)


def test_a_configuration_saved_with_a_trained_adapter_becomes_trainable_again(tmp_path):
    folder = folder_with(tmp_path, LoraConfig(inference_mode=True))
    assert read_user_experiment(folder, 1e-3, ())[1].inference_mode is False


def test_with_tuning_a_users_own_rate_lies_in_the_middle_of_as_many_trials(tmp_path):
    folder = folder_with(tmp_path, LoraConfig(), {"optimizer_kwargs": {"lr": 2e-3}})
    experiment, _ = read_user_experiment(folder, 1e-3, around(1e-3, 3))
    assert len(experiment.learning_rates) == 3
    assert sorted(experiment.learning_rates)[1] == 2e-3


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no adapter_config.json"),
        ({"adapter_config.json": "{broken"}, "not readable as JSON|not an adapter configuration"),
        ({"adapter_config.json": "{}"}, "peft_type"),
        ({"adapter_config.json": '{"peft_type": "MAGIC"}'}, "'MAGIC'"),
        ({"adapter_config.json": '{"peft_type": "LORA"}', "training_params.json": "[1]"}, "JSON object"),
        (
            {"adapter_config.json": '{"peft_type": "LORA"}', "training_params.json": '{"optimizer_type": "lora+"}'},
            "AdamW",
        ),
        (
            {
                "adapter_config.json": '{"peft_type": "LORA"}',
                "training_params.json": '{"optimizer_kwargs": {"lr": -1}}',
            },
            "positive",
        ),
    ],
)
def test_a_folder_that_cannot_join_is_refused_in_one_line(tmp_path, files, said):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ExperimentError, match=said) as caught:
        read_user_experiment(tmp_path, 1e-3, ())
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ExperimentError, match="does not exist"):
        read_user_experiment(tmp_path / "nowhere", 1e-3, ())


def test_names_that_occur_twice_are_told_apart():
    experiments = [Experiment("lora", name, 1e-3) for name in ("default", "Default", "default", "other")]
    assert [e.name for e in unique_names(experiments)] == ["default", "Default-2", "default-3", "other"]


def test_names_never_hold_the_separator_of_file_names(tmp_path):
    folder = folder_with(tmp_path, LoraConfig(), name="rank--8 (new)")
    assert read_user_experiment(folder, 1e-3, ())[0].name == "rank-8-new"


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_rates_around_one_rise_and_hold_it(n):
    rates = around(5e-3, n)
    assert len(set(rates)) == n
    assert list(rates) == sorted(rates)
    assert 5e-3 in rates
