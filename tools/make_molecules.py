"""Makes the Pauli coefficients of the molecules in `vqc/problems/data/molecules.json` with PennyLane's chemistry.

PennyLane brings its own Hartree-Fock and integrals (`qml.qchem`), so nothing has to be installed beside
`ketune[devices]`. Coordinates are given to it in Bohr; bond lengths here are in Angstrom. Every Hamiltonian is written
in the Jordan-Wigner mapping with spin orbitals in the order up, down, up, down, ..., and every energy in Hartree with
the nuclear repulsion (and frozen electrons) in it.

    python tools/make_molecules.py            writes the file, a few minutes
    python tools/make_molecules.py --check    compares some of its entries with what would be written
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pennylane as qml
from pennylane import numpy as pnp

from ketune.circuits import Hamiltonian
from ketune.vqc.problems.exact import filling_sector, ground_energy

FILE = Path(__file__).parents[1] / "src" / "ketune" / "vqc" / "problems" / "data" / "molecules.json"

BOHR_PER_ANGSTROM = 1 / 0.529177210903  # CODATA 2018


@dataclass(frozen=True)
class Recipe:
    """One entry of the file: atoms on a line, and which orbitals are kept."""

    symbols: tuple[str, str]
    lengths: tuple[float, ...]
    electrons: int
    core: tuple[int, ...] | None = None
    active: tuple[int, ...] | None = None
    note: str = ""


_LIH_LENGTHS = (0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.5949, 1.7, 1.8, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0)

RECIPES = {
    "h2": Recipe(
        ("H", "H"),
        (0.4, 0.5, 0.6, 0.7, 0.7414, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.2, 2.4),
        electrons=2,
        note="all orbitals",
    ),
    "lih-4": Recipe(
        ("Li", "H"),
        _LIH_LENGTHS,
        electrons=2,
        core=(0,),
        active=(1, 2),
        note="orbital 0 frozen, 1 and 2 kept",
    ),
    "lih-6": Recipe(
        ("Li", "H"),
        _LIH_LENGTHS,
        electrons=2,
        core=(0,),
        active=(1, 2, 5),
        note="orbital 0 frozen, the sigma orbitals 1, 2 and 5 kept",
    ),
    "lih-12": Recipe(("Li", "H"), (1.2, 1.4, 1.5949, 1.8, 2.2), electrons=4, note="all orbitals"),
}


def hamiltonian(recipe: Recipe, length: float) -> tuple[Hamiltonian, float]:
    """The Hamiltonian at a bond length in Angstrom, and the Hartree-Fock energy in Hartree."""
    geometry = pnp.array([[0.0, 0.0, 0.0], [0.0, 0.0, length * BOHR_PER_ANGSTROM]], requires_grad=False)
    molecule = qml.qchem.Molecule(list(recipe.symbols), geometry, unit="bohr")
    kept = {"core": list(recipe.core), "active": list(recipe.active)} if recipe.core and recipe.active else {}
    operator = qml.qchem.diff_hamiltonian(molecule, cutoff=1e-10, **kept)()
    n_wires = 2 * len(recipe.active) if recipe.active else 2 * molecule.n_orbitals
    return Hamiltonian.from_pennylane(operator, n_wires), float(pnp.squeeze(qml.qchem.hf_energy(molecule)()))


def entry(name: str, recipe: Recipe, lengths: Sequence[float]) -> dict[str, object]:
    """What the file says of a molecule. Its word list is common to all bond lengths."""
    made = []
    for length in lengths:
        made.append((length, *hamiltonian(recipe, length)))
        print(f"{name} at {length} Angstrom: {len(made[-1][1].words)} words", file=sys.stderr, flush=True)
    words = sorted({word for _, operator, _ in made for word in operator.words})
    n_wires, half = made[0][1].n_wires, recipe.electrons // 2
    sector = filling_sector(n_wires, (range(0, n_wires, 2), half), (range(1, n_wires, 2), half))
    geometries = []
    for length, operator, hartree_fock in made:
        by_word = dict(zip(operator.words, operator.coefficients))
        geometries.append(
            {
                "length": length,
                "hartree_fock": round(hartree_fock, 10),
                "ground": round(ground_energy(operator, sector), 10),
                "coefficients": [round(by_word.get(word, 0.0), 12) for word in words],
            }
        )
    return {
        "symbols": recipe.symbols,
        "basis": "sto-3g",
        "kept": recipe.note,
        "electrons": recipe.electrons,
        "words": words,
        "geometries": geometries,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare the second entry of each molecule, write nothing")
    check = parser.parse_args().check
    if check:
        stored = json.loads(FILE.read_text())["molecules"]
        for name, recipe in RECIPES.items():
            old = stored[name]["geometries"][1]
            new, _ = hamiltonian(recipe, old["length"])
            by_word = dict(zip(new.words, new.coefficients))
            worst = max(abs(by_word.get(word, 0.0) - c) for word, c in zip(stored[name]["words"], old["coefficients"]))
            print(f"{name}: largest difference {worst:.1e} Hartree")
            if worst > 1e-8 or set(by_word) - set(stored[name]["words"]):
                sys.exit(f"{FILE}: {name} is not what this script makes; run it without --check")
        return
    molecules = {name: entry(name, recipe, recipe.lengths) for name, recipe in RECIPES.items()}
    made_by = f"tools/make_molecules.py with PennyLane {qml.__version__}"
    text = json.dumps({"made_by": made_by, "units": "Hartree, Angstrom", "molecules": molecules}, separators=(",", ":"))
    beside = FILE.with_name(f".{FILE.name}.part")
    beside.parent.mkdir(parents=True, exist_ok=True)
    beside.write_text(text.replace(',"geometries"', ',\n"geometries"').replace('{"length"', '\n{"length"') + "\n")
    beside.replace(FILE)
    print(f"{FILE}: {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
