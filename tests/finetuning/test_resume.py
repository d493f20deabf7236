"""A run that is killed and started again ends where an uninterrupted one ends."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig
from safetensors.torch import load_file
from tests.finetuning.tiny import make_model, make_tokenizer

from ketune import QAAConfig, QPAConfig, QPAPrefixConfig, QuantumPeftConfig, QuicConfig, SoraConfig
from ketune.errors import TrainingError
from ketune.finetuning import TrainingParams, finetune
from ketune.finetuning.checkpoints import MARK, newest_checkpoint

PARAMS = TrainingParams(
    max_steps=10, batch_size=8, learning_rate=1e-2, logging_steps=1, eval_steps=5, save_steps=3, device="cpu"
)
TARGETS = ["q_proj", "v_proj"]
ADAPTERS = {
    "lora": LoraConfig(r=4, target_modules=TARGETS, lora_dropout=0.2),
    "prefix": PrefixTuningConfig(num_virtual_tokens=4),
    "qaa": QAAConfig(target_modules=TARGETS),
    "sora": SoraConfig(r=4, target_modules=TARGETS),
    "quantum_peft": QuantumPeftConfig(target_modules=TARGETS, seed=5),
    "quic": QuicConfig(target_modules=TARGETS, n_chained=2),
    "qpa": QPAConfig(target_modules=TARGETS, chunk=64),
    "qpa prefix": QPAPrefixConfig(num_virtual_tokens=4, chunk=64),
    "full": None,
}

KILLED = """
import os, signal, sys
from transformers import TrainerCallback
from ketune.finetuning import TrainingParams, finetune, load_task
from peft import LoraConfig

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 8:
            os.kill(os.getpid(), signal.SIGKILL)

model, data, out, params = sys.argv[1:]
finetune(model, load_task(data), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.2), output_dir=out,
         params=TrainingParams.load(params), progress=False, callbacks=[Kill()])
"""


class Interrupted(Exception):
    pass


def stop_at(step):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise Interrupted

    return Stop()


def run(task, folder, adapter, params=PARAMS, seed=0, **options):
    return finetune(
        make_model("llama"),
        task,
        adapter,
        output_dir=folder,
        tokenizer=make_tokenizer(),
        params=params,
        seed=seed,
        progress=False,
        **options,
    )


def assert_same_run(first, second):
    (a,), (b,) = (list(result.adapter_dir.glob("*.safetensors")) for result in (first, second))
    for name, value in load_file(a).items():
        torch.testing.assert_close(load_file(b)[name], value, rtol=0, atol=1e-5)
    assert [r["step"] for r in first.history] == [r["step"] for r in second.history]
    for one, other in zip(first.history, second.history):
        assert one["tokens"] == other["tokens"]
        for key in ("loss", "eval_loss", "learning_rate"):
            assert one.get(key) == pytest.approx(other.get(key), abs=1e-5), (one["step"], key)
    assert first.tokens_seen == second.tokens_seen


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(task, tmp_path, name):
    whole = run(task, tmp_path / "whole", ADAPTERS[name])
    with pytest.raises(Interrupted):
        run(task, tmp_path / "cut", ADAPTERS[name], callbacks=[stop_at(8)])
    assert not (tmp_path / "cut" / "adapter").exists()
    resumed = run(task, tmp_path / "cut", ADAPTERS[name])
    assert any("went on from the checkpoint at step 6" in note for note in resumed.notes)
    assert_same_run(whole, resumed)


@pytest.mark.slow
def test_a_killed_process_loses_only_the_steps_after_its_checkpoint(llama_folder, tmp_path):
    data = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"fox {i}\n", "completion": f"a red apple {i}"} for i in range(50)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    PARAMS.save(tmp_path / "params.json")
    arguments = [str(llama_folder), str(data), str(tmp_path / "cut"), str(tmp_path / "params.json")]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert newest_checkpoint(tmp_path / "cut" / "checkpoints").name == "checkpoint-6"

    def go(folder: Path):
        return finetune(
            str(llama_folder), str(data), ADAPTERS["lora"], output_dir=folder, params=PARAMS, progress=False
        )

    assert_same_run(go(tmp_path / "whole"), go(tmp_path / "cut"))


def test_a_checkpoint_that_a_kill_cut_short_is_passed_over(task, tmp_path):
    whole = run(task, tmp_path / "whole", ADAPTERS["lora"])
    with pytest.raises(Interrupted):
        run(task, tmp_path / "cut", ADAPTERS["lora"], callbacks=[stop_at(8)])
    (tmp_path / "cut" / "checkpoints" / "checkpoint-6" / MARK).unlink()
    resumed = run(task, tmp_path / "cut", ADAPTERS["lora"])
    assert any("at step 3" in note for note in resumed.notes)
    assert_same_run(whole, resumed)


def test_a_run_that_was_through_only_loads_its_weights(task, tmp_path):
    first = run(task, tmp_path, ADAPTERS["lora"])
    shutil.rmtree(tmp_path / "adapter")
    again = run(task, tmp_path, ADAPTERS["lora"], callbacks=[stop_at(1), stop_at(10), stop_at(11)])
    assert_same_run(first, again)
    assert again.train_seconds == first.train_seconds
    assert again.step_seconds_median == first.step_seconds_median


def test_another_run_s_checkpoints_are_refused_with_what_differs(task, tmp_path):
    run(task, tmp_path, ADAPTERS["lora"])
    with pytest.raises(TrainingError, match=r"learning_rate was 0.01, now 0.1; seed was 0, now 1"):
        run(task, tmp_path, ADAPTERS["lora"], PARAMS.replace(learning_rate=0.1), seed=1)
    with pytest.raises(TrainingError, match=r"r was 4, now 8"):
        run(task, tmp_path, LoraConfig(r=8, target_modules=TARGETS, lora_dropout=0.2))
    fresh = run(task, tmp_path, ADAPTERS["lora"], PARAMS.replace(learning_rate=0.1), seed=1, resume=False)
    assert not any("went on" in note for note in fresh.notes)


def test_settings_that_do_not_change_what_is_learned_may_change(task, tmp_path):
    with pytest.raises(Interrupted):
        run(task, tmp_path, ADAPTERS["lora"], callbacks=[stop_at(8)])
    resumed = run(task, tmp_path, ADAPTERS["lora"], PARAMS.replace(save_steps=2, batch_size_eval=1))
    assert any("went on" in note for note in resumed.notes)


def test_checkpoints_are_few_and_hold_no_pickled_arguments(task, tmp_path):
    run(task, tmp_path, ADAPTERS["lora"])
    folders = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert folders == ["checkpoint-10", "checkpoint-9"]
    names = {path.name for path in (tmp_path / "checkpoints" / "checkpoint-10").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "trainer_state.json", MARK} <= names
    assert "training_args.bin" not in names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "checkpoints", "run.json"]
