"""No tensor of the size of all states exists, neither between forward and backward nor inside them."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ketune.circuits import run, rxryrz_ring, ry_ring

MIB = 1 << 20


class LargestTensor(TorchDispatchMode):
    """Remembers the largest storage that any operation returned, apart from views of `known`."""

    def __init__(self, known):
        super().__init__()
        self.size, self.known = 0, known.untyped_storage().data_ptr()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() != self.known:
                self.size = max(self.size, leaf.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("ansatz", [ry_ring, rxryrz_ring])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_backward_keeps_the_features_as_they_are_and_nothing_of_the_size_of_states(ansatz, dtype):
    circuit = ansatz(8, 3)
    x = torch.randn(500, 256, dtype=dtype, requires_grad=True)
    angles = torch.randn(circuit.n_angles, requires_grad=True)
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = run(circuit, x, angles)
    assert saved.pop(x.untyped_storage().data_ptr()) == x.nbytes
    # Readouts and the angles.
    assert sum(saved.values()) <= out.nbytes + angles.nbytes


@pytest.mark.parametrize(("n_wires", "n_samples", "limit"), [(7, 4096, 1), (10, 1024, 1), (12, 1024, 4)])
def test_no_intermediate_tensor_is_larger_than_a_chunk(n_wires, n_samples, limit):
    circuit = rxryrz_ring(n_wires, 2)
    x = torch.randn(n_samples, 2**n_wires)
    angles = torch.randn(circuit.n_angles, requires_grad=True)
    states = 2 * x.nbytes
    run(circuit, x, angles)  # tables are made once
    with LargestTensor(x) as largest:
        (gradient,) = torch.autograd.grad(run(circuit, x, angles).sum(), angles)
    assert gradient.shape == angles.shape
    # The largest are chunks of states, the circuit's matrix at 7 wires, the sums behind the gradients at 12.
    assert largest.size <= limit * MIB < states / 3
