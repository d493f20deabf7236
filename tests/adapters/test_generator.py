"""The generator of QPA against its definition, PennyLane and published counts."""

import itertools
import math

import numpy as np
import pennylane as qml
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ketune import QPAConfig
from ketune.adapters import ConfigError
from ketune.adapters.generator import Generator, GeneratorBank, basis_signs, condition, one_bank
from ketune.adapters.generator_fields import RELEASED_HIDDEN, make_plan, n_wires_of


def moved_generator(config, n_chunks, chunk):
    return Generator(config, n_chunks, chunk, seed=3, moved=True)


def start_of(generator, name):
    return getattr(generator, f"{name}_start").view(torch.float32)


def pennylane_probabilities(angles, n_wires):
    @qml.qnode(qml.device("default.qubit", wires=n_wires))
    def circuit():
        for layer in angles.reshape(-1, n_wires):
            for wire in range(n_wires):
                qml.RY(layer[wire], wires=wire)
            for wire in range(n_wires - 1):
                qml.CNOT(wires=[wire, wire + 1])
        return qml.probs(wires=range(n_wires))

    return np.asarray(circuit())


@pytest.mark.parametrize("n_chunks", [2, 5, 30])
def test_q_comes_from_the_probabilities_that_pennylane_gives(n_chunks):
    config = QPAConfig(n_layers=3, gamma=0.1, beta=0.6, alpha=0.15)
    generator = moved_generator(config, n_chunks, 4)
    angles = (start_of(generator, "signal") + generator.signal.detach()).double().numpy()
    n_wires = generator.circuit.n_wires
    assert n_wires == math.ceil(math.log2(n_chunks))
    p = pennylane_probabilities(angles, n_wires)
    q = (0.6 * np.tanh(0.1 * 2 ** (n_wires - 1) * p)) ** 0.15
    expected = torch.tensor(q - q.mean())[:n_chunks].float()
    torch.testing.assert_close(generator.q(), expected, atol=2e-5, rtol=0)


def test_a_probability_of_zero_gives_finite_values_and_slopes():
    p = torch.tensor([1.0, 0.0, 1e-30, 0.0], requires_grad=True)
    q = condition(p, 0.1, 0.6, 0.15)
    q[1].backward()
    assert torch.isfinite(q).all()
    assert torch.isfinite(p.grad).all()
    floor = (0.6 * math.tanh(0.1 * 2 * 1e-12)) ** 0.15
    top = (0.6 * math.tanh(0.2)) ** 0.15
    mean = (top + 3 * floor) / 4
    assert q.tolist() == pytest.approx([top - mean, floor - mean, floor - mean, floor - mean], abs=1e-6)


def test_the_bits_of_a_chunk_come_highest_first_as_signs():
    expected = torch.tensor(list(itertools.product([-1, 1], repeat=3)))
    assert torch.equal(basis_signs(8, 3), expected.to(torch.int8))
    assert torch.equal(basis_signs(5, 3), expected[:5].to(torch.int8))


@pytest.mark.parametrize("activation", ["silu", "tanh", "none"])
def test_chunks_are_what_the_mapping_model_makes_of_bits_and_q(activation):
    """Layer by layer with torch's own modules; the start is subtracted in float64."""
    config = QPAConfig(hidden=[5, 7], activation=activation, n_layers=2)
    generator = moved_generator(config, 6, 9)
    function = {"silu": torch.nn.SiLU(), "tanh": torch.nn.Tanh(), "none": torch.nn.Identity()}[activation]
    start = start_of(generator, "mapping")

    def chunks(flat, q):
        layers, widths = [], [4, 5, 7, 9]
        for n_in, n_out in itertools.pairwise(widths):
            linear = torch.nn.Linear(n_in, n_out).double()
            with torch.no_grad():
                linear.weight.copy_(flat[: n_in * n_out].view(n_out, n_in))
                linear.bias.copy_(flat[n_in * n_out : (n_in + 1) * n_out])
            flat = flat[(n_in + 1) * n_out :]
            layers += [linear, function]
        return torch.nn.Sequential(*layers[:-1])(torch.cat([basis_signs(6, 3).double(), q[:, None]], 1))

    q = generator.q().double()
    with torch.no_grad():
        q_start = Generator(config, 6, 9, seed=3).q().double()
        now, moved = generator(0, 6)
        expected = chunks((start + generator.mapping).double(), q)
        before = chunks(start.double(), q_start)
    torch.testing.assert_close(now.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved.double(), expected - before, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat([generator(0, 2)[0], generator(2, 6)[0]]), now, atol=1e-6, rtol=1e-6)


def test_without_activations_all_chunks_lie_in_a_space_of_n_plus_two_dimensions():
    """An affine map of N + 1 numbers: rank N + 2 at most; with an activation the hidden width is the limit."""
    published = QPAConfig.preset("published")
    chunks, _ = moved_generator(published, 100, 300)(0, 100)
    assert torch.linalg.matrix_rank(chunks.detach().double(), rtol=1e-5) <= 9
    fused = QPAConfig(activation="none", fused_linear=True)
    chunks, _ = moved_generator(fused, 100, 300)(0, 100)
    assert torch.linalg.matrix_rank(chunks.detach().double(), rtol=1e-5) == 9
    chunks, _ = moved_generator(QPAConfig(hidden=[16, 32]), 100, 300)(0, 100)
    assert torch.linalg.matrix_rank(chunks.detach().double(), rtol=1e-5) == 33


def test_the_start_is_that_of_a_mersenne_twister_and_does_not_depend_on_what_was_drawn_before():
    """numpy's MT19937 gives the raw words; torch keeps 24 bits of each."""
    generator = Generator(QPAConfig(n_layers=2), 4, 3, seed=11)
    torch.randn(17)
    assert torch.equal(Generator(QPAConfig(n_layers=2), 4, 3, seed=11).mapping_start, generator.mapping_start)
    words = np.random.RandomState(11).randint(0, 2**32, size=4, dtype=np.uint32)
    uniform = (words & 0xFFFFFF) / 2**24
    assert start_of(generator, "signal").tolist() == pytest.approx(math.pi * (2 * uniform - 1), rel=1e-6)


def test_no_change_of_dtype_rounds_the_start():
    generator = Generator(QPAConfig(), 4, 6, seed=0)
    exact = start_of(generator, "mapping").clone()
    generator.to(torch.bfloat16).to(torch.float32)
    assert torch.equal(start_of(generator, "mapping"), exact)
    assert set(generator.state_dict()) == {"mapping", "signal"}


def test_balanced_starts_make_numbers_of_unit_size_and_released_ones_do_not():
    for activation, hidden in (("silu", [16, 32]), ("tanh", [64, 64, 64]), ("none", [32, 64, 32])):
        config = QPAConfig(activation=activation, hidden=hidden)
        chunks = torch.stack([Generator(config, 128, 64, seed=s)(0, 128)[0].detach() for s in range(20)])
        assert 0.7 < chunks.std().item() < 1.6
    released = Generator(QPAConfig.preset("published"), 100, 2048, seed=0)
    assert released(0, 100)[0].std() < 0.3


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    chunk=st.integers(1, 120),
    n_generators=st.integers(1, 4),
)
def test_a_plan_makes_every_vector_from_whole_chunks_and_each_chunk_once(lengths, chunk, n_generators):
    plan = make_plan(lengths, chunk, n_generators)
    used = []
    for length, pieces in zip(lengths, plan.pieces):
        chunks = [(p.generator, i) for p in pieces for i in range(p.first, p.last)]
        assert len(chunks) == math.ceil(length / plan.chunk)
        used += chunks
    assert used == [(k, i) for k, n in enumerate(plan.n_chunks) for i in range(n)]
    assert len(plan.n_chunks) <= n_generators
    assert plan.chunk == min(chunk, max(lengths))


def test_a_chunk_too_short_for_fourteen_wires_is_lengthened_just_enough():
    plan = make_plan([2**20, 2**20], 8)
    assert plan.chunk == 128
    assert n_wires_of(sum(plan.n_chunks)) == 14
    assert make_plan([2**20, 2**20], 8, 2).chunk == 64


def test_the_vector_of_a_layer_is_cut_from_its_own_chunks_and_centred():
    config = QPAConfig(chunk=10, n_generators=2)
    bank = one_bank(config, [25, 14, 30], seed=1, moved=True)
    assert isinstance(bank, GeneratorBank)
    assert [len(g.signs) for g in bank.generators] == [4, 4]
    now, moved = bank(1)
    raw = torch.cat([bank.generators[0](3, 4)[0], bank.generators[1](0, 1)[0]]).flatten()[:14]
    torch.testing.assert_close(now, raw - raw.mean())
    assert now.mean().item() == pytest.approx(0, abs=1e-6)
    assert moved.mean().item() == pytest.approx(0, abs=1e-6)


def test_the_published_counts_come_out():
    """106,264 is in the authors' training log; the others follow from ratios in the paper, 52.06 % and 16.84 %."""
    published = QPAConfig.preset("published")
    assert published.parameter_count(768, 50257) == 106_264
    assert round(106_264 / published.vector_length(768, 50257), 4) == 0.5206
    gemma = QPAConfig.preset("published", chunk=4096)
    assert gemma.parameter_count(2048, 256_000) == 173_888
    fused = QPAConfig.preset("published", fused_linear=True)
    assert fused.parameter_count(768, 50257) == (7 + 2) * 2048 + 7 * 8 == 18_488
    assert list(RELEASED_HIDDEN) == [32, 64, 128, 128, 64, 32, 32]


@pytest.mark.parametrize(("control", "signal", "inputs"), [("trained", 56, 8), ("frozen", 0, 8), ("classical", 100, 8)])
def test_controls_differ_only_in_what_makes_q(control, signal, inputs):
    config = QPAConfig.preset("published", control=control)
    rest = 32 * (inputs + 1) + 2112 + 8320 + 16512 + 8256 + 2080 + 1056 + 33 * 2048
    assert config.generator_count(100, 2048) == signal + rest
    generator = Generator(config, 100, 2048, seed=0)
    assert sum(p.numel() for p in generator.parameters()) == signal + rest
    assert 0.08 < generator.q().std().item() < 0.25


def test_the_control_without_a_circuit_gets_the_bits_alone():
    config = QPAConfig.preset("published", control="none")
    assert config.generator_count(100, 2048) == 106_264 - 56 - 32
    assert Generator(config, 100, 2048, seed=0).q().numel() == 0


def test_half_precision_autocast_does_not_reach_the_generator():
    generator = moved_generator(QPAConfig(), 6, 9)
    plain = generator(0, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = generator(0, 6)
    assert torch.equal(plain[0], inside[0])
    assert torch.equal(plain[1], inside[1])


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("chunk", 0, "at least 1"),
        ("n_layers", 0, "at least 1"),
        ("hidden", [16, 0], "widths must be at least 1"),
        ("activation", "relu", "choose one of 'silu', 'tanh', 'none'"),
        ("fused_linear", True, "set activation='none' too"),
        ("gamma", 0.0, "above zero"),
        ("alpha", -1.0, "above zero"),
        ("init", "release", "did you mean 'released'"),
        ("n_generators", 0, "at least 1"),
        ("control", "random", "choose one of 'trained', 'frozen', 'classical', 'none'"),
        ("target", "prefix", "choose one of 'lora', 'dora', 'adapter'"),
        ("r", 0, "at least 1"),
        ("lora_alpha", 0.0, "above zero, or None"),
        ("sharing", "layer", "choose one of 'all', 'module'"),
        ("size_pattern", {"lin0": 3}, "set sharing='module'"),
    ],
)
def test_bad_values_are_refused_by_name_with_what_is_allowed(field, value, says):
    with pytest.raises(ConfigError, match=says) as caught:
        QPAConfig(**{field: value})
    assert str(caught.value).startswith(f"QPAConfig({field}={value!r}): ")
