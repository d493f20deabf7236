"""The numbers of the native simulator: what angles make of the stages of `_passes`, and the way back.

All in float64 with NumPy: these are small arrays, and NumPy's calls cost a third of torch's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ketune.circuits._gate_matrices import Array, GateMatrices
from ketune.circuits._passes import DIAGONAL, GENERAL, REAL, Passes, sign_table


@dataclass
class Coefficients:
    """What the angles of one call make of the stages."""

    products: Array  # trigonometric products, for the way back to the angles
    matrices: Array  # (slots, 2, 2) complex128
    trail: Array  # (slots,) phase after the turn of a general slot
    cosines: Array  # (turns,) what each turn leaves out
    turn_signs: Array  # (turns,)
    phase_signs: Array  # (stages, most phases)
    word_signs: Array | None  # (words,) in the type of computation; None when all are positive
    origin: int  # address of the row that holds basis state 0 at the end, for readout "probabilities"
    scale: Array  # (stages,) product of the cosines
    tangents: Array  # (turns,) in the type of computation
    phases: Array  # (stages, 2 ** n_wires, components) in the type of computation, times the scale


class AngleMap:
    """From angles to `Coefficients`, and from sums over samples to the cotangent of the angles.

    Args:
        passes: the stages.
        n_angles: length of the angle vector.
    """

    def __init__(self, passes: Passes, n_angles: int) -> None:
        self.passes, self.n_angles = passes, n_angles
        kinds = np.array([kind for kind, _ in passes.slots])
        self.n_slots = len(kinds)
        self.matrices = GateMatrices([slot for _, slot in passes.slots], n_angles)
        self._is_real = kinds == REAL
        idle = self.matrices.forward(np.zeros(n_angles))[0]
        determinants = idle[:, 0, 0] * idle[:, 1, 1] - idle[:, 0, 1] * idle[:, 1, 0]
        self._reflected = np.pi * (self._is_real & (np.real(determinants) < 0))
        # The lead phase of a slot: half the sum of the phases around its turn, minus half their difference.
        self._of_sum = 2.0 * (kinds == DIAGONAL) + (kinds == GENERAL)
        self._of_difference = 1.0 * (kinds == GENERAL)
        turns = passes.turns()
        self.turn_slots = np.array([turn.slot for turn in turns], dtype=np.int64)
        self._first_turns = np.cumsum([0] + [len(stage.turns) for stage in passes.stages])[:-1]
        self._make_phase_tables()
        masks = [turn.flips for turn in turns] + self._phase_flips
        masks += [word.flips for word in (*passes.words, *passes.outputs)]
        flips = [[mask >> slot & 1 for slot in range(self.n_slots)] for mask in masks]
        self._flips = np.array(flips, dtype=np.float64).reshape(len(masks), self.n_slots)
        self._no_flips = np.ones(len(masks))
        self._moves_outputs = not passes.words  # readout "probabilities": the address of basis state 0 matters
        edges = np.cumsum([0, len(turns), self._source.size, len(passes.words), len(passes.outputs)])
        self._of_turns, self._of_phases, self._of_words, self._of_wires = map(slice, edges[:-1], edges[1:])

    def _make_phase_tables(self) -> None:
        """Phases of a stage are sums over parities, each a product of a parity of the high and one of the low bits."""
        passes = self.passes
        self._n_high = (passes.n_wires + 1) // 2
        n_low = passes.n_wires - self._n_high
        shape = (len(passes.stages), max([len(stage.phases) for stage in passes.stages], default=0))
        self._source = np.full(shape, 2 * self.n_slots)  # by default an entry that is zero
        high, low = np.ones((*shape, 2**self._n_high)), np.ones((*shape, 2**n_low))
        fixed, offsets = [0.0], {"lead": 0, "diagonal": 0, "trail": self.n_slots}
        self._phase_flips = [0] * (shape[0] * shape[1])
        places = []  # of phases that turn their slot about Z: (slot, stage, place)
        for stage, place, phase in passes.phases():
            if phase.part == "fixed":
                self._source[stage, place] = 2 * self.n_slots + len(fixed)
                fixed.append(phase.value)
            else:
                self._source[stage, place] = offsets[phase.part] + phase.slot
            if phase.part in ("trail", "diagonal"):
                places.append((phase.slot, stage, place))
            high[stage, place] = sign_table([phase.parity >> n_low], list(range(2**self._n_high)))[:, 0]
            low[stage, place] = sign_table([phase.parity & (2**n_low - 1)], list(range(2**n_low)))[:, 0]
            self._phase_flips[stage * shape[1] + place] = phase.flips
        self._fixed = np.array(fixed)
        self._high, self._low = high, low
        self._high_last = np.ascontiguousarray(high.transpose(0, 2, 1))
        self._z_slots, self._z_stages, self._z_places = np.array(places, dtype=np.int64).reshape(-1, 3).T

    def forward(self, angles: Array, dtype: type) -> Coefficients:
        """Coefficients of (n_angles,) float64 angles for one type of computation."""
        matrices, products = self.matrices.forward(angles)
        first, second = matrices[:, 0, 0], matrices[:, 1, 0]
        lead = trail = self._reflected
        if self.passes.is_real:
            cosine, sine = np.real(first), np.real(second)
        else:
            root = np.sqrt(first * matrices[:, 1, 1] - matrices[:, 0, 1] * second)
            above, below = first / root, second / root
            half_sum = -np.arctan2(np.imag(above), np.real(above))
            half_difference = np.arctan2(np.imag(below), np.real(below))
            cosine = np.where(self._is_real, np.real(first), np.abs(above))
            sine = np.where(self._is_real, np.real(second), np.abs(below))
            lead = lead + self._of_sum * half_sum - self._of_difference * half_difference
            trail = self._of_difference * (half_sum + half_difference)
        flipped = np.abs(sine) > np.abs(cosine)
        signs, word_signs, origin = self._no_flips, None, 0
        if flipped.any():
            flips = flipped.astype(np.float64)
            cosine, sine = np.where(flipped, sine, cosine), np.where(flipped, -cosine, sine)
            lead = lead + np.pi * flips
            signs = 1 - 2 * np.mod(self._flips @ flips, 2)
            word_signs = signs[self._of_words].astype(dtype)
            for word, sign in zip(self.passes.outputs, signs[self._of_wires].tolist()) if self._moves_outputs else ():
                origin ^= word.parity if sign < 0 else 0
        tangents = (sine / cosine)[self.turn_slots]
        turn_signs = signs[self._of_turns]
        phase_signs = signs[self._of_phases].reshape(self._source.shape)
        values = np.concatenate((lead, trail, self._fixed))[self._source] * phase_signs
        sums = (self._high_last * values[:, None, :]) @ self._low
        turned = ((values.sum(1)[:, None, None] - sums) / 2).reshape(len(values), 2**self.passes.n_wires)
        cosines = 1 / np.sqrt(1 + tangents * tangents)
        scale = np.multiply.reduceat(cosines, self._first_turns) if len(cosines) else np.ones(0)
        phases = np.empty((*turned.shape, 1 if self.passes.is_real else 2), dtype=dtype)
        phases[..., 0] = np.cos(turned) * scale[:, None]
        if not self.passes.is_real:
            phases[..., 1] = np.sin(turned) * scale[:, None]
        return Coefficients(
            products=products,
            matrices=matrices,
            trail=trail,
            cosines=cosines,
            turn_signs=turn_signs,
            phase_signs=phase_signs,
            word_signs=word_signs,
            origin=origin,
            scale=scale,
            tangents=(tangents * turn_signs).astype(dtype),
            phases=phases,
        )

    def backward(self, c: Coefficients, turn_sums: Array, phase_sums: Array) -> Array:
        """Cotangent of the angles, (n_angles,).

        Args:
            c: the coefficients.
            turn_sums: (turns, 2) twice the gradients along the generators Y and X of each turn.
            phase_sums: (stages, 2 ** n_wires) gradients of the phase of each row.
        """
        along_y, along_x = turn_sums[:, 0] * c.turn_signs / 2, turn_sums[:, 1] / 2
        generators = np.zeros_like(c.matrices)
        slots = self.turn_slots
        turned = np.exp(1j * c.trail[slots]) if not self.passes.is_real else 1.0
        generators[slots, 0, 1] = np.conj(turned) * (-along_y - 1j * along_x)
        generators[slots, 1, 0] = turned * (along_y - 1j * along_x)
        if len(self._z_slots):
            rows = phase_sums.reshape(len(phase_sums), 2**self._n_high, -1)
            along_z = ((self._high @ rows) * self._low).sum(2) * c.phase_signs / -2
            gradient = along_z[self._z_stages, self._z_places]
            generators[self._z_slots, 0, 0] = -1j * gradient
            generators[self._z_slots, 1, 1] = 1j * gradient
        return self.matrices.backward(c.products, generators @ c.matrices)
