"""Which steps of a circuit reach a readout of squares: the others are dropped before anything is planned."""

from __future__ import annotations

from ketune.circuits._gates import Step, elementary_steps
from ketune.circuits.circuit import Circuit


def reaching_steps(circuit: Circuit, readout: str | tuple[str, ...]) -> list[Step]:
    """The steps of a circuit that can change a readout, in the order of application.

    Seen from the end, a wire is inside the light cone once a kept step connects it to a wire that is read, and it stays
    classical as long as nothing but permutations of the basis states and phases comes after. Phases of a classical wire
    do not change squares, and neither does a gate outside the cone.

    Args:
        circuit: the circuit.
        readout: "pauli_z", "probabilities", "amplitudes" (which everything reaches) or words of I and Z.
    """
    steps = [step for gate in circuit.gates for step in elementary_steps(gate)]
    if readout == "amplitudes":
        return steps
    inside, classical = [True] * circuit.n_wires, [True] * circuit.n_wires
    if not isinstance(readout, str):
        inside = [any(word[wire] != "I" for word in readout) for wire in range(circuit.n_wires)]
    kept = []
    for step in reversed(steps):
        wires = step.wires
        if not any(inside[wire] for wire in wires):
            continue
        if step.name == "GPHASE":  # multiplies the whole state
            continue
        if len(wires) == 1:
            if step.is_diagonal and classical[wires[0]]:
                continue
            classical[wires[0]] = classical[wires[0]] and step.is_diagonal
        elif step.name == "CNOT":
            control, target = wires
            if classical[control] and not inside[target]:
                continue
            classical[target] = classical[target] and classical[control]
            inside[control] = inside[target] = True
        elif step.name == "SWAP":
            first, second = wires
            classical[first], classical[second] = classical[second], classical[first]
            inside[first], inside[second] = inside[second], inside[first]
        else:  # CZ, which is diagonal
            if all(classical[wire] or not inside[wire] for wire in wires):
                continue
            inside[wires[0]] = inside[wires[1]] = True
        kept.append(step)
    return kept[::-1]
