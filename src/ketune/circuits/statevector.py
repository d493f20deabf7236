"""`run`: a circuit on a batch of features, differentiable in features and angles. The batched statevector simulator.

How it works. Everything heavy is a matrix product on chunks of samples that fit the processor's cache; no state is kept
for the backward pass, which recomputes each chunk from the features; circuits of real gates run in real arithmetic; the
squared norm comes out of the readout's product as one more column, so that features are never normalised beforehand;
CNOTs are a reading of rows in another order and the last ones only rename the readout. A cost model decides between
building the circuit's matrix once and running its layers on the states (`Plan.builds_matrix`).
"""

from typing import Any

import torch
from torch import Tensor

from ketune.circuits._execute import compute_dtype, run_program, run_program_back
from ketune.circuits._plan import describe, program
from ketune.circuits.circuit import Circuit
from ketune.circuits.observables import ENCODINGS, Readout, check_readout, count_readouts

MAX_WIRES = 14
"""Largest circuit that `run` takes."""


# Two doors to the same functions. Under torch.compile a circuit is one operator, which the compiler does not look into;
# otherwise it is an autograd.Function, which costs less per call and composes with torch.func.
@torch.library.custom_op("ketune::circuit", mutates_args=())
def _circuit(x: Tensor, angles: Tensor, description: str, n_outputs: int) -> tuple[Tensor, Tensor]:
    return run_program(program(description), x, angles)


@_circuit.register_fake
def _(x: Tensor, angles: Tensor, description: str, n_outputs: int) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(x, angles)
    return x.new_empty(x.shape[0], n_outputs, dtype=dtype), x.new_empty(x.shape[0], dtype=dtype)


@torch.library.custom_op("ketune::circuit_backward", mutates_args=())
def _circuit_backward(
    cotangent: Tensor,
    x: Tensor,
    angles: Tensor,
    out: Tensor,
    norms: Tensor,
    description: str,
    need_x: bool,
    need_angles: bool,
) -> tuple[Tensor, Tensor]:
    return run_program_back(program(description), cotangent, x, angles, out, norms, need_x, need_angles)


@_circuit_backward.register_fake
def _(
    cotangent: Tensor,
    x: Tensor,
    angles: Tensor,
    out: Tensor,
    norms: Tensor,
    description: str,
    need_x: bool,
    need_angles: bool,
) -> tuple[Tensor, Tensor]:
    d_x = torch.empty_like(x, memory_format=torch.contiguous_format) if need_x else x.new_empty(0)
    return d_x, torch.empty_like(angles) if need_angles else angles.new_empty(0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, angles, ctx.description, _ = inputs
    ctx.save_for_backward(x, angles, *output)


def _op_backward(ctx: Any, cotangent: Tensor, _norms: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    need_x, need_angles = ctx.needs_input_grad[:2]
    d_x, d_angles = _circuit_backward(cotangent, *ctx.saved_tensors, ctx.description, need_x, need_angles)
    return d_x if need_x else None, d_angles if need_angles else None, None, None


_circuit.register_autograd(_op_backward, setup_context=_save)


def _one_by_one(function: Any, info: Any, in_dims: tuple[int | None, ...], args: tuple[Any, ...]) -> Any:
    """A vmap rule: one call per element of the mapped dimension."""
    calls = [
        function(*(arg if dim is None else arg.select(dim, i) for arg, dim in zip(args, in_dims)))
        for i in range(info.batch_size)
    ]
    return tuple(torch.stack(parts) for parts in zip(*calls)), (0, 0)


class _CircuitFunction(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, angles: Tensor, description: str, n_outputs: int) -> tuple[Tensor, Tensor]:
        return run_program(program(description), x, angles)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        _save(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor, _norms: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        need_x, need_angles = ctx.needs_input_grad[:2]
        d_x, d_angles = _BackwardFunction.apply(cotangent, *ctx.saved_tensors, ctx.description, need_x, need_angles)
        return d_x if need_x else None, d_angles if need_angles else None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return _one_by_one(_CircuitFunction.apply, info, in_dims, args)


class _BackwardFunction(torch.autograd.Function):
    """The backward pass, as a function of its own so that torch.func can map it over a dimension."""

    @staticmethod
    def forward(
        cotangent: Tensor,
        x: Tensor,
        angles: Tensor,
        out: Tensor,
        norms: Tensor,
        description: str,
        need_x: bool,
        need_angles: bool,
    ) -> tuple[Tensor, Tensor]:
        return run_program_back(program(description), cotangent, x, angles, out, norms, need_x, need_angles)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise NotImplementedError(
            "ketune.circuits.run has no second derivatives; ketune.circuits.simulate has, from plain torch operations"
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return _one_by_one(_BackwardFunction.apply, info, in_dims, args)


def run(
    circuit: Circuit,
    x: Tensor,
    angles: Tensor,
    *,
    encoding: str = "amplitude",
    readout: Readout = "pauli_z",
    n_readouts: int | None = None,
) -> Tensor:
    """Runs a circuit on a batch of feature vectors.

    Amplitude encoding pads the features with zeros on the right to `2 ** n_wires` and normalises them; a zero vector
    reads out as zeros, with zero gradients (squared norms below 1e-30 count as 1e-30). Angle encoding applies RY(x_q)
    to |0> on wire q; wires without a feature stay |0>.

    Args:
        circuit: the circuit, 1 to 14 wires.
        x: (..., n_features) features of any floating type; at most `2 ** n_wires` of them for amplitude encoding, at
            most `n_wires` (in radians) for angle encoding. Any leading dimensions, empty ones too.
        angles: (n_angles,) angles of the circuit in radians.
        encoding: "amplitude" or "angle".
        readout: what to compute from the final state psi:

            - "pauli_z": the expectation of Z on each wire, (n_wires,), in [-1, 1];
            - "probabilities": |psi_j|^2 of each basis state, (2 ** n_wires,);
            - Pauli words such as `["ZZI", "XIY"]`: the expectation of each. Words that one basis change measures
              together cost one run, every further group one more;
            - "amplitudes": the real parts of the first `n_readouts` amplitudes of U x, without normalisation: linear in
              the features and sign-preserving. In a circuit with complex gates the imaginary parts are dropped, so that
              the readout stays real and linear.
        n_readouts: for readout "amplitudes", how many; all by default.

    Returns:
        (..., k) readouts in float32, or in float64 when features or angles are float64. Features of half precision are
        lifted to float32 inside, and autocast does not reach the circuit.

    Raises:
        ValueError: for an unknown encoding or readout, too many wires or features, or angles of another shape.

    Example:
        >>> import torch
        >>> from ketune.circuits import ry_ring, run
        >>> run(ry_ring(2), torch.tensor([[1.0, 0, 0, 0]]), torch.zeros(2))
        tensor([[1., 1.]])
    """
    checked = check_program(circuit, x.shape[-1] if x.ndim else 0, encoding, readout, n_readouts)
    if angles.shape != (circuit.n_angles,):
        raise ValueError(f"angles have shape {tuple(angles.shape)}; this circuit takes ({circuit.n_angles},)")
    if angles.device != x.device:
        raise ValueError(f"angles are on {angles.device}, features on {x.device}; move one of them")
    if not x.is_floating_point() or not angles.is_floating_point():
        raise ValueError(f"features and angles must be floating-point tensors, not {x.dtype} and {angles.dtype}")
    n_outputs = count_readouts(circuit.n_wires, checked, n_readouts)
    description = describe(circuit.text, encoding, checked, n_readouts, x.shape[-1])
    batch = x.reshape(-1, x.shape[-1])
    function = _circuit if torch.compiler.is_compiling() else _CircuitFunction.apply
    out, _ = function(batch, angles, description, n_outputs)
    return out.view(*x.shape[:-1], n_outputs)


def check_program(
    circuit: Circuit, n_features: int, encoding: str, readout: Readout, n_readouts: int | None
) -> str | tuple[str, ...]:
    """Checks that `run` takes these arguments and returns the readout as a name or a tuple of Pauli words.

    Raises:
        ValueError: as `run`.
    """
    n_wires = circuit.n_wires
    if n_wires > MAX_WIRES:
        raise ValueError(f"the circuit has {n_wires} wires; the simulator takes at most {MAX_WIRES}")
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding={encoding!r}: unknown encoding; choose one of {', '.join(map(repr, ENCODINGS))}")
    largest = 2**n_wires if encoding == "amplitude" else n_wires
    if not 1 <= n_features <= largest:
        raise ValueError(f"{n_features} features: {encoding} encoding on {n_wires} wires takes 1 to {largest}")
    checked = check_readout(readout, n_wires)
    count_readouts(n_wires, checked, n_readouts)
    return checked
