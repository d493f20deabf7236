"""In which precision float32 matrices are multiplied, whatever torch's global setting says.

`torch.set_float32_matmul_precision` is one setting for the whole process, made for the layers of a network. A circuit
must not follow it unasked: ten bits of mantissa in every layer cost half the digits of an expectation value. So the
simulator holds the setting at full float32 while it enqueues its own products, and where the caller asks for TF32 it
allows TF32 for just those products.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

MATMUL_PRECISIONS = ("highest", "tf32x3", "tf32")
"""How float32 products are done: in full, as three TF32 products of leading and trailing digits, or as one."""

_FULL = ("ieee", "none")
_get = getattr(torch._C, "_get_fp32_precision_getter", None)  # by backend, since torch 2.9
_set = getattr(torch._C, "_set_fp32_precision_setter", None)
_BACKENDS = ("cuda", "mkldnn")

_lock = threading.RLock()
_tf32_was_asked_for = False  # then every simulation takes the lock, as another thread may allow TF32 for a moment


def check_matmul_precision(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: when it is none of `MATMUL_PRECISIONS`.
    """
    if name not in MATMUL_PRECISIONS:
        choices = ", ".join(map(repr, MATMUL_PRECISIONS))
        raise ValueError(f"matmul_precision={name!r}: unknown precision; choose one of {choices}")
    return name


def _is_full() -> bool:
    if _get is None:
        return torch.get_float32_matmul_precision() == "highest"
    return _get("cuda", "matmul") in _FULL and _get("mkldnn", "matmul") in _FULL


def _settings() -> tuple[str, dict[str, str]]:
    """The setting of torch's older interface, and those by backend."""
    try:
        whole = torch.get_float32_matmul_precision()
    except RuntimeError:  # set by backend, to what the older interface has no word for
        whole = "highest"
    return whole, {} if _get is None else {backend: _get(backend, "matmul") for backend in _BACKENDS}


def _restore(settings: tuple[str, dict[str, str]]) -> None:
    if not _is_full():
        return  # somebody else has set it meanwhile, and wants it so
    whole, by_backend = settings
    torch.set_float32_matmul_precision(whole)
    for backend, value in by_backend.items():
        if _get is not None and _set is not None and _get(backend, "matmul") != value:
            _set(backend, "matmul", value)


class full_float32:
    """Holds torch at full float32 products inside a `with`, and restores the user's setting.

    Costs a microsecond where the setting is the default. Otherwise a lock keeps simulations of several threads from
    undoing each other's setting. Products that other threads enqueue meanwhile, outside Ketune, are done in full too.

    Args:
        exclusive: take the lock in any case, because TF32 will be allowed for single products.
    """

    def __init__(self, exclusive: bool = False) -> None:
        self._exclusive = exclusive

    def __enter__(self) -> None:
        global _tf32_was_asked_for
        _tf32_was_asked_for = _tf32_was_asked_for or self._exclusive
        self._saved: tuple[str, dict[str, str]] | None = None
        self._holds_lock = _tf32_was_asked_for or not _is_full()
        if self._holds_lock:
            _lock.acquire()
            if not _is_full():
                self._saved = _settings()
                torch.set_float32_matmul_precision("highest")

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            _restore(self._saved)
        if self._holds_lock:
            _lock.release()


def in_full_float32(function: Callable[P, T]) -> Callable[P, T]:
    """A function that runs between `full_float32`."""

    @wraps(function)
    def guarded(*args: P.args, **arguments: P.kwargs) -> T:
        with full_float32():
            return function(*args, **arguments)

    return guarded


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """A context in which autocast does not reach the circuit; none where it is off anyway."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def rounded_to_tf32(tensor: Tensor) -> Tensor:
    """A float32 tensor with mantissas of ten bits, rounded to nearest, ties away from zero (as `cvt.rna.tf32`)."""
    return ((tensor.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)


class Products:
    """Matrix products as torch does them, between `full_float32`; written to `into` where that is given."""

    def mm(self, left: Tensor, right: Tensor, into: Tensor | None = None) -> Tensor:
        """(m, k) times (k, n)."""
        return torch.mm(left, right, out=into)

    def bmm(self, left: Tensor, right: Tensor) -> Tensor:
        """(batch, m, k) times (batch, k, n)."""
        return torch.bmm(left, right)

    def each_with_one(self, left: Tensor, right: Tensor, into: Tensor | None = None) -> Tensor:
        """Each of (batch, m, k) times (k, n)."""
        return torch.bmm(left, right.expand(left.shape[0], -1, -1), out=into)

    def one_with_each(self, left: Tensor, right: Tensor, into: Tensor | None = None) -> Tensor:
        """(m, k) times each of (batch, k, n)."""
        return torch.bmm(left.expand(right.shape[0], -1, -1), right, out=into)

    def add_mm(self, out: Tensor, left: Tensor, right: Tensor) -> None:
        """Adds (m, k) times (k, n) to `out`."""
        out.addmm_(left, right)

    def add_bmm(self, out: Tensor, left: Tensor, right: Tensor) -> None:
        """Adds (batch, m, k) times (batch, k, n) to `out`."""
        out.baddbmm_(left, right)


class _Tf32Products(Products):
    """Products on TF32 tensor cores, or, away from CUDA, in float32 on numbers that are rounded as those cores do.

    Args:
        three: split each factor into leading and trailing digits and add three products, which leaves out only the
            product of the trailing ones: nearly the error of float32.
        on_cuda: use the tensor cores.
    """

    def __init__(self, three: bool, on_cuda: bool) -> None:
        self._three, self._on_cuda = three, on_cuda

    def _parts(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """The leading digits, and the trailing ones where they count too."""
        if not self._three:
            return (tensor,) if self._on_cuda else (rounded_to_tf32(tensor),)
        leading = rounded_to_tf32(tensor)
        trailing = tensor - leading
        return leading, trailing if self._on_cuda else rounded_to_tf32(trailing)

    def _sum(self, out: Tensor | None, left: Tensor, right: Tensor, into: Tensor | None = None) -> Tensor:
        lefts, rights = self._parts(left), self._parts(right)
        if left.ndim < right.ndim:
            lefts = tuple(part.expand(right.shape[0], -1, -1) for part in lefts)
        elif right.ndim < left.ndim:
            rights = tuple(part.expand(left.shape[0], -1, -1) for part in rights)
        pairs = [(lefts[-1], rights[0]), (lefts[0], rights[-1]), (lefts[0], rights[0])] if self._three else []
        if self._on_cuda:
            torch.set_float32_matmul_precision("high")
        try:
            for a, b in pairs or [(lefts[0], rights[0])]:
                if out is None:
                    out = torch.mm(a, b, out=into) if a.ndim == 2 else torch.bmm(a, b, out=into)
                elif out.ndim == 2:
                    out.addmm_(a, b)
                else:
                    out.baddbmm_(a, b)
        finally:
            if self._on_cuda:
                torch.set_float32_matmul_precision("highest")
        assert out is not None
        return out

    def mm(self, left: Tensor, right: Tensor, into: Tensor | None = None) -> Tensor:
        return self._sum(None, left, right, into=into)

    def bmm(self, left: Tensor, right: Tensor) -> Tensor:
        return self._sum(None, left, right)

    def one_with_each(self, left: Tensor, right: Tensor, into: Tensor | None = None) -> Tensor:
        return self._sum(None, left, right, into)

    def each_with_one(self, left: Tensor, right: Tensor, into: Tensor | None = None) -> Tensor:
        return self._sum(None, left, right, into)

    def add_mm(self, out: Tensor, left: Tensor, right: Tensor) -> None:
        self._sum(out, left, right)

    def add_bmm(self, out: Tensor, left: Tensor, right: Tensor) -> None:
        self._sum(out, left, right)


_full_products = Products()


def products_for(matmul_precision: str, device_type: str, dtype: torch.dtype) -> Products:
    """How a plan multiplies; anything but float32 is multiplied in full."""
    if matmul_precision == "highest" or dtype != torch.float32:
        return _full_products
    return _Tf32Products(matmul_precision == "tf32x3", device_type == "cuda")


def simulation_guard(matmul_precision: str, device_type: str) -> full_float32:
    """The context in which a simulation with `products_for` of the same arguments runs."""
    return full_float32(exclusive=matmul_precision != "highest" and device_type == "cuda")
