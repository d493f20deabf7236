"""The rates of the cost model are measured, kept and read."""

import json
from dataclasses import asdict

import pytest
import torch

from ketune.circuits import _costs, _device_costs, calibrate, rxryrz_ring
from ketune.circuits._device_costs import DeviceTime, triton_is_faster
from ketune.circuits._plan import Plan


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("KETUNE_TRITON", "0")  # a GPU, where there is one, is not measured here
    _forget()
    yield tmp_path / "ketune"
    _forget()


def _forget():
    _costs.current_rates.cache_clear()
    _costs.device_times.cache_clear()


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
    kept = json.loads(path.read_text())
    assert set(kept) == {"version", "turn_ns", "row_ns", "product_ns", "devices"}
    assert kept["version"] == 2


def test_a_file_of_the_first_version_is_still_read(folder):
    folder.mkdir()
    _costs._file().write_text('{"turn_ns": 1, "row_ns": 2, "product_ns": 0.5}')
    assert _costs.current_rates() == _costs.Rates(1, 2, 0.5)
    assert _costs.device_times("some GPU") == ()


def test_a_file_of_a_later_version_is_left_unread(folder):
    folder.mkdir()
    _costs._file().write_text('{"version": 3, "turn_ns": 1, "row_ns": 2, "product_ns": 0.5}')
    assert _costs.current_rates() == _costs.Rates()


ROWS = [
    DeviceTime(8, 2, "highest", 64, 1.0, 0.5),
    DeviceTime(8, 2, "highest", 4096, 1.0, 2.0),
    DeviceTime(12, 2, "highest", 64, 1.0, 3.0),
]


def test_measured_devices_are_kept_beside_others():
    _costs.write_measurements(_costs.Rates(1, 2, 3), {"one": ROWS})
    _costs.write_measurements(_costs.Rates(4, 5, 6), {"two": ROWS[:1]})
    assert _costs.current_rates() == _costs.Rates(4, 5, 6)
    assert _costs.device_times("one") == tuple(ROWS)
    assert _costs.device_times("two") == tuple(ROWS[:1])
    assert _costs.device_times("three") == ()


@pytest.mark.parametrize("rows", ["x", [{"n_wires": 8}], [{**asdict(ROWS[0]), "triton_ms": 0}], [1], None])
def test_broken_rows_are_as_none(folder, rows):
    folder.mkdir()
    _costs._file().write_text(json.dumps({"version": 2, "devices": {"one": rows}}))
    assert _costs.device_times("one") == ()


def test_the_faster_form_wins_between_the_sizes_that_were_measured():
    def faster(n_wires, n_samples, components=2, precision="highest"):
        return triton_is_faster(ROWS, n_wires, components, precision, n_samples)

    assert faster(8, 1)
    assert faster(8, 500)  # the forms meet at the geometric mean of 64 and 4096, 512
    assert not faster(8, 530)
    assert not faster(8, 10**6)
    assert faster(9, 64)
    assert not faster(10, 64)  # as near to 8 as to 12: taken for the larger
    assert not faster(12, 64)
    assert not faster(8, 64, components=1)
    assert not faster(8, 64, precision="tf32")


def _plan(precision="highest", n_wires=8):
    circuit = rxryrz_ring(n_wires)
    return Plan(circuit, "amplitude", "pauli_z", n_wires, 2**n_wires, precision)


def test_a_device_that_was_measured_takes_the_faster_form(monkeypatch):
    monkeypatch.delenv("KETUNE_TRITON")
    monkeypatch.setattr(_device_costs, "find_spec", lambda name: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "one")
    assert _plan().form(64, "cuda") == "layers"
    _costs.write_measurements(_costs.Rates(), {"one": ROWS})
    assert _plan().form(64, "cuda") == "triton"
    assert _plan().form(4096, "cuda") == _plan().product_form(4096)
    assert _plan("tf32").form(64, "cuda") == "layers"


@pytest.mark.parametrize(
    ("value", "installed", "form"), [("1", True, "triton"), ("0", True, "layers"), ("1", False, "layers")]
)
def test_a_variable_forces_the_form_where_it_can_run(monkeypatch, value, installed, form):
    monkeypatch.setenv("KETUNE_TRITON", value)
    monkeypatch.setattr(_device_costs, "find_spec", lambda name: True if installed else None)
    assert _plan().form(64, "cuda") == form
    assert _plan(n_wires=6).form(8, "cuda") == "layers"
    assert _plan().form(64, "cpu") != "triton"
