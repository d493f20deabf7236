"""Readout errors measured on calibration circuits and taken out of the chances, qubit by qubit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ketune.circuits._device import Device, DeviceError, Program, RunOptions


class ReadoutCalibration:
    """The misreading of each qubit of a device, measured once and kept.

    Each qubit is taken to be misread independently of the others, with chances of its own for 0 and for 1 (the
    tensored model of Bravyi, Sheldon, Kandala, McKay, Gambetta, Phys. Rev. A 103, 042605, 2021). Two circuits calibrate
    all qubits: all in |0>, all in |1>. What qubits do to each other while they are read stays in the results.
    """

    def __init__(self) -> None:
        self.matrices: dict[int, Tensor] = {}
        """For each qubit the (2, 2) chances to read i where j was prepared."""

    def corrected(self, device: Device, program: Program, chances: Tensor, options: RunOptions) -> Tensor:
        """Chances with the readout error taken out.

        Args:
            device: what ran the program; qubits that were not calibrated yet are calibrated on it.
            program: what was run.
            chances: (rows, 2 ** n_wires) as measured.
            options: for calibration circuits.

        Returns:
            (rows, 2 ** n_wires) with the same sums; some may be slightly negative, so that means are not biased.

        Raises:
            DeviceError: for a qubit whose readout says nothing.
        """
        rows = device.qubits(program, options)
        missing = sorted({qubit for qubits in rows for qubit in qubits} - set(self.matrices))
        if missing:
            self.matrices |= device.calibrate_readout(missing, options)
        if all(qubits == rows[0] for qubits in rows):
            return self._undo(chances, rows[0])
        return torch.cat([self._undo(row[None], qubits) for row, qubits in zip(chances, rows)])

    def _undo(self, chances: Tensor, qubits: Sequence[int]) -> Tensor:
        for wire, qubit in enumerate(qubits):
            matrix = self.matrices[qubit]
            if torch.linalg.det(matrix).abs() < 1e-3:
                raise DeviceError(f"qubit {qubit} reads 1 as often after |0> as after |1>; choose other qubits")
            split = chances.reshape(len(chances), 2**wire, 2, -1)
            chances = torch.einsum("ij,rajb->raib", torch.linalg.inv(matrix), split).reshape(len(chances), -1)
        return chances
