"""The rates of the cost model are measured, kept and read."""

import json

import pytest
import torch

from ketune.circuits import _costs, calibrate


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _costs.current_rates.cache_clear()
    yield tmp_path / "ketune"
    _costs.current_rates.cache_clear()


def test_measured_rates_are_kept_and_used(folder):
    threads = torch.get_num_threads()
    rates = calibrate()
    assert min(rates.turn_ns, rates.row_ns, rates.product_ns) > 0
    assert _costs.current_rates() == rates
    assert len(list(folder.iterdir())) == 1
    assert torch.get_num_threads() == threads


def test_measuring_can_leave_no_trace(folder):
    calibrate(keep=False)
    assert not folder.exists()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"turn_ns": -1, "row_ns": 1, "product_ns": 1}'])
def test_a_broken_file_is_as_none(folder, text):
    folder.mkdir()
    _costs._file().write_text(text)
    assert _costs.current_rates() == _costs.Rates()


def test_a_kept_file_is_plain_json(folder):
    calibrate()
    (path,) = folder.iterdir()
    assert set(json.loads(path.read_text())) == {"turn_ns", "row_ns", "product_ns"}
