"""Molecules against literature, PennyLane's chemistry made anew, and PennyLane's excitation gates."""

import pennylane as qml
import pytest
import torch

from ketune.circuits import simulate, to_bits
from ketune.vqc import STARTS, minimise
from ketune.vqc.problems import ground_energy, h2_problem, lih_problem, molecule, molecule_family, split_lengths
from ketune.vqc.problems.exact import filling_sector
from ketune.vqc.problems.molecules import MOLECULES, excitations_circuit, molecule_problem


def neutral(chosen):
    half, n_wires = chosen.electrons // 2, chosen.n_wires
    return filling_sector(n_wires, (range(0, n_wires, 2), half), (range(1, n_wires, 2), half))


def test_hydrogen_at_rest_has_the_energies_of_the_literature():
    # STO-3G, 0.7414 Angstrom: full configuration interaction -1.1373 Ha, Hartree-Fock -1.1167 Ha.
    assert h2_problem().ground_energy == pytest.approx(-1.1373, abs=1e-4)
    assert molecule("h2").at(0.7414).hartree_fock == pytest.approx(-1.1167, abs=1e-4)
    energies = {geometry.length: geometry.ground for geometry in molecule("h2").geometries}
    assert min(energies, key=energies.get) == 0.7414


def test_lithium_hydride_at_rest_has_the_energies_of_the_literature():
    # STO-3G, 1.5949 Angstrom: full configuration interaction -7.8824 Ha, Hartree-Fock -7.8620 Ha.
    geometry = molecule("lih-12").at(1.5949)
    assert geometry.ground == pytest.approx(-7.8824, abs=1e-4)
    assert geometry.hartree_fock == pytest.approx(-7.8620, abs=1e-4)


@pytest.mark.parametrize("name", MOLECULES)
def test_the_ground_energies_are_those_of_the_neutral_sector(name):
    chosen = molecule(name)
    for geometry in chosen.geometries[::6]:
        energy = ground_energy(chosen.hamiltonian(geometry.length), neutral(chosen))
        assert energy == pytest.approx(geometry.ground, abs=1e-8)
        assert geometry.ground < geometry.hartree_fock


@pytest.mark.parametrize("name", ["h2", "lih-4", "lih-6"])
def test_no_other_number_of_electrons_lies_lower(name):
    for length in molecule(name).lengths[::5]:
        problem = molecule_problem(name, length)
        assert problem.ground_energy == pytest.approx(molecule(name).at(length).ground, abs=1e-8)


def test_larger_active_spaces_lie_lower_and_none_above_hartree_fock():
    for length in (1.2, 1.5949, 2.2):
        energies = [molecule(name).at(length).ground for name in ("lih-12", "lih-6", "lih-4")]
        assert energies == sorted(energies)
        assert energies[-1] < molecule("lih-4").at(length).hartree_fock


def test_the_hartree_fock_state_has_the_hartree_fock_energy():
    for name in MOLECULES:
        length = molecule(name).lengths[1]
        problem = molecule_problem(name, length, "excitations", 1)
        state = simulate(problem.circuit, torch.zeros(problem.circuit.n_angles, dtype=torch.float64))
        energy = float(problem.hamiltonian.expectation(state))
        assert energy == pytest.approx(molecule(name).at(length).hartree_fock, abs=1e-7)


def test_pennylane_makes_the_same_coefficients_today():
    symbols, bohr = ["H", "H"], 0.7414 / 0.529177210903
    geometry = qml.math.array([[0.0, 0.0, 0.0], [0.0, 0.0, bohr]], like="autograd")
    theirs, _ = qml.qchem.molecular_hamiltonian(qml.qchem.Molecule(symbols, geometry, unit="bohr"))
    matrix = torch.from_numpy(qml.matrix(theirs, wire_order=range(4)))
    torch.testing.assert_close(
        molecule("h2").hamiltonian(0.7414).matrix(), matrix.to(torch.complex128), atol=1e-7, rtol=0
    )


def test_double_and_single_excitations_are_those_of_pennylane():
    circuit = excitations_circuit(4, 2)  # one double, then the singles 0 -> 2 and 1 -> 3
    angles = torch.tensor([0.13, 0.7, -0.4], dtype=torch.float64)

    @qml.qnode(qml.device("default.qubit", wires=4), interface="torch")
    def theirs(double, first, second):
        qml.BasisState([1, 1, 0, 0], wires=range(4))
        qml.DoubleExcitation(8 * double, wires=[0, 1, 2, 3])
        qml.SingleExcitation(first, wires=[0, 2])
        qml.SingleExcitation(second, wires=[1, 3])
        return qml.state()

    ours = simulate(circuit, angles)
    # The senses of rotation differ by a sign of the angle only.
    assert any(
        torch.allclose(ours.to(torch.complex128), theirs(s * angles[0], t * angles[1], t * angles[2]), atol=1e-10)
        for s in (1, -1)
        for t in (1, -1)
    )


@pytest.mark.parametrize(("n_wires", "electrons"), [(4, 2), (6, 2), (6, 4)])
def test_excitations_keep_the_electrons_of_either_spin_at_all_angles(n_wires, electrons):
    circuit = excitations_circuit(n_wires, electrons, 2)
    angles = torch.randn(3, circuit.n_angles, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = simulate(circuit, angles) ** 2
    bits = to_bits(torch.arange(2**n_wires), n_wires)
    fits = (bits[:, 0::2].sum(1) == electrons // 2) & (bits[:, 1::2].sum(1) == electrons // 2)
    assert float(weights[:, ~fits].max()) < 1e-24
    assert int((weights[:, fits].min(0).values > 1e-9).sum()) == int(fits.sum())  # and reach all of them


@pytest.mark.parametrize(
    ("name", "ansatz", "n_layers"), [("h2", "excitations", 1), ("lih-4", "excitations", 1), ("h2", None, 4)]
)
def test_circuits_reach_the_ground_state(name, ansatz, n_layers):
    length = molecule(name).lengths[4]
    problem = molecule_problem(name, length, ansatz or "strongly_entangling", n_layers)
    generator = torch.Generator().manual_seed(0)
    starts = torch.stack([STARTS["gaussian"](problem.circuit, generator) for _ in range(3)])
    trace = minimise(problem, starts, lambda p: torch.optim.Adam(p, lr=0.03), 200)
    assert float(trace.energies[-1].min()) == pytest.approx(problem.ground_energy, abs=1e-4)
    assert float(trace.energies.min()) > problem.ground_energy - 1e-8


def test_held_out_lengths_are_never_drawn_for_learning():
    learn, held_out = split_lengths("h2")
    assert len(learn) >= 12
    assert not set(learn) & set(held_out)
    assert sorted((*learn, *held_out)) == list(molecule("h2").lengths)
    generator = torch.Generator().manual_seed(0)
    for chosen, kept in ((learn, False), (held_out, True)):
        draw = molecule_family("h2", n_layers=1, held_out=kept)
        problems = [draw(generator) for _ in range(60)]
        assert {problem.name for problem in problems} == {f"h2-{length:g}" for length in chosen}
        assert {len(problem.descriptor) for problem in problems} == {15}


def test_unknown_molecules_lengths_and_circuits_are_refused():
    with pytest.raises(ValueError, match="molecule='h3'"):
        molecule("h3")
    with pytest.raises(ValueError, match=r"length=0\.75 Angstrom; choose one of 0\.4, .*0\.7414"):
        h2_problem(0.75)
    with pytest.raises(ValueError, match="n_wires=8; choose 4, 6 or 12"):
        lih_problem(n_wires=8)
    with pytest.raises(ValueError, match="ansatz='uccsd'"):
        h2_problem(ansatz="uccsd")
    with pytest.raises(ValueError, match="electrons=3"):
        excitations_circuit(4, 3)
