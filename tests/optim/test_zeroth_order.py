"""Zeroth-order steps: slopes against autograd, weights put back, and life as an optimiser."""

import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ketune.optim import ZerothOrder
from ketune.optim import zeroth_order as module


def quadratic(size=6, seed=0):
    """A parameter and L(W) = w^T A w / 2 + b w, with its gradient A w + b."""
    noise = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=noise, dtype=torch.float64)
    a, b = root @ root.T, torch.randn(size, generator=noise, dtype=torch.float64)
    weight = nn.Parameter(torch.randn(size, generator=noise, dtype=torch.float64))
    return weight, lambda: weight @ a @ weight / 2 + b @ weight, lambda: (a @ weight + b).detach()


def small_net(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)).double()
    x, y = torch.randn(20, 5, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64)
    return net, lambda: nn.functional.mse_loss(net(x), y)


def directional_derivative(net, loss, optimizer, probe=0):
    gradients = torch.autograd.grad(loss(), list(net.parameters()))
    directions = [optimizer.direction(p, probe) for p in net.parameters()]
    return sum(float((g * u).sum()) for g, u in zip(gradients, directions))


@given(seed=st.integers(0, 100), epsilon=st.floats(1e-3, 1.0))
@settings(max_examples=30, deadline=None)
def test_the_projected_gradient_of_a_quadratic_is_its_directional_derivative(seed, epsilon):
    """Central differences of a polynomial of second degree are exact, however large epsilon is."""
    weight, loss, gradient = quadratic(seed=seed)
    optimizer = ZerothOrder([weight], epsilon=epsilon, clip=None, seed=seed)
    expected = float(gradient() @ optimizer.direction(weight))
    optimizer.step(loss)
    assert optimizer.projected_gradients == pytest.approx([expected], rel=1e-8, abs=1e-8)


def test_on_a_net_the_error_of_the_projected_gradient_falls_with_the_square_of_epsilon():
    errors = []
    for epsilon in (4e-2, 2e-2, 1e-2):
        net, loss = small_net()
        optimizer = ZerothOrder(net.parameters(), lr=0.0, epsilon=epsilon, clip=None)
        expected = directional_derivative(net, loss, optimizer)
        optimizer.step(loss)
        errors.append(abs(optimizer.projected_gradients[0] - expected))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_a_step_moves_against_the_mean_of_the_probes_and_decays():
    net, loss = small_net()
    optimizer = ZerothOrder(net.parameters(), lr=0.1, n_probes=3, clip=None, weight_decay=0.5, epsilon=1e-4)
    before = [p.detach().clone() for p in net.parameters()]
    directions = [[optimizer.direction(p, probe) for p in net.parameters()] for probe in range(3)]
    expected = [directional_derivative(net, loss, optimizer, probe) for probe in range(3)]
    at_start = loss().item()
    assert optimizer.step(loss) == pytest.approx(at_start, rel=1e-6)
    assert optimizer.projected_gradients == pytest.approx(expected, rel=1e-5)
    assert len(set(optimizer.projected_gradients)) == 3
    for i, p in enumerate(net.parameters()):
        step = sum(g * u[i] for g, u in zip(optimizer.projected_gradients, directions)) / 3
        torch.testing.assert_close(p.detach(), before[i] * (1 - 0.1 * 0.5) - 0.1 * step)


def test_the_mean_over_many_directions_is_the_gradient():
    weight, loss, gradient = quadratic(size=4)
    optimizer = ZerothOrder([weight], lr=1.0, n_probes=20_000, clip=None, epsilon=0.1)
    before, expected = weight.detach().clone(), gradient()
    optimizer.step(loss)
    found = before - weight.detach()
    assert (found - expected).norm() / expected.norm() < 0.05  # sqrt((n + 1) / probes) = 0.016


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_two_hundred_steps_of_no_length_leave_the_weights_where_they_were(dtype, bound):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(200, 100, dtype=dtype) * 0.02)
    before = weight.detach().clone()
    optimizer = ZerothOrder([weight], lr=0.0, clip=None)
    seen = set()
    for _ in range(200):
        optimizer.step(lambda: weight.sum())
        seen.add(optimizer.projected_gradients[0])
    assert len(seen) == 200  # they did move in between
    assert (weight - before).norm() / before.norm() < bound


def test_weights_are_put_back_when_the_closure_fails():
    weight = nn.Parameter(torch.randn(50))
    before = weight.detach().clone()
    optimizer = ZerothOrder([weight], epsilon=0.1)
    calls = []

    def closure():
        calls.append(weight.detach().clone())
        if len(calls) == 2:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    torch.testing.assert_close(calls[0] - before, before - calls[1], rtol=0, atol=1e-6)
    assert (calls[0] - before).abs().max() > 0.1
    torch.testing.assert_close(weight.detach(), before, rtol=0, atol=1e-6)
    assert optimizer.n_steps == 0


def test_noise_comes_in_chunks_and_never_as_a_whole(monkeypatch):
    """A chunk is some rows; rows that do not fill the last chunk, single rows longer than a chunk, scalars."""
    monkeypatch.setattr(module, "CHUNK", {"cpu": 64})
    shapes = [(), (5,), (1000,), (7, 30), (2, 100), (3, 4, 5), (0, 4)]
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    optimizer = ZerothOrder(parameters, lr=0.0, epsilon=1.0)
    directions = [optimizer.direction(p) for p in parameters]
    seen = []

    def closure():
        seen.append([p.detach().clone() for p in parameters])
        return 0.0

    optimizer.step(closure)
    for u, above, below in zip(directions, *seen):
        torch.testing.assert_close(u, above)
        torch.testing.assert_close(u, -below)
    everything = torch.cat([u.flatten() for u in directions])
    assert everything.unique().numel() == everything.numel()
    assert abs(everything.mean()) < 0.1
    assert everything.std() == pytest.approx(1, abs=0.1)


def test_the_noise_of_a_parameter_does_not_depend_on_the_others():
    torch.manual_seed(0)
    first, second = nn.Parameter(torch.randn(30)), nn.Parameter(torch.randn(4, 5))
    alone = ZerothOrder([first]).direction(first)
    torch.rand(10)  # nor on the global generator
    beside = ZerothOrder([first, second])
    assert torch.equal(beside.direction(first), alone)
    assert not torch.equal(beside.direction(second).flatten(), alone[:20])
    assert not torch.equal(beside.direction(first, probe=1), alone)
    assert not torch.equal(ZerothOrder([first], seed=1).direction(first), alone)


def test_a_step_leaves_the_global_generator_alone():
    weight, loss, _ = quadratic()
    state = torch.get_rng_state()
    ZerothOrder([weight]).step(loss)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_transposed_parameter_moves_in_place():
    storage = torch.zeros(4, 3)
    weight = nn.Parameter(storage.T)
    optimizer = ZerothOrder([weight], lr=1.0, clip=None)
    u = optimizer.direction(weight)
    optimizer.step(lambda: weight.sum())
    torch.testing.assert_close(storage.T, -u * float(u.sum()), rtol=1e-3, atol=1e-4)


def test_a_scale_per_row_or_group_shapes_perturbation_and_step():
    torch.manual_seed(0)
    weight, bias = nn.Parameter(torch.zeros(3, 4).double()), nn.Parameter(torch.zeros(3).double())
    scales = {weight: torch.tensor([[1.0, 0.0], [2.0, 3.0], [0.5, 4.0]]), bias: 0.1}
    plain, scaled = (
        ZerothOrder([weight, bias], lr=0.5, epsilon=1e-3, clip=None, scale_of=f) for f in (None, scales.__getitem__)
    )
    full = scales[weight].repeat_interleave(2, dim=1)
    assert torch.equal(scaled.direction(weight), plain.direction(weight) * full)
    assert torch.equal(scaled.direction(bias), plain.direction(bias) * 0.1)
    target, directions = torch.randn(3, 4).double(), [scaled.direction(weight), scaled.direction(bias)]
    scaled.step(lambda: (weight * target).sum() + bias.sum())
    slope = float((directions[0] * target).sum() + directions[1].sum())
    assert scaled.projected_gradients == pytest.approx([slope])
    torch.testing.assert_close(weight.detach(), -0.5 * slope * directions[0])
    torch.testing.assert_close(bias.detach(), -0.5 * slope * directions[1])


def test_the_scale_is_asked_once_per_step_and_before_the_weights_move():
    """A quantiser's step follows its weight; both sides and the update must use the same."""
    weight = nn.Parameter(torch.ones(2, 3))
    asked = []

    def scale_of(p):
        asked.append(p.detach().clone())
        return p.detach().amax(1, keepdim=True)

    optimizer = ZerothOrder([weight], lr=0.1, epsilon=0.5, n_probes=2, scale_of=scale_of)
    optimizer.measure(lambda: weight.sum())
    optimizer.measure(lambda: weight.sum())
    optimizer.step()
    assert len(asked) == 1
    assert torch.equal(asked[0], torch.ones(2, 3))


@pytest.mark.parametrize("shape", [(3,), (3, 3), (4, 1)])
def test_a_scale_that_does_not_fit_names_both_shapes(shape):
    weight = nn.Parameter(torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"\(3, 4\); give a number, or shape \(3, groups\) where groups divides 4"):
        ZerothOrder([weight], scale_of=lambda _: torch.ones(shape)).step(lambda: 0.0)


def test_least_squares_is_solved():
    torch.manual_seed(0)
    x, truth = torch.randn(100, 10), torch.randn(10, 2)
    layer = nn.Linear(10, 2)
    optimizer = ZerothOrder(layer.parameters(), lr=0.02, n_probes=2, clip=None)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    start = nn.functional.mse_loss(layer(x), x @ truth).item()
    for _ in range(1000):
        optimizer.step(lambda: nn.functional.mse_loss(layer(x), x @ truth))
        schedule.step()
    assert nn.functional.mse_loss(layer(x), x @ truth).item() < 1e-4 * start


def test_a_saved_optimiser_goes_on_bit_for_bit():
    def problem():
        torch.manual_seed(0)
        layer = nn.Linear(10, 2)
        x = torch.randn(30, 10)
        optimizer = ZerothOrder(layer.parameters(), lr=0.02, n_probes=2, seed=7)
        return layer, optimizer, lambda: layer(x).square().mean()

    layer, optimizer, loss = problem()
    for step in range(6):
        if step == 3:
            file = io.BytesIO()
            torch.save({"model": layer.state_dict(), "optimizer": optimizer.state_dict()}, file)
        optimizer.step(loss)
    again, resumed, loss = problem()
    resumed.seed, resumed.param_groups[0]["lr"] = 0, 9.0
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    again.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    assert saved["optimizer"]["state"] == {}
    for _ in range(3):
        resumed.step(loss)
    assert torch.equal(again.weight, layer.weight)
    assert torch.equal(again.bias, layer.bias)
    assert resumed.projected_gradients == optimizer.projected_gradients


def test_a_steep_slope_is_clipped_and_a_gentle_one_is_not():
    weight = nn.Parameter(torch.zeros(1))
    for steepness, is_clipped in ((1.0, False), (1e4, True), (-1e4, True)):
        optimizer = ZerothOrder([weight], lr=0.0, epsilon=1e-3, clip=0.2)
        u = optimizer.direction(weight).item()
        optimizer.step(lambda: weight * steepness)  # noqa: B023
        expected = math.copysign(0.2 / 1e-3, steepness * u) if is_clipped else steepness * u
        assert optimizer.projected_gradients == pytest.approx([expected], rel=1e-5)


def test_a_loss_that_is_no_number_moves_nothing_and_shows():
    weight = nn.Parameter(torch.ones(3))
    optimizer = ZerothOrder([weight], lr=1.0, n_probes=2)
    losses = iter([1.0, math.nan, 2.0, 2.0])
    assert math.isnan(optimizer.step(lambda: next(losses)))
    assert math.isnan(optimizer.projected_gradients[0])
    assert optimizer.projected_gradients[1] == 0.0
    torch.testing.assert_close(weight.detach(), torch.ones(3))


def test_measurements_of_micro_batches_add_up_to_that_of_the_batch():
    results = []
    for shares in (1, 4):
        torch.manual_seed(0)
        layer, x = nn.Linear(5, 1).double(), torch.randn(8, 5).double()
        optimizer = ZerothOrder(layer.parameters(), lr=0.1)
        losses = [
            optimizer.measure(lambda: layer(part).square().sum() / 8)  # noqa: B023
            for part in x.chunk(shares)
        ]
        optimizer.step()
        results.append((layer.weight.detach(), torch.tensor(sum(losses))))
    for whole, summed in zip(*results):
        torch.testing.assert_close(whole, summed)


def test_groups_have_their_own_rates():
    still, moving = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = ZerothOrder([{"params": [still], "lr": 0.0}, {"params": [moving]}], lr=0.1)
    optimizer.step(lambda: still.sum() + moving.sum())
    torch.testing.assert_close(still.detach(), torch.ones(3))
    assert (moving - 1).abs().max() > 1e-3


def test_parameters_that_need_no_gradient_train_too():
    weight = nn.Parameter(torch.ones(3), requires_grad=False)
    ZerothOrder([weight], lr=0.1).step(lambda: weight.sum())
    assert (weight - 1).abs().max() > 1e-3


def test_misuse_is_refused_with_what_to_do():
    weight = nn.Parameter(torch.ones(3))
    optimizer = ZerothOrder([weight])

    def backward():
        loss = weight.sum()
        loss.backward()
        return loss

    def stubborn():
        with torch.enable_grad():
            return backward()

    with pytest.raises(RuntimeError, match=r"pass a closure .*ZerothOrderTrainer"):
        optimizer.step()
    for closure in (backward, stubborn):
        with pytest.raises(RuntimeError, match=r"must (only return|not call backward)"):
            optimizer.step(closure)
    weight.grad = None
    with pytest.raises(TypeError, match="returned NoneType; it must return the loss"):
        optimizer.step(lambda: None)
    with pytest.raises(TypeError, match=r"tensor of shape \(3,\)"):
        optimizer.step(lambda: weight * 2)
    with pytest.raises(RuntimeError, match="out of order"):
        optimizer.step(lambda: (_ for _ in ()).throw(RuntimeError("out of order")))
    torch.testing.assert_close(weight.detach(), torch.ones(3))
    with pytest.raises(ValueError, match="in no group"):
        optimizer.direction(nn.Parameter(torch.ones(3)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_masters_are_refused(dtype):
    with pytest.raises(ValueError, match="train a float32 master"):
        ZerothOrder([nn.Parameter(torch.ones(3, dtype=dtype))])


@pytest.mark.parametrize(
    "setting",
    [{"lr": -1.0}, {"epsilon": 0.0}, {"epsilon": math.inf}, {"n_probes": 0}, {"n_probes": 1.5}, {"clip": 0.0}]
    + [{"weight_decay": -0.1}, {"lr": math.nan}],
)
def test_settings_out_of_range_are_refused_by_name(setting):
    with pytest.raises(ValueError, match=rf"ZerothOrder\({next(iter(setting))}="):
        ZerothOrder([nn.Parameter(torch.ones(3))], **setting)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_weights_are_put_back_and_move_downhill():
    weight = nn.Parameter(torch.randn(3000, 3000, device="cuda"))
    before = weight.detach().clone()
    optimizer = ZerothOrder([weight], lr=0.0)
    loss = [optimizer.step(lambda: weight.square().mean()) for _ in range(20)][-1]
    assert (weight - before).norm() / before.norm() < 1e-6
    optimizer.param_groups[0]["lr"] = 1e-2
    for _ in range(50):
        last = optimizer.step(lambda: weight.square().mean())
    assert last < loss
