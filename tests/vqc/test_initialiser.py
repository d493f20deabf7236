"""Learned starts as files: a round trip, and what damaged files are answered with."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ketune.circuits import ry_ring
from ketune.vqc import INITIALISERS, Initialiser, InitialiserError, load_initialiser


class Scaled(Initialiser):
    kind = "test-scaled"

    def __init__(self, n_task: int) -> None:
        super().__init__()
        self.n_task = n_task
        self.map = nn.Linear(n_task, 1)

    def forward(self, circuit, task):
        return self.map(task).expand(*task.shape[:-1], circuit.n_angles)

    def settings(self):
        return {"n_task": self.n_task}


def test_a_start_comes_back_from_its_file(tmp_path):
    start = Scaled(3)
    start.save(tmp_path / "deep" / "start.safetensors")
    again = load_initialiser(tmp_path / "deep" / "start.safetensors")
    task = torch.randn(2, 3)
    assert isinstance(again, Scaled)
    assert torch.equal(start(ry_ring(4), task), again(ry_ring(4), task))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["start.safetensors"]


def test_files_that_hold_no_start_are_refused_with_a_reason(tmp_path):
    with pytest.raises(InitialiserError, match="no file of a learned start"):
        load_initialiser(tmp_path / "missing.safetensors")
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(InitialiserError, match="no file of a learned start"):
        load_initialiser(tmp_path / "pickle.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InitialiserError, match="known kinds are"):
        load_initialiser(tmp_path / "other.safetensors")


def test_damaged_weights_are_refused(tmp_path):
    assert INITIALISERS["test-scaled"] is Scaled
    file = tmp_path / "start.safetensors"
    metadata = {"kind": "test-scaled", "settings": '{"n_task": 3}'}
    save_file({"map.weight": torch.zeros(1, 4), "map.bias": torch.zeros(1)}, file, metadata)
    with pytest.raises(InitialiserError, match="damaged"):
        load_initialiser(file)
    save_file({"map.weight": torch.full((1, 3), torch.nan), "map.bias": torch.zeros(1)}, file, metadata)
    with pytest.raises(InitialiserError, match="not finite"):
        load_initialiser(file)
