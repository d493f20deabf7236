"""One cell, run here instead of in a process of its own."""

from __future__ import annotations

import dataclasses
import math

import pytest
from peft import IA3Config

from ketune.comparison import ComparisonSpec, Result
from ketune.comparison.cells import CellRequest, measure_base, run_cell, run_trial
from ketune.comparison.events import CellPhase, CellProgress
from ketune.comparison.planning import prepare
from ketune.errors import TrainingError
from ketune.finetuning import evaluate_loss, load_base, load_task


@pytest.fixture
def request_for(tiny_folder, tiny_data, tmp_path):
    def build(method, *, seed=0, learning_rate=5e-3, save_steps=0, **fields):
        spec = ComparisonSpec(
            model=str(tiny_folder),
            data=str(tiny_data),
            methods=(method,) if method else (),
            training={"max_steps": 4, "batch_size": 8, "eval_steps": 0, "logging_steps": 1, "save_steps": save_steps},
            n_generate=2,
            max_new_tokens=3,
            n_capacity=2,
            **fields,
        )
        plan = prepare(spec, tmp_path / "out")
        return CellRequest(
            plan=plan,
            out=tmp_path / "out",
            name="job",
            folder=tmp_path / "out" / "cells" / "job",
            experiment=plan.experiments[0],
            seed=seed,
            learning_rate=learning_rate,
            system=(("threads", 1),),
        )

    return build


def ignore(event):
    pass


def test_a_cell_reports_its_phases_and_steps(request_for):
    events = []
    run_cell(request_for("lora"), events.append)
    phases = [event.phase for event in events if isinstance(event, CellPhase)]
    assert phases == ["loading", "training", "evaluating", "measuring capacity"]
    last = [event for event in events if isinstance(event, CellProgress)][-1]
    assert (last.step, last.total) == (4, 4)
    assert last.loss > 0


def test_the_base_is_scored_as_it_is(request_for, tiny_folder, tiny_data):
    found = measure_base(request_for("lora"), ignore)
    model, tokenizer = load_base(str(tiny_folder))
    expected = evaluate_loss(model, tokenizer, load_task(str(tiny_data)).test)
    assert found["test"]["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert len(found["samples"]) == 2


def test_a_cell_without_steps_that_matter_has_the_loss_of_the_base(request_for):
    request = request_for("lora", learning_rate=1e-30)
    result = Result.from_dict(run_cell(request, ignore))
    assert result.ketune.test["loss"] == pytest.approx(measure_base(request, ignore)["test"]["loss"], rel=1e-5)
    assert result.ketune.capacity["hidden"]["relative_norm"] == pytest.approx(0, abs=1e-6)


def test_full_fine_tuning_trains_every_parameter_and_has_no_adapter_configuration(request_for, tiny_model):
    result = Result.from_dict(run_cell(request_for("full", learning_rate=1e-3), ignore))
    n_parameters = sum(parameter.numel() for parameter in tiny_model.parameters())
    assert result.train_info.num_trainable_params == result.train_info.num_total_params == n_parameters
    assert result.run_info.peft_config is None
    assert result.train_info.file_size >= 4 * n_parameters
    weights = result.ketune.capacity["weights"]
    assert set(weights) == {f"model.layers.{i}.self_attn.{name}" for i in (0, 1) for name in ("q_proj", "v_proj")}
    assert all(entry["effective_rank"] > 0 for entry in weights.values())


def test_the_file_size_of_an_adapter_is_that_of_its_weights(request_for):
    result = Result.from_dict(run_cell(request_for("lora"), ignore))
    n_bytes = 4 * result.train_info.num_trainable_params
    assert n_bytes < result.train_info.file_size < n_bytes + 4096  # and a header with the names


def test_another_seed_gives_another_order_and_another_loss(request_for):
    first = run_cell(request_for("lora", seed=0), ignore)["ketune"]["history"]
    request = dataclasses.replace(request_for("lora", seed=1), folder=request_for("lora").folder.with_name("other"))
    other = run_cell(request, ignore)["ketune"]["history"]
    assert [entry["loss"] for entry in first] != [entry["loss"] for entry in other]


def test_any_peft_method_runs_to_a_whole_result(request_for, tmp_path):
    IA3Config(task_type="CAUSAL_LM").save_pretrained(tmp_path / "ia3")
    result = Result.from_dict(run_cell(request_for(None, experiments=(str(tmp_path / "ia3"),)), ignore))
    result.validate()
    assert result.run_info.experiment_name == "ia3/ia3"
    assert result.train_info.num_trainable_params == 2 * (16 + 16 + 48)


def test_training_that_diverges_is_an_error_for_a_cell_and_no_loss_for_a_trial(request_for):
    request = request_for("full", learning_rate=1e25)
    with pytest.raises(TrainingError, match="diverged with learning rate 1e\\+25"):
        run_cell(request, ignore)
    assert math.isnan(run_trial(request, ignore)["eval_loss"])


def test_a_trial_scores_the_validation_split_and_keeps_no_weights(request_for, tiny_data):
    request = request_for("lora")
    trial = run_trial(request, ignore)
    assert trial["learning_rate"] == 5e-3
    assert 0 < trial["eval_loss"] < 10
    assert not list(request.folder.rglob("*.safetensors"))
    test_loss = Result.from_dict(run_cell(request, ignore)).ketune.test["loss"]
    assert trial["eval_loss"] != pytest.approx(test_loss, rel=1e-6)


class Stopped(Exception):
    pass


def test_a_started_cell_goes_on_from_its_checkpoint_to_the_same_loss(request_for):
    straight = Result.from_dict(run_cell(request_for("lora"), ignore))

    def stop_before_evaluation(event):
        if isinstance(event, CellPhase) and event.phase == "evaluating":
            raise Stopped

    request = dataclasses.replace(request_for("lora"), folder=request_for("lora").folder.with_name("stopped"))
    request = dataclasses.replace(
        request,
        plan=dataclasses.replace(
            request.plan,
            spec=dataclasses.replace(request.plan.spec, training=request.plan.spec.training | {"save_steps": 2}),
        ),
    )
    with pytest.raises(Stopped):
        run_cell(request, stop_before_evaluation)
    assert (request.folder / "checkpoints" / "checkpoint-2").exists()
    resumed = Result.from_dict(run_cell(request, ignore))
    assert any("went on from the checkpoint" in note for note in resumed.ketune.notes)
    assert resumed.ketune.test["loss"] == pytest.approx(straight.ketune.test["loss"], rel=1e-5)
    assert len(resumed.ketune.history) == 4
    assert not (request.folder / "checkpoints").exists()


def test_a_quantised_cell_says_how_large_the_tested_model_is(request_for, tiny_folder):
    result = run_cell(request_for("lora", quantization=("roste:w4a8",)), ignore)["ketune"]
    assert result["quantization"] == "roste:w4a8"
    assert result["capacity"]["weights"] is None
    plain, _ = load_base(tiny_folder)
    assert result["size"]["model_bytes"] < 4 * sum(p.numel() for p in plain.parameters())
    assert 4 < result["size"]["bits_per_coded_weight"] < 8


def test_full_fine_tuning_is_quantised_too(request_for):
    result = run_cell(request_for("full", quantization=("ste:w4a16",)), ignore)
    assert result["ketune"]["size"]["bits_per_coded_weight"] < 8
    assert result["run_info"]["peft_config"] is None
