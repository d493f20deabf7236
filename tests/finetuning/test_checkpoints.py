import json

import pytest

from ketune.errors import TrainingError
from ketune.finetuning.checkpoints import MARK, RECORD, claim, newest_checkpoint, replace_folder, write_json


def make_checkpoint(output_dir, step, whole=True):
    folder = output_dir / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_text("weights")
    if whole:
        write_json(folder / MARK, {})
    return folder


def test_the_newest_checkpoint_is_the_one_with_the_most_steps_that_is_whole(tmp_path):
    make_checkpoint(tmp_path, 9)
    newest = make_checkpoint(tmp_path, 10)
    make_checkpoint(tmp_path, 11, whole=False)
    assert newest_checkpoint(tmp_path / "checkpoints") == newest
    assert newest_checkpoint(tmp_path / "nowhere") is None


def test_a_claim_keeps_whole_checkpoints_of_the_same_run_and_drops_the_others(tmp_path):
    record = {"seed": 1, "params": {"lr": 0.1}, "targets": {"b", "a"}}
    assert claim(tmp_path, record, resume=True) is None
    whole, broken = make_checkpoint(tmp_path, 3), make_checkpoint(tmp_path, 6, whole=False)
    assert claim(tmp_path, record, resume=True) == whole
    assert not broken.exists()
    assert json.loads((tmp_path / RECORD).read_text())["targets"] == ["a", "b"]


def test_a_claim_refuses_another_run_and_names_each_difference(tmp_path):
    claim(tmp_path, {"seed": 1, "params": {"lr": 0.1, "steps": 5}}, resume=True)
    make_checkpoint(tmp_path, 3)
    with pytest.raises(TrainingError, match=r"lr was 0.1, now 0.2; seed was 1, now 2\)"):
        claim(tmp_path, {"seed": 2, "params": {"lr": 0.2, "steps": 5}}, resume=True)
    (tmp_path / RECORD).unlink()
    with pytest.raises(TrainingError, match=r"checkpoints without run\.json"):
        claim(tmp_path, {}, resume=True)


def test_a_claim_without_resume_starts_over(tmp_path):
    claim(tmp_path, {"seed": 1}, resume=True)
    old = make_checkpoint(tmp_path, 3)
    assert claim(tmp_path, {"seed": 2}, resume=False) is None
    assert not old.exists()


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    target, staged = tmp_path / "adapter", tmp_path / "adapter.tmp"
    for folder, text in ((target, "old"), (staged, "new")):
        folder.mkdir()
        (folder / text).write_text(text)
    replace_folder(staged, target)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert [path.name for path in target.iterdir()] == ["new"]
