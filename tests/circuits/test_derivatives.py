"""Second and higher derivatives of `run`, forward mode, and the transforms of torch.func that need them."""

import gc
import math
import weakref

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from ketune.circuits import Circuit, Gate, Hamiltonian, run, rxryrz_ring, ry_ring, ryrz_ring_ry
from ketune.circuits import _batched_angles as batched

# torch's own forward mode compiles its rules by a function that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

WORDS = ["XY", "ZI", "YY"]
READOUTS = ["pauli_z", "probabilities", "amplitudes", WORDS, Hamiltonian((0.5, -2.0), ("XX", "ZI"))]
ENCODINGS = [("amplitude", 3), ("angle", 2), ("iqp", 2)]


def data(circuit, n_samples, n_features, n_sets=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_samples, n_features, dtype=torch.float64, generator=generator, requires_grad=True)
    shape = (circuit.n_angles,) if n_sets is None else (n_sets, circuit.n_angles)
    angles = 2 * torch.randn(shape, dtype=torch.float64, generator=generator)
    return x, angles.requires_grad_()


@pytest.mark.parametrize("readout", READOUTS, ids=str)
@pytest.mark.parametrize(("encoding", "n_features"), ENCODINGS)
@pytest.mark.parametrize("n_sets", [None, 2], ids=["shared", "per sample"])
def test_first_and_second_derivatives_pass_gradcheck_backward_and_forward(encoding, n_features, readout, n_sets):
    circuit = Circuit(2, (Gate("RY", (0,), 0), Gate("RX", (1,), 1), Gate("CNOT", (0, 1)), Gate("CRZ", (1, 0), 0)))
    arguments = data(circuit, 2, n_features, n_sets)

    def function(x, angles):
        return run(circuit, x, angles, encoding=encoding, readout=readout)

    assert gradcheck(function, arguments, check_forward_ad=True)
    assert gradgradcheck(function, arguments, check_fwd_over_rev=True, fast_mode=True)


def test_basis_encoding_has_derivatives_by_its_angles():
    circuit = ryrz_ring_ry(2)
    _, angles = data(circuit, 1, 1)
    bits = torch.tensor([[0, 1], [1, 1]])
    assert gradgradcheck(lambda angles: run(circuit, bits, angles, encoding="basis"), angles)


def test_third_derivatives_pass_gradgradcheck():
    circuit = ry_ring(2)
    x, angles = data(circuit, 2, 3)

    def slope(x, angles):
        out = run(circuit, x, angles, readout=["XZ", "ZI"]).square().sum()
        return torch.autograd.grad(out, (x, angles), create_graph=True)

    assert gradgradcheck(slope, (x, angles))


def test_a_hessian_follows_the_parameter_shift_rule_applied_twice():
    circuit = rxryrz_ring(3)
    x, angles = data(circuit, 4, 8)
    weights = torch.randn(4, 3, dtype=torch.float64)

    def loss(angles):
        return (weights * run(circuit, x, angles)).sum()

    unit = math.pi / 2 * torch.eye(circuit.n_angles, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack(
            [
                torch.stack([sum(s * t * loss(angles + s * a + t * b) for s in (1, -1) for t in (1, -1)) for b in unit])
                for a in unit
            ]
        )
    expected = expected / 4
    for transform in (hessian, lambda f: jacrev(jacrev(f)), lambda f: jacrev(jacfwd(f)), lambda f: jacfwd(jacfwd(f))):
        torch.testing.assert_close(transform(loss)(angles.detach()), expected, atol=1e-12, rtol=0)
    classic = torch.autograd.functional.hessian(loss, angles)
    torch.testing.assert_close(classic, expected, atol=1e-12, rtol=0)


def test_forward_mode_gives_the_jacobian_times_a_vector():
    circuit = ryrz_ring_ry(3)
    x, angles = data(circuit, 5, 7)
    t_x, t_angles = torch.randn_like(x), torch.randn_like(angles)
    jacobian = torch.autograd.functional.jacobian(lambda x, angles: run(circuit, x, angles), (x, angles))
    expected = torch.einsum("bkcf,cf->bk", jacobian[0], t_x) + jacobian[1] @ t_angles
    out, product = jvp(lambda x, angles: run(circuit, x, angles), (x, angles), (t_x, t_angles))
    torch.testing.assert_close(out, run(circuit, x, angles))
    torch.testing.assert_close(product, expected)
    with forward_ad.dual_level():
        dual = run(circuit, forward_ad.make_dual(x, t_x), forward_ad.make_dual(angles, t_angles))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, expected)
        # One argument alone, and backward through the tangent as physics-informed training does.
        tangent = forward_ad.unpack_dual(run(circuit, forward_ad.make_dual(x, t_x), angles)).tangent
        (mixed,) = torch.autograd.grad(tangent.square().sum(), angles)
    one_sided = torch.autograd.functional.jvp(lambda x: run(circuit, x, angles), x, t_x, create_graph=True)[1]
    torch.testing.assert_close(mixed, torch.autograd.grad(one_sided.square().sum(), angles)[0])


@pytest.mark.parametrize("n_samples", [3, 70])
def test_a_gradient_through_a_gradient_step_is_that_of_finite_differences(n_samples):
    circuit = ryrz_ring_ry(3)
    x, angles = data(circuit, n_samples, 8)
    x = x.detach()
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def after_step(angles, rate):
        (slope,) = torch.autograd.grad(run(circuit, x, angles)[..., 0].square().mean(), angles, create_graph=True)
        return run(circuit, x, angles - rate * slope)[..., 1].mean()

    assert gradcheck(after_step, (angles, rate))
    # The same in torch.func, as meta-learning over tasks maps it.
    tasks = torch.stack((x, x.flip(0)))

    def loss(angles, x):
        slope = grad(lambda a: run(circuit, x, a)[..., 0].square().mean())(angles)
        return run(circuit, x, angles - 0.3 * slope)[..., 1].mean()

    mapped = vmap(grad(loss), in_dims=(None, 0))(angles.detach(), tasks)
    for ours, task in zip(mapped, tasks):
        torch.testing.assert_close(ours, grad(loss)(angles.detach(), task))
    torch.testing.assert_close(mapped[0], torch.autograd.grad(after_step(angles, rate), angles)[0])


def test_second_derivatives_do_not_depend_on_the_cut_into_chunks(monkeypatch):
    circuit = rxryrz_ring(4)
    for n_sets in (None, 11):
        x, angles = data(circuit, 11, 16, n_sets)

        def curvature(x=x, angles=angles):
            slopes = torch.autograd.grad(run(circuit, x, angles).sin().sum(), (x, angles), create_graph=True)
            return torch.autograd.grad(sum(slope.square().sum() for slope in slopes), (x, angles))

        whole = curvature()
        monkeypatch.setattr(batched, "_CHUNK_BYTES", {"cpu": 30_000, "cuda": 30_000})
        for ours, theirs in zip(curvature(), whole):
            torch.testing.assert_close(ours, theirs)
        monkeypatch.undo()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_zero_vector_has_finite_second_derivatives(dtype):
    circuit = ryrz_ring_ry(2)
    angles = torch.ones(circuit.n_angles, dtype=dtype, requires_grad=True)
    for readout in READOUTS:
        for shared in (True, False):
            x = torch.zeros(2, 4, dtype=dtype, requires_grad=True)
            sets = angles if shared else angles.expand(2, -1)
            out = run(circuit, x, sets, readout=readout)
            assert torch.equal(out, torch.zeros_like(out))
            slopes = torch.autograd.grad(out.sum(), (x, angles), create_graph=True)
            assert all(slope.isfinite().all() for slope in slopes)
            second = torch.autograd.grad(slopes[0].sum() + slopes[1].sum(), (x, angles))
            assert all(slope.isfinite().all() for slope in second)


def test_mixed_types_keep_their_own_types_in_second_derivatives():
    circuit = ry_ring(3)
    x = torch.randn(4, 8, dtype=torch.bfloat16, requires_grad=True)
    angles = torch.randn(3, dtype=torch.float64, requires_grad=True)
    slopes = torch.autograd.grad(run(circuit, x, angles).square().sum(), (x, angles), create_graph=True)
    second = torch.autograd.grad(slopes[0].square().sum() + slopes[1].square().sum(), (x, angles))
    assert [slope.dtype for slope in (*slopes, *second)] == 2 * [torch.bfloat16, torch.float64]


def test_a_first_order_step_keeps_no_features_alive_after_its_backward_pass():
    circuit = ry_ring(3)
    x = torch.randn(4, 8)
    out = run(circuit, x.requires_grad_(), torch.randn(3, requires_grad=True))
    seen = weakref.ref(x)
    out.sum().backward()
    del x, out
    gc.collect()
    assert seen() is None


def test_jacobians_by_vmap_work_and_the_old_vmap_names_them():
    circuit = ryrz_ring_ry(3)
    x, angles = data(circuit, 4, 8)
    for sets in (angles, angles.expand(4, -1)):
        out = run(circuit, x, sets)[:, 0]
        unit = torch.eye(4, dtype=torch.float64)
        expected = torch.stack([torch.autograd.grad(value, angles, retain_graph=True)[0] for value in out])
        mapped = vmap(lambda v, out=out: torch.autograd.grad(out, angles, v, retain_graph=True)[0])(unit)
        torch.testing.assert_close(mapped, expected)
        with pytest.raises(NotImplementedError, match=r"torch\.func\.jacrev"):
            torch.autograd.grad(out, angles, unit, is_grads_batched=True)
