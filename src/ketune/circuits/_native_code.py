"""Machine code for the native simulator: kernels compiled in the process on first use, and the loop that runs them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from functools import cache, lru_cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from ketune.circuits import (
    _native_angles,
    _native_angles_back,
    _native_ends,
    _native_passes,
    _native_sets_code,
    _native_sets_turns,
    _native_words,
)
from ketune.circuits._native_emitter import I64, POINTER, RECORD, Emitter

_EMITTERS: dict[str, Callable[..., None]] = {
    "forward": _native_passes.emit_forward,
    "backward": _native_passes.emit_backward,
    "load": _native_ends.emit_load,
    "zero": _native_ends.emit_zero,
    "store": _native_ends.emit_store,
    "readout": _native_words.emit_readout,
    "seed": _native_words.emit_seed,
    "scale": _native_ends.emit_scale,
    "clear": _native_ends.emit_clear,
    "collect": _native_ends.emit_collect,
    "angles": _native_angles.emit_angles,
    "angles_back": _native_angles_back.emit_angles_back,
    **_native_sets_code.EMITTERS,
    **_native_sets_turns.EMITTERS,
}


class Control(IntEnum):
    """Positions in the numbers of `driver`."""

    NEXT = 0  # the next piece that nobody works on; threads count it up
    PIECES = 1
    BLOCKS = 2
    BLOCKS_OF_A_PIECE = 3
    BEFORE = 4  # records that run once before the blocks of a piece
    RECORDS = 5  # records that run on every block
    AFTER = 6  # records that run once after the blocks of a piece


def _emit_driver(e: Emitter) -> None:
    """`void drive(workspace, records, io, control)`: takes pieces of the batch until none is left.

    A piece is a few blocks that follow each other. Several threads share the control, so that whoever is done first
    takes the next piece. Which thread takes which piece changes nothing: each piece has its own sums.
    """
    function = ir.Function(e.module, ir.FunctionType(ir.VoidType(), [POINTER] * 4), "drive")
    workspace, records, io, control = function.args
    e.b = b = ir.IRBuilder(function.append_basic_block("entry"))

    def number(which: Control) -> Any:
        return b.load(b.gep(control, [I64(which)], source_etype=I64), typ=I64)

    pieces, blocks, length = number(Control.PIECES), number(Control.BLOCKS), number(Control.BLOCKS_OF_A_PIECE)
    before, middle, after = number(Control.BEFORE), number(Control.RECORDS), number(Control.AFTER)
    each_block = b.gep(records, [b.mul(before, I64(RECORD))], source_etype=I64)
    at_the_end = b.gep(each_block, [b.mul(middle, I64(RECORD))], source_etype=I64)

    def run(first: Any, count: Any, block: Any) -> None:
        def step(index: Any) -> None:
            fields = b.gep(first, [b.mul(index, I64(RECORD))], source_etype=I64)
            call = b.inttoptr(b.load(fields, typ=I64), e.kernel_type.as_pointer())
            b.call(call, [workspace, block, fields, io])

        e.each(count, step)

    take, work, done = (b.append_basic_block(name) for name in ("take", "work", "none_left"))
    b.branch(take)
    b.position_at_end(take)
    piece = b.atomic_rmw("add", b.gep(control, [I64(Control.NEXT)], source_etype=I64), I64(1), "monotonic")
    b.cbranch(b.icmp_signed("<", piece, pieces), work, done)
    b.position_at_end(work)
    run(records, before, piece)
    first = b.mul(piece, length)
    left = b.sub(blocks, first)
    e.loop(
        b.select(b.icmp_signed("<", left, length), left, length),
        lambda index: run(each_block, middle, b.add(first, index)),
    )
    run(at_the_end, after, piece)
    b.branch(take)
    b.position_at_end(done)
    b.ret_void()


@lru_cache(maxsize=1)
def _machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=2)


@lru_cache(maxsize=1)
def vector_bytes() -> int:
    """Width of the processor's vector registers."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx2") else 16


@lru_cache(maxsize=1)
def n_registers() -> int:
    """Number of vector registers."""
    return 32 if vector_bytes() != 32 else 16


_engines: list[Any] = []  # code lives as long as its engine


def _compile(e: Emitter) -> Any:
    module = llvm.parse_assembly(str(e.module))
    module.verify()
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_vectorization = tuning.slp_vectorization = tuning.loop_unrolling = False
    llvm.create_pass_builder(_machine(), tuning).getModulePassManager().run(module, _builder(tuning))
    engine = llvm.create_mcjit_compiler(module, _machine())
    engine.finalize_object()
    _engines.append(engine)
    return engine


def _builder(tuning: Any) -> Any:
    return llvm.create_pass_builder(_machine(), tuning)


@cache
def kernel(bits: int, lanes: int, name: str, *options: Any) -> int:
    """Address of a kernel, compiled on first use.

    Args:
        bits: 32 or 64, the floating-point type.
        lanes: samples in a block.
        name: a key of `_EMITTERS`.
        options: the arguments of that emitter.
    """
    e = Emitter(bits, lanes)
    e.kernel(name)
    _EMITTERS[name](e, *options)
    e.b.ret_void()
    return _compile(e).get_function_address(name)


@cache
def function(bits: int, lanes: int, name: str, *options: Any) -> Callable[..., None]:
    """A kernel to be called from Python: (workspace, block, fields, io), addresses as integers."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    return ctypes.CFUNCTYPE(None, pointer, number, pointer, pointer)(kernel(bits, lanes, name, *options))


@lru_cache(maxsize=1)
def driver() -> Callable[..., None]:
    """The function that runs passes on blocks, (workspace, records, io, control); it releases Python's lock."""
    e = Emitter(32, 4)
    _emit_driver(e)
    address = _compile(e).get_function_address("drive")
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(address)
