"""From PennyLane's tapes and quantum functions to our circuits."""

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ketune.circuits._gates import GATES
from ketune.circuits._imported import CircuitBuilder, Imported, ImportingError, Linear
from ketune.circuits._optional import library

_SAME = {"Hadamard": "H", "PauliX": "X", "PauliY": "Y", "PauliZ": "Z", "Adjoint(S)": "SDG", "Adjoint(T)": "TDG"}
_SAME |= {"PhaseShift": "PHASE", "U1": "PHASE", "ControlledPhaseShift": "CPHASE", "CPhase": "CPHASE"}
_SAME |= {f"Ising{pair}": f"ISING{pair}" for pair in ("XX", "YY", "ZZ", "XY")}
_SAME |= {name: name for name in GATES if name not in ("H", "X", "Y", "Z", "SDG", "TDG", "PHASE", "GPHASE", "CPHASE")}
_IDLE = ("Identity", "Barrier", "Snapshot", "WireCut")
_CLASSICAL = ("MidMeasureMP", "PauliMeasure", "Conditional")
_STATES = ("StatePrep", "AmplitudeEmbedding", "QubitDensityMatrix", "MottonenStatePreparation", "CosineWindow")
_MATRICES = ("QubitUnitary", "ControlledQubitUnitary", "DiagonalQubitUnitary", "BlockEncode", *_STATES, "BasisState")


class Record(NamedTuple):
    """One gate of a trace."""

    name: str
    wires: tuple[int, ...]
    angle: Linear | None
    matrix: Any


Source = Callable[[Tensor], Any]
"""From (n_parameters,) values to a tape."""


def parameters_of(source: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Source, list[str], Tensor]:
    """A tape, operator, quantum function, QNode or template with its arguments, as a function of its parameters.

    Returns:
        the function, the names of the parameters and their values.
    """
    qml = library("pennylane")
    if isinstance(source, qml.operation.Operator):
        source = qml.tape.QuantumScript([source])
    if isinstance(source, qml.tape.QuantumScript):
        return _parameters_of_tape(source)
    if not callable(source):
        raise ImportingError(f"{type(source).__name__}: pass a PennyLane tape, operator, quantum function or QNode")
    leaves: list[tuple[str, Any]] = []
    named = list(zip(argument_names(source, len(args)), args)) + list(kwargs.items())
    for name, value in named:
        _find_leaves(name, value, leaves)
    marked = [is_marked(value) for _, value in leaves]
    chosen = [mark or not any(marked) for mark in marked]
    parts = [_as_tensor(value) for (_, value), choice in zip(leaves, chosen) if choice]
    names = [full for (name, value), choice in zip(leaves, chosen) if choice for full in element_names(name, value)]
    values = torch.cat([part.flatten() for part in parts]) if parts else torch.zeros(0, dtype=torch.float64)

    def tape(theta: Tensor) -> Any:
        pieces = iter(
            piece.view(part.shape) for piece, part in zip(theta.split([part.numel() for part in parts]), parts)
        )
        choices = iter(chosen)
        new = [_replace_leaves(value, choices, pieces) for _, value in named]
        return build_tape(source, new[: len(args)], dict(zip(kwargs, new[len(args) :])))

    return tape, names, values


def build_tape(source: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What a quantum function, template or QNode queues."""
    qml = library("pennylane")
    with warnings.catch_warnings():
        # A function that makes a float of a parameter is refused later, by name: its gates do not follow the parameter.
        warnings.filterwarnings("ignore", "Converting a tensor with requires_grad=True to a scalar")
        if isinstance(source, qml.QNode):
            return qml.workflow.construct_tape(source, level="user")(*args, **kwargs)
        return qml.tape.make_qscript(source)(*args, **kwargs)


def argument_names(source: Any, count: int) -> list[str]:
    function = getattr(source, "func", source)
    try:
        names = [name for name in inspect.signature(function).parameters if name != "self"]
    except (TypeError, ValueError):
        names = []
    return names[:count] + [f"argument{k}" for k in range(len(names), count)]


def is_marked(value: Any) -> bool:
    """True for what PennyLane would train: tensors that require a gradient."""
    return bool(getattr(value, "requires_grad", False))


def _is_leaf(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point()
    if isinstance(value, float):
        return True
    return hasattr(value, "dtype") and hasattr(value, "shape") and np.asarray(value).dtype.kind == "f"


def _find_leaves(name: str, value: Any, leaves: list[tuple[str, Any]]) -> None:
    if _is_leaf(value):
        leaves.append((name, value))
    elif isinstance(value, dict):
        for key, entry in value.items():
            _find_leaves(f"{name}[{key!r}]", entry, leaves)
    elif isinstance(value, (list, tuple)):
        for k, entry in enumerate(value):
            _find_leaves(f"{name}[{k}]", entry, leaves)


def _replace_leaves(value: Any, choices: Any, pieces: Any) -> Any:
    if _is_leaf(value):
        return next(pieces) if next(choices) else value
    if isinstance(value, dict):
        return {key: _replace_leaves(entry, choices, pieces) for key, entry in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_replace_leaves(entry, choices, pieces) for entry in value)
    return value


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu().double()
    return torch.from_numpy(np.array(value, dtype=np.float64))


def element_names(name: str, value: Any) -> list[str]:
    """Names of the elements of an array, such as "weights[0,1]"."""
    shape = tuple(getattr(value, "shape", ()))
    return [name + (f"[{','.join(map(str, index))}]" if index else "") for index in np.ndindex(*shape)]


def _parameters_of_tape(tape: Any) -> tuple[Source, list[str], Tensor]:
    all_values = tape.get_parameters(trainable_only=False)
    marked = [is_marked(value) for value in all_values]
    chosen = [k for k, mark in enumerate(marked) if mark] if any(marked) else list(tape.trainable_params)
    names, parts, places = [], [], []
    for k in chosen:
        operation = tape.par_info[k]["op"]
        if operation.name in _MATRICES or np.asarray(_detached(all_values[k])).dtype.kind not in "fi":
            continue
        parts.append(_as_tensor(all_values[k]))
        places.append(k)
        names += element_names(f"{operation.name}_{tape.par_info[k]['op_idx']}", parts[-1])
    values = torch.cat([part.flatten() for part in parts]) if parts else torch.zeros(0, dtype=torch.float64)

    def bound(theta: Tensor) -> Any:
        pieces = [piece.view(part.shape) for piece, part in zip(theta.split([p.numel() for p in parts]), parts)]
        return tape.bind_new_parameters(pieces, places)

    return bound, names, values


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def wire_places(tape: Any, order: Sequence[Any] | None) -> dict[Any, int]:
    """Which of our wires each wire of a tape is."""
    labels = list(tape.wires)
    if order is None:
        if all(isinstance(label, int) and label >= 0 for label in labels):
            order = range(max(labels, default=0) + 1)
        else:
            order = labels
    places = {label: place for place, label in enumerate(order)}
    if missing := [label for label in labels if label not in places]:
        raise ImportingError(f"wire {missing[0]!r} of the circuit is not among the wires {list(order)}")
    return places


def convert(source: Source, names: Sequence[str], values: Tensor, order: Sequence[Any] | None) -> Imported:
    """A traced source as a circuit."""
    tapes: list[Any] = []

    def read(theta: Tensor) -> list[Record]:
        tapes.append(source(theta))
        return Tracer(wire_places(tapes[-1], order), theta).read(tapes[-1].operations)

    elsewhere = values + 0.5 + torch.rand(values.shape, generator=torch.Generator().manual_seed(1), dtype=values.dtype)
    records = trace(read, (values, elsewhere), names)
    places = wire_places(tapes[0], order)
    return build(records, names, values, max(places.values(), default=0) + 1)


def build(records: Sequence[Record], names: Sequence[str], values: Tensor | None, n_wires: int) -> Imported:
    builder = CircuitBuilder(names)
    for record in records:
        builder.add(record.name, record.wires, record.angle, record.matrix)
    return builder.finish(n_wires, values)


def trace(read: Callable[[Tensor], list[Record]], points: Sequence[Tensor], names: Sequence[str]) -> list[Record]:
    """The gates of a source, after a check at two points that its angles are linear and nothing else changes."""
    records, other = (read(point.clone().requires_grad_()) for point in points)
    if [r[:2] for r in records] != [r[:2] for r in other]:
        raise ImportingError(
            "the gates of the circuit depend on the values of its parameters; import it for fixed values"
        )
    for ours, theirs in zip(records, other):
        if ours.angle is not None and theirs.angle is not None and not ours.angle.is_close_to(theirs.angle):
            raise ImportingError(
                f"the angle of {ours.name} on wires {ours.wires} is not linear in {', '.join(names[:4])}"
                f"{', ...' if len(names) > 4 else ''}; compute it outside and pass the result as a parameter"
            )
        if ours.matrix is not None and not np.allclose(ours.matrix, theirs.matrix, atol=1e-8):
            raise ImportingError(f"a matrix on wires {ours.wires} depends on a parameter; use rotations instead")
    return records


class Tracer:
    """Reads operations whose parameters torch differentiates with respect to `theta`.

    Args:
        places: our wire for each wire label.
        theta: (n_parameters,) values of the parameters.
    """

    def __init__(self, places: dict[Any, int], theta: Tensor) -> None:
        self.places, self.theta = places, theta
        self.records: list[Record] = []

    def read(self, operations: Sequence[Any]) -> list[Record]:
        with library("pennylane").QueuingManager.stop_recording():
            for operation in operations:
                self._operation(operation)
        return self.records

    def linear(self, value: Any) -> Linear:
        """A parameter of an operation as a linear expression in `theta`."""
        if not isinstance(value, Tensor) or not value.requires_grad:
            return Linear(offset=float(np.real(np.asarray(_detached(value))).reshape(())))
        value = value.real.reshape(())
        (slope,) = torch.autograd.grad(value, self.theta, retain_graph=True, allow_unused=True)
        if slope is None:
            return Linear(offset=float(value))
        slope = torch.where(slope.abs() < 1e-13, 0.0, slope.double())
        offset = float(value.detach() - slope @ self.theta.detach())
        terms = {k: float(slope[k]) for k in slope.nonzero().flatten().tolist()}
        return Linear.of(terms, 0.0 if abs(offset) < 1e-12 else offset)

    def _operation(self, operation: Any) -> None:
        qml = library("pennylane")
        name = operation.name
        if name in _IDLE:
            return
        if name in _STATES:
            raise ImportingError(
                f"{name} prepares a state; import the gates after it and give the state as features to `run`, or "
                "import the whole QNode with `layer_from_qnode`"
            )
        if name in _CLASSICAL or not isinstance(operation, qml.operation.Operator):
            raise ImportingError(
                f"{name}: a circuit here is unitary, without measurements in the middle and classical control"
            )
        if isinstance(operation, qml.operation.Channel):
            raise ImportingError(f"{name} is a noise channel; a circuit here is unitary")
        if operation.batch_size not in (None, 1):
            raise ImportingError(
                f"{name} has a batch of parameters; import one circuit and pass a batch of angles to `run`"
            )
        wires = tuple(self.places[label] for label in operation.wires)
        if name in _SAME:
            self._add(_SAME[name], wires, *operation.data)
        elif name == "GlobalPhase":
            self._add("GPHASE", wires[:1] or (0,), operation.data[0] * -2)
        elif name == "Rot":
            for gate, value in zip(("RZ", "RY", "RZ"), operation.data):
                self._add(gate, wires, value)
        elif 1 <= len(wires) <= 2 and operation.has_matrix and not self._is_traced(operation):
            matrix = np.asarray(_detached(qml.matrix(operation, wire_order=operation.wires)))
            self.records.append(Record("U", wires, None, matrix))
        elif operation.has_decomposition:
            for part in operation.decomposition():
                self._operation(part)
        else:
            raise ImportingError(f"{name} on {len(wires)} wires has no decomposition into smaller gates")

    def _add(self, name: str, wires: tuple[int, ...], *angle: Any) -> None:
        self.records.append(Record(name, wires, self.linear(angle[0]) if angle else None, None))

    def _is_traced(self, operation: Any) -> bool:
        return any(isinstance(value, Tensor) and value.requires_grad for value in operation.data)
