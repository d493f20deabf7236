"""A circuit as an operation that torch differentiates, maps and compiles.

Two doors to the same functions. Under torch.compile a circuit is one operator, which the compiler does not look into;
otherwise it is an autograd.Function, which costs less per call, composes with torch.func and has forward mode. Features
and angles come as (B, n_features) and (n_angles,), or as sets, see `ketune.circuits._batched_angles`. The first
derivative is that of the simulator; from the second on they go through the plain reference.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._functorch import eager_transforms
from torch.autograd import forward_ad

from ketune.circuits._batched_angles import (
    compiled_form,
    evaluate,
    pull_back,
    run_batched_angles,
    run_batched_angles_back,
    second_order,
)
from ketune.circuits._dtypes import compute_dtype
from ketune.circuits._execute import finds_norms_again, run_program, run_program_back, squared_norms
from ketune.circuits._plan import program


def _forward(x: Tensor, angles: Tensor, description: str) -> tuple[Tensor, Tensor]:
    if angles.ndim == 2:
        return run_batched_angles(description, x, angles)
    if _as_many_sets(description, x):
        out, norms = run_batched_angles(description, x[None], angles[None])
        return out[0], norms[0]
    return run_program(program(description), x, angles)


def _as_many_sets(description: str, x: Tensor) -> bool:
    """Whether samples that share their angles run as if each had its own: where features are angles as well."""
    return description.startswith("angle") and compiled_form(description, x, 1) is not None


def _backward(
    cotangent: Tensor,
    x: Tensor,
    angles: Tensor,
    out: Tensor,
    norms: Tensor | None,
    description: str,
    need_x: bool,
    need_angles: bool,
) -> tuple[Tensor, Tensor]:
    if torch._C._functorch.is_legacy_batchedtensor(cotangent):  # pyright: ignore[reportAttributeAccessIssue]
        raise NotImplementedError(
            "ketune.circuits.run does not take is_grads_batched=True (or vectorize=True of torch.autograd.functional); "
            "torch.func.jacrev, torch.func.hessian and torch.func.vmap do the same"
        )
    if angles.ndim == 2:
        assert norms is not None
        return run_batched_angles_back(description, cotangent, x, angles, out, norms, need_x, need_angles)
    if _as_many_sets(description, x):
        norms = out.new_ones(len(out))  # of states that features turn out of |0...0>
        d_x, d_angles = run_batched_angles_back(
            description, cotangent[None], x[None], angles[None], out[None], norms[None], need_x, need_angles
        )
        return d_x[0] if need_x else d_x, d_angles[0] if need_angles else d_angles
    return run_program_back(program(description), cotangent, x, angles, out, norms, need_x, need_angles)


def _second_order(
    description: str, cotangent: Tensor, x: Tensor, angles: Tensor, v_x: Tensor | None, v_angles: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`second_order` for both forms of the arguments; a direction that is None or of another shape is zero."""
    v_x = v_x if v_x is not None and v_x.shape == x.shape else torch.zeros_like(x)
    v_angles = v_angles if v_angles is not None and v_angles.shape == angles.shape else torch.zeros_like(angles)
    if angles.ndim == 2:
        return second_order(description, cotangent, x, angles, v_x, v_angles)
    product, d_x, d_angles = second_order(description, *(t[None] for t in (cotangent, x, angles, v_x, v_angles)))
    return product[0], d_x[0], d_angles[0]


@torch.library.custom_op("ketune::circuit", mutates_args=())
def _circuit(x: Tensor, angles: Tensor, description: str, n_outputs: int) -> tuple[Tensor, Tensor]:
    return _forward(x, angles, description)


@_circuit.register_fake
def _(x: Tensor, angles: Tensor, description: str, n_outputs: int) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(x, angles)
    shape = x.shape[:-1] if angles.ndim == 1 else (angles.shape[0], x.shape[1])
    return x.new_empty(*shape, n_outputs, dtype=dtype), x.new_empty(shape, dtype=dtype)


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
    return _backward(cotangent, x, angles, out, norms, description, need_x, need_angles)


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
    d_angles = torch.empty_like(angles, memory_format=torch.contiguous_format) if need_angles else angles.new_empty(0)
    return d_x, d_angles


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, angles, ctx.description, _ = inputs
    ctx.save_for_backward(x, angles, *output)


def _save_for_second(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    cotangent, x, angles, _, _, ctx.description, _, _ = inputs
    ctx.save_for_backward(cotangent, x, angles)


def _op_backward(ctx: Any, cotangent: Tensor, _norms: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    need_x, need_angles = ctx.needs_input_grad[:2]
    d_x, d_angles = _circuit_backward(cotangent, *ctx.saved_tensors, ctx.description, need_x, need_angles)
    return d_x if need_x else None, d_angles if need_angles else None, None, None


def _second_backward(ctx: Any, dd_x: Tensor | None, dd_angles: Tensor | None) -> tuple[Tensor | None, ...]:
    # Readouts and norms among the arguments are functions of the others, which carry their derivative already.
    cotangent, x, angles = ctx.saved_tensors
    parts = _second_order(ctx.description, cotangent, x, angles, dd_x, dd_angles)
    d_cotangent, d_x, d_angles = (part if need else None for part, need in zip(parts, ctx.needs_input_grad))
    return d_cotangent, d_x, d_angles, None, None, None, None, None


_circuit.register_autograd(_op_backward, setup_context=_save)
_circuit_backward.register_autograd(_second_backward, setup_context=_save_for_second)


def _first(tensor: Tensor, dim: int | None) -> Tensor:
    """The mapped dimension in front, where there is one."""
    return tensor if dim is None else tensor.movedim(dim, 0)


def _map_forward(function: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], args: Any) -> Any:
    """The vmap rule of a circuit: mapped features are more samples, mapped angles more sets of angles."""
    x, angles, *rest = args
    count, x_mapped, angles_mapped = info.batch_size, in_dims[0] is not None, in_dims[1] is not None
    x, angles = _first(x, in_dims[0]), _first(angles, in_dims[1])
    if angles.ndim - angles_mapped == 1:
        if angles_mapped:
            return function(x if x_mapped else x[None], angles, *rest), (0, 0)
        shape = x.shape[:2]
        out, norms = function(x.flatten(0, 1), angles, *rest)
    else:
        shape = (count, angles.shape[-2])
        if x_mapped or x.shape[0] > 1:
            x = x.expand(*shape, *x.shape[-2:]) if x.ndim == 4 else x.expand(shape[1], -1, -1).expand(*shape, -1, -1)
            x = x.flatten(0, 1)
        out, norms = function(x, angles.expand(*shape, -1).flatten(0, 1), *rest)
    return (out.unflatten(0, shape), norms.unflatten(0, shape)), (0, 0)


def _map_backward(function: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], args: Any) -> Any:
    """The vmap rule of a circuit's backward pass, which becomes one with sets of angles."""
    count, rest = info.batch_size, args[5:]
    *_, need_x, need_angles = args
    cotangent, x, angles, out, norms = (
        tensor.expand(count, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(args[:5], in_dims)
    )
    if angles.ndim == 2:
        d_x, d_angles = function(cotangent, x, angles, out, norms, *rest)
    else:
        shape, shared = angles.shape[:2], x.shape[1] == 1
        x = x.expand(-1, shape[1], -1, -1)
        flat = (tensor.flatten(0, 1) for tensor in (cotangent, x, angles, out, norms))
        d_x, d_angles = function(*flat, *rest)
        d_x = d_x.unflatten(0, shape) if need_x else d_x
        d_x = d_x.sum(1, keepdim=True) if need_x and shared else d_x
        d_angles = d_angles.unflatten(0, shape) if need_angles else d_angles
    return (d_x if need_x else d_x.expand(count, 0), d_angles if need_angles else d_angles.expand(count, 0)), (0, 0)


def _own(tensor: Tensor) -> Tensor:
    """A tensor that lies in one piece and is no view: in forward mode torch takes a value and its tangent for views of
    one layout where either is one, and some simulators give the transpose of what they computed."""
    return tensor.clone(memory_format=torch.contiguous_format)


class CircuitFunction(torch.autograd.Function):
    """Readouts and squared norms; arguments as the operator `ketune::circuit`."""

    @staticmethod
    def forward(x: Tensor, angles: Tensor, description: str, n_outputs: int) -> tuple[Tensor, Tensor]:
        out, norms = _forward(x, angles, description)
        return _own(out), norms

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_forward(*inputs[:2], output[0])
        _save(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor, _norms: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        need_x, need_angles = ctx.needs_input_grad[:2]
        d_x, d_angles = _BackwardFunction.apply(cotangent, *ctx.saved_tensors, ctx.description, need_x, need_angles)
        return d_x if need_x else None, d_angles if need_angles else None, None, None

    @staticmethod
    def jvp(ctx: Any, t_x: Tensor | None, t_angles: Tensor | None, *_rest: Any) -> Any:
        x, angles, out = ctx.saved_tensors[:3]
        product, _, _ = _second_order(ctx.description, torch.zeros_like(out), x, angles, t_x, t_angles)
        return _own(product), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return _map_forward(CircuitFunction.apply, info, in_dims, args)


class _BackwardFunction(torch.autograd.Function):
    """The backward pass, as a function of its own so that it can be differentiated and mapped too."""

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
        return _backward(cotangent, x, angles, out, norms, description, need_x, need_angles)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_forward(*inputs[:3])
        ctx.needs = inputs[6:]
        _save_for_second(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, dd_x: Tensor, dd_angles: Tensor) -> tuple[Tensor | None, ...]:
        return _second_backward(ctx, dd_x, dd_angles)

    @staticmethod
    def jvp(
        ctx: Any, t_cotangent: Tensor | None, t_x: Tensor | None, t_angles: Tensor | None, *_rest: Any
    ) -> tuple[Tensor, Tensor]:
        cotangent, x, angles = ctx.saved_tensors
        need_x, need_angles = ctx.needs
        _, d_x, d_angles = _second_order(ctx.description, cotangent, x, angles, t_x, t_angles)
        if t_cotangent is not None:
            sets = (t[None] if angles.ndim == 1 else t for t in (t_cotangent, x, angles))
            more_x, more_angles = pull_back(ctx.description, *sets)
            d_x, d_angles = d_x + more_x.view_as(d_x), d_angles + more_angles.view_as(d_angles)
        return d_x if need_x else x.new_zeros(0), d_angles if need_angles else angles.new_zeros(0)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return _map_backward(_BackwardFunction.apply, info, in_dims, args)


class _EagerFunction(torch.autograd.Function):
    """The same for plain eager mode, where torch has half the work to do for a call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, angles: Tensor, description: str) -> Tensor:
        out, norms = _forward(x, angles, description)
        ctx.description = description
        finds_norms = angles.ndim == 1 and finds_norms_again(program(description), x)
        ctx.save_for_backward(x, angles, out, None if finds_norms else norms)
        return out

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        need_x, need_angles, _ = ctx.needs_input_grad
        x, angles, out, norms = ctx.saved_tensors
        pull: Callable[..., Any] = _backward
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            pull = _BackwardFunction.apply
            norms = squared_norms(program(ctx.description).plans[0], x.detach(), out.dtype) if norms is None else norms
        d_x, d_angles = pull(cotangent, x, angles, out, norms, ctx.description, need_x, need_angles)
        return d_x if need_x else None, d_angles if need_angles else None, None


@_circuit.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    return _map_forward(_circuit, info, in_dims, args)


@_circuit_backward.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    return _map_backward(_circuit_backward, info, in_dims, args)


def apply_circuit(x: Tensor, angles: Tensor, description: str, n_outputs: int) -> Tensor:
    """Readouts of a batch.

    Args:
        x: (B, n_features); for sets of angles (A, S, n_features), or (1, S, n_features) for all of them.
        angles: (n_angles,), or (A, n_angles) for sets.
        description: what to run, see `ketune.circuits._plan.describe`.
        n_outputs: number of readouts k.

    Returns:
        (B, k), or (A, S, k).
    """
    if torch.compiler.is_compiling():
        return _circuit(x, angles, description, n_outputs)[0]
    if getattr(eager_transforms, "JVP_NESTING", 0) > 1:
        # Forward mode over forward mode: torch takes the outer derivative of no autograd.Function, and gives zeros.
        sets = (x, angles) if angles.ndim == 2 else (x[None], angles[None])
        out, _ = evaluate(description, *sets)
        return out if angles.ndim == 2 else out[0]
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return CircuitFunction.apply(x, angles, description, n_outputs)[0]
    return _EagerFunction.apply(x, angles, description)
