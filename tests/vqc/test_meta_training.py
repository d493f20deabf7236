"""Meta-training: gradients reach every weight and are right, losses fall, starts are better than fixed ones."""

import pytest
import torch

from ketune.circuits import Circuit, Gate, heisenberg, rxryrz_ring, transverse_ising
from ketune.vqc import STARTS, EnergyProblem, Initialiser
from ketune.vqc.flip import FlipDecoder
from ketune.vqc.learner import Learner
from ketune.vqc.meta_training import meta_train, mixture, one_of, pool
from ketune.vqc.problems.batches import EnergyBatch

CIRCUIT = rxryrz_ring(3, 2)


def chain(generator, circuit=CIRCUIT):
    coupling = tuple((4 * torch.rand(3, generator=generator, dtype=torch.float64) - 2).tolist())
    hamiltonian = heisenberg(circuit.n_wires, coupling)
    ground = float(torch.linalg.eigvalsh(hamiltonian.matrix())[0])
    return EnergyProblem("chain", circuit, hamiltonian, ground, coupling)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def initialisers():
    torch.manual_seed(0)
    return [Learner(3, CIRCUIT.n_angles, hidden=8), FlipDecoder(3, hidden=8)]


MODES = [(0, "first"), (2, "first"), (2, "second")]


@pytest.mark.parametrize(("inner_steps", "order"), MODES)
@pytest.mark.parametrize("number", [0, 1], ids=["learner", "flip"])
def test_meta_gradients_reach_every_weight(number, inner_steps, order):
    initialiser = initialisers()[number]
    before = {name: weight.detach().clone() for name, weight in initialiser.named_parameters()}
    meta_train(initialiser, chain, 1, n_tasks=6, inner_steps=inner_steps, order=order)
    for name, weight in initialiser.named_parameters():
        assert weight.grad is not None
        assert (weight.grad != 0).any(), name
        assert not torch.equal(weight, before[name]), name


class Held(Initialiser):
    """One set of angles for all tasks, so that its gradient is the meta-gradient by angles."""

    def __init__(self, angles):
        super().__init__()
        self.angles = torch.nn.Parameter(angles)

    def forward(self, circuit, task):
        return self.angles.expand(*task.shape[:-1], -1)

    def settings(self):
        return {}


TASKS = [chain(seeded(seed)) for seed in range(2)]
RATE, WEIGHTS = 0.3, (0.0, 0.4, 0.6)


def _unrolled(angles, stop):
    """The loss by its definition, on `EnergyProblem.energy`; `stop` holds inner gradients constant."""
    total = torch.zeros((), dtype=torch.float64)
    for problem in TASKS:
        at = angles
        for step, weight in enumerate(WEIGHTS):
            gap = (problem.energy(at) - problem.ground_energy) / abs(problem.ground_energy)
            total = total + weight * gap / len(TASKS)
            if step < 2:
                gradient = torch.autograd.grad(gap, at, create_graph=not stop, retain_graph=True)[0]
                at = at - RATE * gradient
    return total


def _start():
    return 0.7 * torch.randn(CIRCUIT.n_angles, dtype=torch.float64, generator=seeded(3))


def _meta_gradient(order):
    held = Held(_start())
    each = iter(TASKS)
    options = {"inner_steps": 2, "inner_lr": RATE, "order": order, "step_weights": WEIGHTS, "clip": 1e9}
    history = meta_train(held, lambda _: next(each), 1, n_tasks=len(TASKS), **options)
    return held.angles.grad, history


def test_second_order_meta_gradients_agree_with_finite_differences():
    gradient, history = _meta_gradient("second")
    step, numeric = 1e-5, torch.zeros_like(_start())
    for k in range(CIRCUIT.n_angles):
        moved = torch.zeros_like(_start())
        moved[k] = step
        above, below = (_unrolled((_start() + sign * moved).requires_grad_(), stop=True) for sign in (1, -1))
        numeric[k] = (above - below).detach() / (2 * step)
    assert torch.allclose(gradient, numeric, atol=1e-8)
    at = _start().requires_grad_()
    assert torch.allclose(gradient, torch.autograd.grad(_unrolled(at, stop=False), at)[0], atol=1e-10)
    assert numeric.abs().max() > 0.05
    assert history.losses[0] == pytest.approx(float(_unrolled(_start().requires_grad_(), stop=True).detach()))


def test_first_order_meta_gradients_hold_inner_gradients_constant_and_differ_from_second_order():
    first, history = _meta_gradient("first")
    at = _start().requires_grad_()
    expected = torch.autograd.grad(_unrolled(at, stop=True), at)[0]
    assert torch.allclose(first, expected, atol=1e-12)
    second, exact = _meta_gradient("second")
    assert (first - second).norm() > 0.05 * second.norm()
    assert history.losses == pytest.approx(exact.losses)


def test_without_inner_steps_both_orders_are_the_gradient_of_the_start():
    gradients = []
    for order in ("first", "second"):
        held = Held(_start())
        each = iter(TASKS)
        meta_train(held, lambda _, each=each: next(each), 1, 2, order=order, clip=1e9, normalise=False)
        gradients.append(held.angles.grad)
    at = _start().requires_grad_()
    expected = torch.autograd.grad(sum(problem.energy(at) for problem in TASKS) / 2, at)[0]
    assert torch.allclose(gradients[0], expected, atol=1e-12)
    assert torch.allclose(gradients[1], expected, atol=1e-12)


@pytest.mark.parametrize("number", [0, 1], ids=["learner", "flip"])
def test_the_loss_falls_and_held_out_tasks_start_lower_than_from_any_fixed_start(number):
    initialiser = initialisers()[number]
    family = pool(chain, 128, seeded(1))
    history = meta_train(initialiser, family, 250, n_tasks=16, lr=0.01)
    assert sum(history.losses[-20:]) < 0.6 * sum(history.losses[:20])
    held_out = EnergyBatch([chain(seeded(1000 + k)) for k in range(24)])
    with torch.no_grad():
        learned = held_out.energy(initialiser(CIRCUIT, held_out.tasks()).double())
        for name, start in STARTS.items():
            fixed = torch.stack([start(CIRCUIT, seeded(k)) for k in range(24)])
            gain = (held_out.energy(fixed) - learned) / held_out.ground_energies.abs()
            assert gain.mean() > 0.1, name


def ising(n_wires, n_layers):
    """A family of Ising chains whose circuit has an angle of its own in every gate: ZZ on neighbours, X on wires."""
    gates = [Gate("H", (wire,)) for wire in range(n_wires)]
    for _ in range(n_layers):
        first = sum(gate.angle is not None for gate in gates)
        gates += [Gate("ISINGZZ", (wire, wire + 1), first + wire) for wire in range(n_wires - 1)]
        gates += [Gate("RX", (wire,), first + n_wires - 1 + wire) for wire in range(n_wires)]
    circuit = Circuit(n_wires, tuple(gates))

    def draw(generator):
        field = 0.5 + float(torch.rand((), generator=generator, dtype=torch.float64))
        energy = transverse_ising(n_wires, 1.0, field)
        return EnergyProblem("ising", circuit, energy, float(torch.linalg.eigvalsh(energy.matrix())[0]), (field,))

    return draw


def test_a_decoder_starts_circuits_of_twice_the_size_it_was_trained_on_lower_than_any_fixed_start():
    torch.manual_seed(0)
    decoder = FlipDecoder(1, hidden=32)
    family = mixture(*(pool(ising(*size), 16, seeded(1)) for size in ((3, 2), (4, 2), (4, 3), (5, 4))))
    meta_train(decoder, family, 150, n_tasks=8, lr=0.01)
    larger = EnergyBatch([ising(8, 4)(seeded(100 + k)) for k in range(8)])
    with torch.no_grad():
        learned = larger.energy(decoder(larger.circuit, larger.tasks()).double())
        for name, start in STARTS.items():
            fixed = torch.stack([start(larger.circuit, seeded(k)) for k in range(8)])
            gain = (larger.energy(fixed) - learned) / larger.ground_energies.abs()
            assert gain.mean() > 0.05, name


def test_every_gradient_is_counted():
    for (inner_steps, order), each in zip(MODES, (1, 3, 3 + 2 * 4)):
        history = meta_train(initialisers()[0], chain, 3, 5, inner_steps=inner_steps, order=order)
        assert history.n_gradients == 3 * 5 * each
        assert len(history.losses) == len(history.gradient_norms) == 3


def test_training_that_was_killed_goes_on_to_the_same_weights(tmp_path):
    options = {"n_steps": 9, "n_tasks": 4, "inner_steps": 1, "cosine": True, "lr": 0.01}
    whole = initialisers()[0]
    expected = meta_train(whole, chain, **options, generator=seeded(5))

    class Killed(Exception):
        pass

    def kill(step, loss):
        if step == 6:
            raise Killed

    file = tmp_path / "deep" / "state.safetensors"
    with pytest.raises(Killed):
        meta_train(
            initialisers()[0], chain, **options, generator=seeded(5), checkpoint=file, save_every=3, on_step=kill
        )
    torch.manual_seed(99)
    resumed = Learner(3, CIRCUIT.n_angles, hidden=8)
    steps = []
    history = meta_train(
        resumed, chain, **options, generator=seeded(77), checkpoint=file, on_step=lambda step, _: steps.append(step)
    )
    assert steps == [6, 7, 8]
    assert history.losses == expected.losses
    assert history.n_gradients == expected.n_gradients
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert not file.exists()


def test_checkpoints_of_other_settings_and_other_files_are_refused(tmp_path):
    file = tmp_path / "state.safetensors"

    def stop(step, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        meta_train(initialisers()[0], chain, 5, 2, checkpoint=file, save_every=1, on_step=stop)
    with pytest.raises(ValueError, match=r"with n_tasks=2, not 3"):
        meta_train(initialisers()[0], chain, 5, 3, checkpoint=file)
    initialisers()[0].save(file)
    with pytest.raises(ValueError, match="no checkpoint"):
        meta_train(initialisers()[0], chain, 5, 2, checkpoint=file)


def test_a_pool_is_drawn_once():
    drawn = []

    def counted(generator):
        drawn.append(chain(generator))
        return drawn[-1]

    family = pool(counted, 4, seeded(0))
    generator = seeded(1)
    picked = {id(family(generator)) for _ in range(60)}
    assert len(drawn) == 4
    assert picked == {id(problem) for problem in drawn}


def test_a_loss_that_reaches_no_weight_is_refused():
    class Detached(Held):
        def forward(self, circuit, task):
            return super().forward(circuit, task).detach()

    with pytest.raises(ValueError, match="do not depend on weights"):
        meta_train(Detached(_start()), one_of(TASKS), 1)
    held = Held(_start())
    held.unused = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="no gradient reaches unused"):
        meta_train(held, one_of(TASKS), 1)
    with pytest.raises(ValueError, match="frozen"):
        meta_train(Held(_start()).requires_grad_(False), one_of(TASKS), 1)


def test_impossible_settings_are_refused():
    learner = initialisers()[0]
    with pytest.raises(ValueError, match="inner_steps=-1"):
        meta_train(learner, chain, 1, inner_steps=-1)
    with pytest.raises(ValueError, match="order='third'"):
        meta_train(learner, chain, 1, order="third")
    with pytest.raises(ValueError, match="give 3 weights"):
        meta_train(learner, chain, 1, inner_steps=2, step_weights=(1.0, 0.0))


def test_a_task_without_energy_does_no_harm():
    flat = EnergyProblem("flat", CIRCUIT, heisenberg(3, (0.0, 0.0, 0.0)), 0.0, (0.0, 0.0, 0.0))
    learner = initialisers()[0]
    history = meta_train(learner, one_of([flat, *TASKS]), 4, n_tasks=6)
    assert all(0 < loss < 2 for loss in history.losses)
    assert all(torch.isfinite(weight).all() for weight in learner.parameters())
