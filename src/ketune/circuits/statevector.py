"""`run`: a circuit on a batch of features, differentiable in features and angles. The batched statevector simulator.

How it works. Everything heavy is a matrix product on chunks of samples that fit the processor's cache; no state is kept
for the backward pass, which recomputes each chunk from the features; circuits of real gates run in real arithmetic; the
squared norm comes out of the readout's product as one more column, so that features are never normalised beforehand;
CNOTs are a reading of rows in another order and the last ones only rename the readout. A cost model decides between
building the circuit's matrix once and running its layers on the states (`Plan.builds_matrix`).
"""

import math
from collections.abc import Hashable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ketune.circuits._apart import apart
from ketune.circuits._dtypes import compute_dtype
from ketune.circuits._operators import apply_circuit
from ketune.circuits._plan import describe
from ketune.circuits._precision import check_matmul_precision
from ketune.circuits.circuit import Circuit
from ketune.circuits.observables import ENCODINGS, Readout, check_readout, count_readouts, split_readout

MAX_WIRES = 14
"""Largest circuit that `run` takes."""


@torch.library.custom_op("ketune::check_bits", mutates_args=())
def _check_bits(x: Tensor) -> Tensor:
    """The features, after a look at each. An operator, so that the look happens under torch.compile and vmap too.

    Looking means waiting for the device, so there is none while a CUDA graph is recorded, nor for want of values.
    """
    if x.is_meta or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
        return x.clone()
    wrong = x[(x != 0) & (x != 1)]
    if len(wrong):
        raise ValueError(f"encoding='basis' takes features that are 0 or 1, not {wrong[0].item()}; round them first")
    return x.clone()


@_check_bits.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@_check_bits.register_vmap
def _(info: object, in_dims: tuple[int | None], x: Tensor) -> tuple[Tensor, int | None]:
    return _check_bits(x), in_dims[0]


def _bits_as_angles(x: Tensor, dtype: torch.dtype) -> Tensor:
    """RY(pi) turns |0> into |1>."""
    return _check_bits(x.detach().to(dtype)) * math.pi


def run(
    circuit: Circuit,
    x: Tensor | None,
    angles: Tensor,
    *,
    encoding: str = "amplitude",
    readout: Readout = "pauli_z",
    n_readouts: int | None = None,
    n_repeats: int = 1,
    matmul_precision: str = "highest",
) -> Tensor:
    """Runs a circuit on a batch of feature vectors.

    Derivatives. The first derivative is exact and keeps no states. Second and higher ones (gradients of gradient
    steps), forward mode (torch.func.jvp, torch.autograd.forward_ad), torch.func.hessian, jacfwd, jacrev and vmap work
    too. From the second derivative on, and in forward mode, a plain path in chunks does the work; a gradient of a
    gradient step costs 8 to 60 times a gradient, from 4 to 10 wires. Third derivatives keep what they need in memory.
    Under torch.compile, torch takes second derivatives and forward mode of no function: call `run` outside for them.

    CUDA. After the first call nothing waits for the device or copies to it, so calls can be captured in CUDA graphs, by
    hand or with `torch.compile(mode="reduce-overhead")`. Only basis encoding looks at its features, and not during a
    capture. Circuits run as matrix products, or in Triton kernels where `calibrate` measured those to be faster.

    Several sets of angles, too, run in compiled code and in pieces of bounded memory, without a loop in Python where
    there are few samples per set.

    Args:
        circuit: the circuit, 1 to 14 wires.
        x: (..., n_features) features of any floating type (for "basis" of any type); None starts in |0...0>. Any
            leading dimensions, empty ones too.
        angles: (n_angles,) angles of the circuit in radians, or (..., n_angles) with leading dimensions that broadcast
            with those of the features: a set of angles for each sample, or several sets for all of them.
        encoding: how features become a state:

            - "amplitude": up to `2 ** n_wires` features, padded with zeros on the right and normalised. A zero vector
              reads out as zeros, with zero gradients (squared norms below 1e-30 count as 1e-30);
            - "angle": up to `n_wires` features in radians, RY(x_q) on |0> of wire q;
            - "basis": up to `n_wires` features that are 0 or 1, the bits of a basis state; no gradient reaches them;
            - "iqp": up to `n_wires` features: H on every wire, RZ(x_q) on wire q, exp(-i x_p x_q Z_p Z_q / 2) on every
              pair, all of it `n_repeats` times (Havlíček et al., Nature 567, 209, 2019; PennyLane's `IQPEmbedding`).

            Wires beyond the features stay |0>; for "iqp" their features are 0.
        readout: what to compute from the final state psi:

            - "pauli_z": the expectation of Z on each wire, (n_wires,), in [-1, 1];
            - "probabilities": |psi_j|^2 of each basis state, (2 ** n_wires,);
            - Pauli words such as `["ZZI", "XIY"]`: the expectation of each. Words that one basis change measures
              together cost one run, every further group one more;
            - a `Hamiltonian`, (1,), or a sequence of them: their expectations;
            - "amplitudes": the real parts of the first `n_readouts` amplitudes of U x, without normalisation: linear in
              the features and sign-preserving. In a circuit with complex gates the imaginary parts are dropped, so that
              the readout stays real and linear.
        n_readouts: for readout "amplitudes", how many; all by default.
        n_repeats: for encoding "iqp", how often it repeats.
        matmul_precision: how float32 states are multiplied by the circuit's matrices on a GPU, whatever
            `torch.set_float32_matmul_precision` says: "highest" in full float32; "tf32x3" by three products on TF32
            tensor cores, with nearly the same error; "tf32" by one, which leaves about three correct digits. A CPU
            gives the two others' rounding errors at the cost of speed, for measuring them
            (`benchmarks/precision.py`). Norms and readouts, float64, IQP encoding, second derivatives, forward mode and
            many sets of angles with few samples each are always in full.

    Returns:
        (..., k) readouts in float32, or in float64 when features or angles are float64. Features of half precision are
        lifted to float32 inside, and autocast does not reach the circuit.

    Raises:
        ValueError: for an unknown encoding, readout or precision, too many wires or features, angles of another shape,
            or features of basis encoding that are not bits.

    Example:
        >>> import torch
        >>> from ketune.circuits import ry_ring, run
        >>> run(ry_ring(2), torch.tensor([[1.0, 0, 0, 0]]), torch.zeros(2))
        tensor([[1., 1.]])
        >>> run(ry_ring(2), None, torch.tensor([[0.0, 0.0], [0.0, torch.pi]])).round()
        tensor([[ 1.,  1.],
                [ 1., -1.]])
    """
    measured, weights = _split_readout(readout, circuit.n_wires)
    return run_measured(circuit, x, angles, encoding, measured, weights, n_readouts, n_repeats, matmul_precision)


def _split_readout(readout: Readout, n_wires: int) -> tuple[str | tuple[str, ...], Tensor | None]:
    if isinstance(readout, str) or torch.compiler.is_compiling():
        return split_readout(readout, n_wires)
    return _kept_split(readout if isinstance(readout, Hashable) else tuple(readout), n_wires)


_kept_split = lru_cache(maxsize=256)(split_readout)


def run_measured(
    circuit: Circuit,
    x: Tensor | None,
    angles: Tensor,
    encoding: str,
    measured: str | tuple[str, ...],
    weights: Tensor | None,
    n_readouts: int | None,
    n_repeats: int,
    matmul_precision: str,
) -> Tensor:
    """`run` of a readout that `split_readout` has taken apart."""
    if x is None:
        x, encoding = angles.new_ones(1), "amplitude"
    check_program(circuit, x.shape[-1] if x.ndim else 0, encoding, measured, n_readouts, n_repeats)
    check_matmul_precision(matmul_precision)
    if angles.ndim == 0 or angles.shape[-1] != circuit.n_angles:
        raise ValueError(f"angles have shape {tuple(angles.shape)}; this circuit takes (..., {circuit.n_angles})")
    if angles.device != x.device:
        raise ValueError(f"angles are on {angles.device}, features on {x.device}; move one of them")
    if encoding == "basis":
        x, encoding = _bits_as_angles(x, compute_dtype(x, angles)), "angle"
    if not x.is_floating_point() or not angles.is_floating_point():
        raise ValueError(f"features and angles must be floating-point tensors, not {x.dtype} and {angles.dtype}")
    n_outputs = count_readouts(circuit.n_wires, measured, n_readouts)
    encoding = f"iqp:{n_repeats}" if encoding == "iqp" else encoding
    description = describe(circuit.text, encoding, measured, n_readouts, x.shape[-1], matmul_precision)
    if encoding.startswith("iqp") or angles.ndim > 1:
        out = _run_sets(x, angles, description, n_outputs)
    elif x.ndim == 2:
        out = apply_circuit(x, angles, description, n_outputs)
    else:
        batch = x.reshape(-1, x.shape[-1])
        out = apply_circuit(batch, angles, description, n_outputs).view(*x.shape[:-1], n_outputs)
    if weights is None:
        return out
    # Sums rather than a matrix product, which would follow torch's setting for those, there and on the way back.
    columns = _on(weights, out.device, out.dtype).unbind(1)
    return torch.stack([(out * column).sum(-1) for column in columns], -1)


_copies = WeakIdKeyDictionary()


def _on(weights: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The coefficients on a device, copied there once: a copy from the host would wait for all that runs."""
    if weights.device == device or torch.compiler.is_compiling():
        return weights.to(device, dtype)
    copies: Any = _copies.setdefault(weights, {})
    if (device, dtype) not in copies:
        copies[device, dtype] = apart(lambda: weights.detach().to(device, dtype))
    return copies[device, dtype]


def _run_sets(x: Tensor, angles: Tensor, description: str, n_outputs: int) -> Tensor:
    """Angles with leading dimensions: those that count sets of angles go before those that count their samples."""
    try:
        lead = torch.broadcast_shapes(x.shape[:-1], angles.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"leading dimensions of features {tuple(x.shape[:-1])} and angles {tuple(angles.shape[:-1])} do not "
            "broadcast; give both the same, or 1 where one is shared"
        ) from None
    x = x.reshape((1,) * (len(lead) + 1 - x.ndim) + tuple(x.shape))
    angles = angles.reshape((1,) * (len(lead) + 1 - angles.ndim) + tuple(angles.shape))
    set_dims = [d for d in range(len(lead)) if angles.shape[d] != 1]
    order = set_dims + [d for d in range(len(lead)) if angles.shape[d] == 1]
    sets, samples = [lead[d] for d in set_dims], [lead[d] for d in order[len(set_dims) :]]
    n_sets, n_samples = math.prod(sets), math.prod(samples)
    angles = angles.reshape(n_sets, angles.shape[-1])
    x = x.permute(*order, -1)
    if all(size == 1 for size in x.shape[: len(sets)]):
        x = x.reshape(1, n_samples, x.shape[-1])
    else:
        x = x.expand(*sets, *samples, -1).reshape(n_sets, n_samples, x.shape[-1])
    if n_sets == 1 and not description.startswith("iqp"):
        out = apply_circuit(x[0], angles[0], description, n_outputs)
    else:
        out = apply_circuit(x, angles, description, n_outputs)
    out = out.view(*sets, *samples, n_outputs)
    return out.permute(*(order.index(d) for d in range(len(lead))), -1)


def check_program(
    circuit: Circuit,
    n_features: int,
    encoding: str,
    readout: Readout,
    n_readouts: int | None,
    n_repeats: int = 1,
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
    if n_repeats < 1 or (n_repeats > 1 and encoding != "iqp"):
        raise ValueError(f"n_repeats={n_repeats}: at least 1, and more than 1 only for encoding='iqp'")
    checked = check_readout(readout, n_wires)
    count_readouts(n_wires, checked, n_readouts)
    return checked
