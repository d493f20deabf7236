"""`layer_from_qnode`: PennyLane's `TorchLayer`, run by our simulator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ketune.circuits._from_pennylane import Record, Tracer, build, build_tape, element_names, trace, wire_places
from ketune.circuits._imported import Imported, ImportingError
from ketune.circuits._optional import library
from ketune.circuits._qnode_parts import Embedding, Readout, angle_embedding, named_embedding, readout_of
from ketune.circuits.statevector import run


def layer_from_qnode(
    source: Any,
    weight_shapes: dict[str, Any] | None = None,
    init_method: Callable[..., Any] | dict[str, Any] | None = None,
) -> "QNodeLayer":
    """A drop-in for `qml.qnn.TorchLayer` that runs on our simulator: same weights, same outputs, exact and batched.

    The QNode is read once per number of features. Its embedding of `inputs` may be `AmplitudeEmbedding` of all wires,
    `IQPEmbedding`, or any gates whose angles are linear in inputs and weights, anywhere in the circuit (data
    re-uploading); angle embeddings at the start are fastest. It may return expectations of Pauli words and of sums of
    them, and probabilities. Results are exact: a QNode with a finite number of shots is refused.

    Args:
        source: a QNode with an argument `inputs`, or a `TorchLayer`, whose parameters the new layer shares.
        weight_shapes: as for `TorchLayer`; None for a `TorchLayer`.
        init_method: as for `TorchLayer`.

    Returns:
        a module with the parameters of the `TorchLayer`, under the same names, so that `state_dict` files of either are
        files of both. It takes (..., n_features) and returns (..., n_outputs), what the QNode returns side by side;
        without the last dimension where the QNode returns one expectation by itself, not in a list.

    Raises:
        ImportError: without PennyLane, with the command that installs it.
        ImportingError: a ValueError, on the first call, for a QNode that is not of this kind.

    Example:
        >>> import pennylane as qml
        >>> import torch
        >>> from ketune.circuits import layer_from_qnode
        >>> @qml.qnode(qml.device("default.qubit", wires=2))
        ... def qnode(inputs, weights):
        ...     qml.AngleEmbedding(inputs, wires=range(2), rotation="Y")
        ...     qml.BasicEntanglerLayers(weights, wires=range(2))
        ...     return [qml.expval(qml.Z(wire)) for wire in range(2)]
        >>> layer = layer_from_qnode(qnode, {"weights": (3, 2)})
        >>> layer(torch.randn(5, 2)).shape
        torch.Size([5, 2])
    """
    qml = library("pennylane")
    if not isinstance(source, qml.qnn.TorchLayer):
        if weight_shapes is None:
            raise ImportingError("layer_from_qnode(weight_shapes=None): give the shapes of the QNode's weights")
        source = qml.qnn.TorchLayer(source, weight_shapes, init_method)
    elif weight_shapes is not None or init_method is not None:
        raise ImportingError("layer_from_qnode: a TorchLayer has its weights; pass it alone")
    return QNodeLayer(source.qnode, dict(source.qnode_weights), source.input_arg)


class QNodeLayer(nn.Module):
    """A QNode as a layer. Made by `layer_from_qnode`."""

    def __init__(self, qnode: Any, weights: dict[str, nn.Parameter], input_name: str) -> None:
        super().__init__()
        self._qnode, self._input_name, self._names = qnode, input_name, tuple(weights)
        for name, weight in weights.items():
            self.register_parameter(name, weight)
        self._programs: dict[int, _Program] = {}

    def imported(self, n_features: int) -> Imported:
        """The circuit that runs for this number of features, with its angles in terms of inputs and weights."""
        return self._program(n_features).imported

    def _program(self, n_features: int) -> "_Program":
        if n_features not in self._programs:
            weights = {name: self.get_parameter(name) for name in self._names}
            self._programs[n_features] = _read(self._qnode, self._input_name, n_features, weights)
        return self._programs[n_features]

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_features) features to (..., n_outputs) readouts."""
        program = self._program(x.shape[-1])
        weights = [self.get_parameter(name).to(x).flatten() for name in self._names]
        return program(x, torch.cat(weights) if weights else x.new_zeros(0))

    def extra_repr(self) -> str:
        """What print() shows."""
        shapes = {name: tuple(self.get_parameter(name).shape) for name in self._names}
        return f"qnode={self._qnode.func.__name__}, weights={shapes}"


@dataclass
class _Program:
    """A QNode for one number of features."""

    imported: Imported
    embedding: Embedding | None
    readout: Readout
    n_features: int

    def __post_init__(self) -> None:
        # (n_angles,) where each angle is a weight as it is, which is then read by its index.
        matrix, offset = self.imported.matrix, self.imported.offset
        self._reuploads = bool(matrix[:, : self.n_features].any())
        plain = not offset.any() and bool((matrix.count_nonzero(1) == 1).all()) and bool((matrix.sum(1) == 1).all())
        self._index = matrix.argmax(1) - self.n_features if plain and not self._reuploads else None

    def __call__(self, x: Tensor, weights: Tensor) -> Tensor:
        angles = self._angles(x, weights)
        embedding = self.embedding or Embedding("amplitude")
        features = None if self.embedding is None else embedding.features(x)

        def measure(readout: Any) -> Tensor:
            encoding, n_repeats = embedding.encoding, embedding.n_repeats
            circuit = self.imported.circuit
            return run(circuit, features, angles, encoding=encoding, readout=readout, n_repeats=n_repeats)

        return self.readout(measure).to(x.dtype)

    def _angles(self, x: Tensor, weights: Tensor) -> Tensor:
        if self._index is not None:
            return weights[self._index.to(weights.device)]
        inputs = x if self._reuploads else x.new_zeros(self.n_features)
        return self.imported.angles_from(torch.cat((inputs, weights.expand(*inputs.shape[:-1], -1)), -1))


def _read(qnode: Any, input_name: str, n_features: int, weights: Mapping[str, Tensor]) -> _Program:
    """Reads a QNode at random values of its inputs and weights."""
    qml = library("pennylane")
    shapes = [weight.shape for weight in weights.values()]
    names = element_names(input_name, torch.empty(n_features))
    names += [name for key, weight in weights.items() for name in element_names(key, weight)]
    inputs_shape: tuple[int, ...] = (n_features,)

    def arguments(theta: Tensor) -> dict[str, Tensor]:
        inputs, *parts = theta.split([n_features, *(shape.numel() for shape in shapes)])
        new = {name: part.view(shape) for name, part, shape in zip(weights, parts, shapes)}
        return {input_name: inputs.view(inputs_shape), **new}

    def tape_of(theta: Tensor) -> Any:
        return build_tape(qnode, (), arguments(theta))

    points = [_point(n_features, len(names), seed) for seed in (0, 1)]
    try:
        tape = tape_of(points[0])
    except (IndexError, ValueError) as error:
        inputs_shape = (1, n_features)  # the QNode may be written for batches only
        try:
            tape = tape_of(points[0])
        except (IndexError, ValueError):
            raise error from None
    if tape.shots:
        raise ImportingError("the QNode has a finite number of shots; results here are exact: set shots=None")
    order = getattr(qnode.device, "wires", None) or None
    embeddings: list[Embedding | None] = []

    def read(theta: Tensor) -> list[Record]:
        tape = tape_of(theta)
        tracer = Tracer(wire_places(tape, order), theta)
        embedding, operations = named_embedding(tape, tracer, n_features)
        embeddings.append(embedding)
        return tracer.read(operations)

    places = wire_places(tape, order)
    n_wires = max(places.values(), default=0) + 1
    records = trace(read, points, names)
    embedding = embeddings[0]
    if embedding is None:
        embedding, records = angle_embedding(records, n_features, n_wires)
    imported = build(records, names, None, n_wires)
    with qml.queuing.AnnotatedQueue():
        is_single = not isinstance(qnode.func(**arguments(points[0])), (list, tuple))
    return _Program(imported, embedding, readout_of(tape, places, n_wires, is_single), n_features)


def _point(n_features: int, n_parameters: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(n_parameters, generator=generator, dtype=torch.float64)
    theta[:n_features] /= theta[:n_features].norm()  # an amplitude embedding may ask for normalised features
    return theta
