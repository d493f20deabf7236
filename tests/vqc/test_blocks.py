"""The block swap: what stands in a circuit's place, and what it counts."""

import pytest
import torch

from ketune.circuits import Channel, NoiseModel, run, rxryrz_ring
from ketune.vqc.blocks import CircuitBlock, LinearBlock, NoBlock, make_block, noisy


def n_trained(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize(("n_wires", "n_layers"), [(8, 1), (8, 6), (2, 5), (5, 3), (1, 4)])
@pytest.mark.parametrize("encoding", ["angle", "amplitude"])
def test_the_linear_stand_in_has_exactly_as_many_parameters_as_the_circuit(n_wires, n_layers, encoding):
    circuit = rxryrz_ring(n_wires, n_layers)
    linear = make_block("linear", circuit, encoding)
    assert n_trained(linear) == n_trained(make_block("circuit", circuit, encoding)) == 3 * n_wires * n_layers
    assert n_trained(make_block("frozen", circuit, encoding)) == n_trained(make_block("none", circuit, encoding)) == 0


@pytest.mark.parametrize(
    "sizes", [(8, 8, 24), (8, 8, 64), (8, 8, 144), (3, 5, 7), (256, 8, 144), (256, 8, 300), (1, 1, 3)]
)
def test_a_linear_block_is_a_matrix_in_which_every_parameter_counts(sizes):
    n_inputs, n_outputs, n_parameters = sizes
    block = LinearBlock(*sizes, generator=torch.Generator().manual_seed(0))
    x = torch.randn(4, n_inputs)
    torch.testing.assert_close(block(x), x @ block.matrix().T)
    block(torch.randn(50, n_inputs)).square().sum().backward()
    assert block.values.numel() == n_parameters
    assert (block.values.grad != 0).all()
    if n_parameters <= n_inputs * n_outputs:
        assert int((block.matrix() != 0).sum()) == n_parameters
    if n_parameters >= n_inputs:
        assert (block.matrix() != 0).any(0).all()  # no input is left out


def test_a_linear_block_keeps_about_the_variance_of_its_input():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=generator)
    variances = [LinearBlock(8, 8, 48, generator)(x).var() for _ in range(50)]
    assert 0.7 < torch.stack(variances).mean() < 1.3


def test_a_frozen_block_stays_frozen_when_all_parameters_are_made_trainable():
    """As PEFT's modules_to_save does."""
    block = make_block("frozen", rxryrz_ring(3), generator=torch.Generator().manual_seed(0))
    block.requires_grad_(True)
    assert n_trained(block) == 0
    assert "angles" in block.state_dict()
    assert block.angles.abs().max() > 1  # random angles, not the small ones of a careful start


def test_a_circuit_block_is_run_with_its_own_or_with_given_angles():
    circuit = rxryrz_ring(3, 2)
    own, x, given = torch.randn(18), torch.randn(5, 3), torch.randn(5, 18)
    block = CircuitBlock(circuit, "angle", own)
    assert torch.equal(block(x), run(circuit, x, own, encoding="angle"))
    assert torch.equal(block(x, given), run(circuit, x, given, encoding="angle"))
    with pytest.raises(ValueError, match=r"angles=\.\.\."):
        CircuitBlock(circuit)(x)


def test_noise_lasts_as_long_as_its_block_even_after_an_error():
    block = make_block("circuit", rxryrz_ring(3), generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, 3)
    clean = block(x)
    noise = NoiseModel(one_wire=(Channel("depolarising", 0.75),))
    with noisy(torch.nn.Sequential(block), noise, 4, seed=0):
        first = block(x)
    with noisy(block, noise, 4, seed=0):
        assert torch.equal(block(x), first)
    assert not torch.equal(first, clean)
    with pytest.raises(RuntimeError, match="stop"), noisy(block, noise):
        raise RuntimeError("stop")
    assert torch.equal(block(x), clean)


def test_nothing_passes_features_on():
    x = torch.randn(2, 8)
    assert make_block("none", rxryrz_ring(3), "amplitude").n_outputs == 8
    assert NoBlock(8)(x) is x


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"block='vqc'.*'circuit', 'linear', 'frozen', 'none'"):
        make_block("vqc", rxryrz_ring(2))
    with pytest.raises(ValueError, match=r"encoding='iqp'"):
        make_block("circuit", rxryrz_ring(2), "iqp")
    with pytest.raises(ValueError, match=r"start='random'.*'uniform'"):
        make_block("circuit", rxryrz_ring(2), start="random")
    with pytest.raises(ValueError, match=r"LinearBlock\(0"):
        LinearBlock(0, 2, 3)
