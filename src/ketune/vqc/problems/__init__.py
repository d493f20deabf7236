"""Problems to train variational circuits on, made offline and known exactly."""

from ketune.vqc.problems.base import EnergyProblem, Family, LabelledData, Rows
from ketune.vqc.problems.baselines import BASELINES, logistic_accuracy
from ketune.vqc.problems.digits import digits, digits_transfer
from ketune.vqc.problems.ecg import ecg, ecg_tasks
from ketune.vqc.problems.exact import filling_sector, ground_energy
from ketune.vqc.problems.hubbard import hubbard_family, hubbard_problem
from ketune.vqc.problems.max_cut import (
    graph_problem,
    max_cut_family,
    max_cut_problem,
    qaoa_angles,
    qaoa_circuit,
    qaoa_cut,
    random_graph,
)
from ketune.vqc.problems.molecules import (
    h2_problem,
    lih_problem,
    molecule,
    molecule_family,
    molecule_problem,
    split_lengths,
)
from ketune.vqc.problems.quantum_dots import fft_features, quantum_dots
from ketune.vqc.problems.regimes import regime_tasks, regimes
from ketune.vqc.problems.registry import FAMILIES, PROBLEMS, ProblemEntry, ProblemError, make_family, make_problem
from ketune.vqc.problems.spin_chains import (
    free_fermion_energy,
    heisenberg_family,
    heisenberg_problem,
    transverse_ising_problem,
)

__all__ = [
    "BASELINES",
    "FAMILIES",
    "PROBLEMS",
    "EnergyProblem",
    "Family",
    "LabelledData",
    "ProblemEntry",
    "ProblemError",
    "Rows",
    "digits",
    "digits_transfer",
    "ecg",
    "ecg_tasks",
    "fft_features",
    "filling_sector",
    "free_fermion_energy",
    "graph_problem",
    "ground_energy",
    "h2_problem",
    "heisenberg_family",
    "heisenberg_problem",
    "hubbard_family",
    "hubbard_problem",
    "lih_problem",
    "logistic_accuracy",
    "make_family",
    "make_problem",
    "max_cut_family",
    "max_cut_problem",
    "molecule",
    "molecule_family",
    "molecule_problem",
    "qaoa_angles",
    "qaoa_circuit",
    "qaoa_cut",
    "quantum_dots",
    "random_graph",
    "regime_tasks",
    "regimes",
    "split_lengths",
    "transverse_ising_problem",
]
