"""What this machine can do at most: its float32 matrix-product rate, its fused multiply-add rate and its bandwidth.

    python benchmarks/limits.py [--threads 2] [--json FILE]
    python benchmarks/limits.py --device cuda

`benchmarks/simulators.py` sets every figure of Ketune beside these. With one thread the figures are from the median CPU
time, so that other work on the machine disturbs them little; with more, from the median wall time.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

SQUARE = (256, 512, 1024, 2048)
SKINNY = (8, 16, 32, 64, 128, 256)
COPIED_MIB = (0.25, 16, 256)


def median_seconds(call: Callable[[], object], clock: Callable[[], float], seconds: float) -> float:
    """Median time of one call over `seconds`, five calls at least."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = clock()
        call()
        times.append(clock() - start)
    return statistics.median(times)


def fma_loop(n_steps: int) -> Callable[[], object] | None:
    """`n_steps` rounds of 16 independent vectors of 16 floats, multiplied and added in registers.

    The work is 2 x 16 x 16 operations a round. None without llvmlite.
    """
    try:
        import llvmlite.binding as llvm
        from llvmlite import ir
    except ImportError:
        return None
    single, count = ir.FloatType(), ir.IntType(64)
    vector = ir.VectorType(single, 16)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [count, vector.as_pointer()]), "rounds")
    fma = ir.Function(module, ir.FunctionType(vector, [vector] * 3), "llvm.fma.v16f32")
    entry, loop, done = (function.append_basic_block(name) for name in ("entry", "loop", "done"))
    builder = ir.IRBuilder(entry)
    factor = builder.load(function.args[1])
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(count)
    step.add_incoming(count(0), entry)
    sums = [builder.phi(vector) for _ in range(16)]
    for k, value in enumerate(sums):
        value.add_incoming(ir.Constant(vector, [float(k)] * 16), entry)
    new_sums = [builder.call(fma, [value, factor, factor]) for value in sums]
    next_step = builder.add(step, count(1))
    step.add_incoming(next_step, loop)
    for value, new_value in zip(sums, new_sums):
        value.add_incoming(new_value, loop)
    builder.cbranch(builder.icmp_signed("<", next_step, function.args[0]), loop, done)
    builder.position_at_end(done)
    total = new_sums[0]
    for value in new_sums[1:]:
        total = builder.fadd(total, value)
    builder.store(total, function.args[1])
    builder.ret_void()

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # 512-bit registers must be asked for: LLVM prefers narrower ones on some processors that have them.
    features = llvm.get_host_cpu_features()
    features["prefer-256-bit"] = False
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3, jit=True
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
    engine.finalize_object()
    rounds = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(engine.get_function_address("rounds"))
    numbers = torch.full((32,), 0.5)
    aligned = (numbers.data_ptr() + 63) // 64 * 64

    def call(engine: object = engine, numbers: torch.Tensor = numbers) -> None:  # both must outlive the loop
        rounds(n_steps, aligned)

    return call


def measure(threads: int = 1, seconds: float = 0.3) -> dict[str, object]:
    """Rates in GFLOP/s and bandwidths in GB/s, `seconds` for each figure.

    `gemm` is the best rate of a square product, which is what fractions of "the GEMM rate" mean.
    """
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter

    def rate(work: float, call: Callable[[], object]) -> float:
        return work / median_seconds(call, clock, seconds) / 1e9

    square, skinny, bandwidth = {}, {}, {}
    for size in SQUARE:
        a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
        square[str(size)] = rate(2 * size**3, lambda a=a, b=b, out=out: torch.mm(a, b, out=out))
    for size in SKINNY:
        rows = 2**21 // size  # an operand of 8 MiB
        a, b, out = torch.randn(rows, size), torch.randn(size, size), torch.empty(rows, size)
        skinny[str(size)] = rate(2 * rows * size**2, lambda a=a, b=b, out=out: torch.mm(a, b, out=out))
    for mib in COPIED_MIB:
        n = int(mib * 2**18)
        a, b, out = torch.randn(n), torch.randn(n), torch.empty(n)
        bandwidth[f"copy, {mib:g} MiB"] = rate(8 * n, lambda a=a, out=out: out.copy_(a))
        bandwidth[f"triad, {mib:g} MiB"] = rate(12 * n, lambda a=a, b=b, out=out: torch.add(a, b, alpha=2.0, out=out))
    n_steps = 10**6
    loop = fma_loop(n_steps)
    return {
        "threads": threads,
        "gemm": max(square.values()),
        "gemm_square": square,
        "gemm_skinny": skinny,
        "fma_one_core": None if loop is None else rate(n_steps * 2 * 16 * 16, loop),
        "bandwidth": bandwidth,
    }


def measure_cuda() -> dict[str, object]:
    """Rates of a CUDA device in GFLOP/s and its copy bandwidth in GB/s (what is read and what is written, together).

    `gemm` is by the names of `matmul_precision`: the best rate of a square product in full float32, on TF32 tensor
    cores, and a third of the latter for three such products; "bfloat16" is there to compare.
    """
    device = torch.device("cuda")

    def seconds(call: Callable[[], object]) -> float:
        for _ in range(3):
            call()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(12)]
        marks[0].record()
        for mark in marks[1:]:
            call()
            mark.record()
        torch.cuda.synchronize()
        return statistics.median(a.elapsed_time(b) for a, b in itertools.pairwise(marks)) / 1e3

    def best(dtype: torch.dtype, setting: str) -> float:
        rates = []
        torch.set_float32_matmul_precision(setting)
        try:
            for size in (2048, 4096, 8192):
                a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
                out = torch.empty_like(a)
                rates.append(2 * size**3 / seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out)) / 1e9)
        finally:
            torch.set_float32_matmul_precision("highest")
        return max(rates)

    tf32 = best(torch.float32, "high")
    full, half = best(torch.float32, "highest"), best(torch.bfloat16, "highest")
    a = torch.randn(2**28, device=device)  # 1 GiB, far beyond any cache
    out = torch.empty_like(a)
    return {
        "device": torch.cuda.get_device_name(),
        "gemm": {"highest": full, "tf32x3": tf32 / 3, "tf32": tf32, "bfloat16": half},
        "copy": 8 * a.numel() / seconds(lambda: out.copy_(a)) / 1e9,
    }


def describe_cuda(limits: dict[str, object]) -> str:
    """The limits of a device as lines of text."""
    rates = "  ".join(f"{name}: {rate:,.0f}" for name, rate in limits["gemm"].items())  # type: ignore[attr-defined]
    return f"square products, GFLOP/s   {rates}\ncopy bandwidth, GB/s       {limits['copy']:,.0f}"


def describe(limits: dict[str, object]) -> str:
    """The limits as lines of text."""

    def row(name: str) -> str:
        return "  ".join(f"{key}: {value:.1f}" for key, value in limits[name].items())  # type: ignore[attr-defined]

    fma = limits["fma_one_core"]
    return "\n".join(
        [
            f"square products (m = n = k), GFLOP/s   {row('gemm_square')}",
            f"skinny products (n = k), GFLOP/s       {row('gemm_skinny')}",
            f"multiply-add in registers, one core    {'not measured (no llvmlite)' if fma is None else f'{fma:.1f}'}",
            f"bandwidth, GB/s                        {row('bandwidth')}",
        ]
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each figure (default 0.5)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="what to measure (default cpu)")
    args = parser.parse_args()
    if args.device == "cuda":
        if not torch.cuda.is_available():
            parser.error("--device cuda: torch finds no CUDA device here")
        limits = measure_cuda()
        print(f"{limits['device']}, torch {torch.__version__}")
        print(describe_cuda(limits))
    else:
        limits = measure(args.threads, args.seconds)
        print(f"{platform.machine()}, torch {torch.__version__}, {args.threads} thread(s), float32")
        print(describe(limits))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        partial = args.json.with_suffix(".partial")
        partial.write_text(json.dumps(limits, indent=1))
        partial.replace(args.json)


if __name__ == "__main__":
    main()
