"""Circuit files: a round trip, other widths, OpenQASM programs, and what damaged files are answered with."""

import json

import pytest
import torch

from ketune.circuits import Circuit, Gate, run, rxryrz_ring, to_openqasm3
from ketune.vqc.architecture import Architecture
from ketune.vqc.circuit_file import CircuitFile, CircuitFileError, load_circuit_file, save_circuit

FOUND = Architecture(("ring", "brick_odd"))


def test_a_circuit_comes_back_from_its_file(tmp_path):
    file = tmp_path / "deep" / "circuit.json"
    saved = save_circuit(file, FOUND.circuit(8), FOUND, {"reward": 0.75})
    again = load_circuit_file(file)
    assert again == saved
    assert (again.circuit, again.architecture, again.about) == (FOUND.circuit(8), FOUND, {"reward": 0.75})
    assert CircuitFile.from_text(again.text) == again
    assert [path.name for path in file.parent.iterdir()] == ["circuit.json"]
    assert json.loads(file.read_text())["ketune_circuit"] == 1


def test_an_architecture_serves_other_widths_and_a_plain_circuit_does_not():
    assert CircuitFile(FOUND.circuit(8), FOUND).circuit_for(5) == FOUND.circuit(5)
    constant = Gate("U", (1,), matrix=((0, 1j), (1j, 0)))  # pyright: ignore[reportArgumentType]
    plain = CircuitFile.from_text(CircuitFile(Circuit(2, (constant,))).text)
    assert plain.circuit_for(2).gates == (constant,)
    with pytest.raises(CircuitFileError, match="2 wires and 3 are needed"):
        plain.circuit_for(3)
    with pytest.raises(CircuitFileError, match="on 1000 wires"):
        CircuitFile(FOUND.circuit(8), FOUND).circuit_for(1000)


def test_an_openqasm_program_is_a_circuit_file_too(tmp_path):
    circuit = rxryrz_ring(3, 2)
    (tmp_path / "program.qasm").write_text(to_openqasm3(circuit))
    read = load_circuit_file(tmp_path / "program.qasm")
    angles, x = torch.randn(circuit.n_angles), torch.randn(4, 8)
    assert read.architecture is None
    assert torch.allclose(run(read.circuit_for(3), x, angles), run(circuit, x, angles), atol=1e-6)
    assert CircuitFile.from_text(read.text).circuit == read.circuit


def test_a_circuit_that_is_not_its_architectures_is_refused():
    with pytest.raises(CircuitFileError, match="not that of the architecture ring-brick_odd"):
        CircuitFile(rxryrz_ring(8, 2), FOUND)


GOOD = json.loads(CircuitFile(FOUND.circuit(3), FOUND).text)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "neither a circuit file nor an OpenQASM program"),
        ("hello", "neither a circuit file nor an OpenQASM program"),
        (json.dumps(GOOD)[:-30], "damaged JSON"),
        ("[" * 100_000, "damaged JSON"),
        ("[1, 2]", "is missing"),
        (json.dumps(GOOD | {"ketune_circuit": 2}), "version 2"),
        (json.dumps(GOOD | {"n_wires": 4}), "n_wires says 4"),
        (json.dumps(GOOD | {"circuit": [3]}), "damaged"),
        (json.dumps(GOOD | {"circuit": [3, [["RX", [7], 0]]]}), "damaged"),
        (json.dumps(GOOD | {"circuit": [3, [["EXEC", [0], None]]]}), "unknown gate"),
        (json.dumps(GOOD | {"circuit": [3, [["RX", "0", 0]]]}), "damaged"),
        (json.dumps(GOOD | {"circuit": [10**9, []], "n_wires": 10**9}), "1 to 64 wires"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "circuit"}), "damaged"),
        (json.dumps(GOOD | {"architecture": {"entanglers": ["star"]}}), "damaged"),
        (json.dumps(GOOD | {"architecture": "ring"}), "damaged"),
        (json.dumps(GOOD | {"about": 3}), "damaged"),
    ],
)
def test_damaged_files_are_refused_with_their_name(tmp_path, content, words):
    file = tmp_path / "circuit.json"
    file.write_text(content)
    with pytest.raises(CircuitFileError, match=words) as caught:
        load_circuit_file(file)
    assert str(file) in str(caught.value)


def test_missing_binary_and_enormous_files_are_refused(tmp_path):
    with pytest.raises(CircuitFileError, match="cannot be read"):
        load_circuit_file(tmp_path / "missing.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(CircuitFileError, match="no text"):
        load_circuit_file(tmp_path / "binary")
    (tmp_path / "large").write_bytes(b" " * 4_000_001)
    with pytest.raises(CircuitFileError, match="larger than 4,000,000 bytes"):
        load_circuit_file(tmp_path / "large")
    with pytest.raises(CircuitFileError, match="JSON cannot hold"):
        save_circuit(tmp_path / "x.json", FOUND.circuit(2), about={"a": object()})
    (tmp_path / "file").write_text("")
    with pytest.raises(CircuitFileError, match="cannot be written"):
        save_circuit(tmp_path / "file" / "x.json", FOUND.circuit(2))
