"""The precision of matrix products: torch's setting is neither followed nor lost, and TF32 rounds as TF32 does."""

import threading

import numpy as np
import pytest
import torch

from ketune.circuits import QuantumLayer, run, rxryrz_ring, ry_ring
from ketune.circuits._plan import Plan
from ketune.circuits._precision import full_float32, products_for, rounded_to_tf32

BY_BACKEND = hasattr(torch._C, "_get_fp32_precision_getter")


@pytest.fixture(autouse=True)
def _setting():
    yield
    torch.set_float32_matmul_precision("highest")


def settings():
    if not BY_BACKEND:
        return torch.get_float32_matmul_precision()
    return [torch._C._get_fp32_precision_getter(backend, "matmul") for backend in ("cuda", "mkldnn")]


def test_numbers_keep_ten_bits_of_mantissa():
    generator = np.random.default_rng(0)
    x = (generator.standard_normal(1000) * 10.0 ** generator.integers(-30, 30, 1000)).astype(np.float32)
    mantissa, exponent = np.frexp(x.astype(np.float64))
    expected = np.ldexp(np.floor(np.abs(mantissa) * 2**11 + 0.5) * np.sign(mantissa), exponent - 11)
    np.testing.assert_array_equal(rounded_to_tf32(torch.from_numpy(x)).numpy(), expected.astype(np.float32))


@pytest.mark.parametrize(("precision", "error"), [("tf32", 2**-11), ("tf32x3", 2**-21)])
def test_products_have_the_error_of_their_precision(precision, error):
    # K = 1: one product per entry, so that nothing is added up and the rounding of the factors stands alone.
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.rand(64, 1, generator=generator) + 1 for _ in range(2))
    products = products_for(precision, "cpu", torch.float32)
    exact = left.double() @ right.double().T
    off = (products.mm(left, right.T).double() - exact).abs() / exact
    assert error / 8 < off.max() < 2.1 * error


def test_every_product_of_three_is_near_that_of_float64():
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(5, 7, 6, generator=generator), torch.randn(5, 6, 8, generator=generator)
    products = products_for("tf32x3", "cpu", torch.float32)
    sums = [torch.ones(7, 8), torch.ones(5, 7, 8)]
    products.add_mm(sums[0], a[0], b[0])
    products.add_bmm(sums[1], a, b)
    got = [products.bmm(a, b), products.one_with_each(a[0], b), products.mm(a[0], b[0]), *sums]
    exact = [a.double() @ b.double(), a[0].double() @ b.double(), a[0].double() @ b[0].double()]
    exact += [exact[2] + 1, exact[0] + 1]
    for ours, theirs in zip(got, exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=3e-6, rtol=0)


@pytest.mark.parametrize("setting", ["highest", "high", "medium"])
def test_a_simulation_runs_in_full_and_gives_the_setting_back(setting, monkeypatch):
    torch.set_float32_matmul_precision(setting)
    before = settings()
    seen = []
    chunk = Plan.chunk
    monkeypatch.setattr(Plan, "form", lambda plan, *_: "layers")
    monkeypatch.setattr(Plan, "chunk", lambda plan, *args: seen.append(settings()) or chunk(plan, *args))
    x = torch.randn(3, 16, requires_grad=True)
    angles = torch.randn(24, requires_grad=True)
    run(rxryrz_ring(4, 2), x, angles).square().sum().backward()
    assert len(seen) == 2  # forward and backward
    full = {"highest", "ieee", "none"}
    assert all(set([values] if isinstance(values, str) else values) <= full for values in seen)
    assert settings() == before
    assert torch.get_float32_matmul_precision() == setting


def test_second_derivatives_give_the_setting_back_after_an_error_too():
    torch.set_float32_matmul_precision("high")
    with pytest.raises(ZeroDivisionError), full_float32():
        _ = 1 // (torch.get_float32_matmul_precision() != "highest")
    assert torch.get_float32_matmul_precision() == "high"
    x, angles = torch.randn(2, 4), torch.randn(2, requires_grad=True)
    (first,) = torch.autograd.grad(run(ry_ring(2), x, angles).sum(), angles, create_graph=True)
    first.sum().backward()
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.skipif(not BY_BACKEND, reason="this torch has one setting for all backends")
def test_a_setting_by_backend_comes_back():
    torch._C._set_fp32_precision_setter("cuda", "matmul", "tf32")
    before = settings()
    with full_float32():
        assert settings() == ["ieee", "ieee"]
    assert settings() == before


def test_a_setting_made_meanwhile_stays():
    torch.set_float32_matmul_precision("high")
    with full_float32():
        torch.set_float32_matmul_precision("medium")
    assert torch.get_float32_matmul_precision() == "medium"


def test_threads_do_not_undo_each_others_setting():
    torch.set_float32_matmul_precision("high")
    seen, meet = [], threading.Barrier(4)

    def work():
        meet.wait()
        for _ in range(300):
            with full_float32(exclusive=True):
                seen.append(torch.get_float32_matmul_precision())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {"highest"}
    assert torch.get_float32_matmul_precision() == "high"


def gradients(circuit, x, angles, weights, **options):
    inputs = x.clone().requires_grad_(), angles.clone().requires_grad_()
    out = run(circuit, *inputs, **options)
    return [out.detach(), *torch.autograd.grad(out, inputs, weights.to(out.dtype))]


@pytest.mark.parametrize("form", ["matrix", "layers"])
@pytest.mark.parametrize("readout", ["pauli_z", "amplitudes"])
def test_the_error_of_a_circuit_is_that_of_its_precision(form, readout, monkeypatch):
    monkeypatch.setattr(Plan, "form", lambda plan, *_: "matrix" if plan.readout == "amplitudes" else form)
    generator = torch.Generator().manual_seed(2)
    circuit = rxryrz_ring(6, 3)
    x, angles = torch.randn(5, 64, generator=generator), 3 * torch.randn(circuit.n_angles, generator=generator)
    weights = torch.randn(5, 6 if readout == "pauli_z" else 64, generator=generator)
    exact = gradients(circuit, x.double(), angles.double(), weights, readout=readout)
    bounds = {"highest": (0, 2e-6), "tf32x3": (0, 5e-6), "tf32": (5e-5, 5e-3)}
    for precision, (low, high) in bounds.items():
        ours = gradients(circuit, x, angles, weights, readout=readout, matmul_precision=precision)
        errors = [float((a - b).norm() / b.norm()) for a, b in zip(ours, exact)]
        assert all(low <= error < high for error in errors), (precision, errors)


def test_a_layer_takes_the_precision_and_may_change_it():
    layer = QuantumLayer(rxryrz_ring(4), matmul_precision="tf32")
    x = torch.randn(3, 16)
    rough = layer(x)
    torch.testing.assert_close(rough, run(layer.circuit, x, layer.angles, matmul_precision="tf32"), atol=0, rtol=0)
    layer.matmul_precision = "highest"
    assert 1e-6 < (layer(x) - rough).abs().max() < 1e-2


def test_the_backward_pass_keeps_the_precision_under_compile_too():
    circuit = rxryrz_ring(4)
    x, angles, weights = torch.randn(3, 16), torch.randn(circuit.n_angles), torch.randn(3, 4)
    eager = gradients(circuit, x, angles, weights, matmul_precision="tf32")
    compiled = torch.compile(
        lambda x, angles: run(circuit, x, angles, matmul_precision="tf32"), backend="aot_eager", fullgraph=True
    )
    inputs = x.clone().requires_grad_(), angles.clone().requires_grad_()
    out = compiled(*inputs)
    for ours, theirs in zip([out, *torch.autograd.grad(out, inputs, weights)], eager):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


def test_float64_is_never_rounded():
    x, angles = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    full, asked = (run(ry_ring(2), x, angles, matmul_precision=p) for p in ("highest", "tf32"))
    torch.testing.assert_close(full, asked, atol=1e-14, rtol=0)


@pytest.mark.parametrize("name", ["medium", "TF32", ""])
def test_an_unknown_precision_is_named(name):
    with pytest.raises(ValueError, match=r"matmul_precision=.*choose one of 'highest', 'tf32x3', 'tf32'"):
        run(ry_ring(2), torch.ones(4), torch.zeros(2), matmul_precision=name)
    with pytest.raises(ValueError, match="matmul_precision"):
        QuantumLayer(ry_ring(2), matmul_precision=name)
