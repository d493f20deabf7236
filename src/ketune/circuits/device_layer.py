"""`DeviceLayer`: a `QuantumLayer` that runs on a device."""

from __future__ import annotations

from torch import Tensor, nn

from ketune.circuits._device import Device
from ketune.circuits.device_runner import DeviceRunner
from ketune.circuits.layer import REUPLOADING, QuantumLayer


class DeviceLayer(nn.Module):
    """A `QuantumLayer` on a PennyLane device or a Qiskit backend: the same features in, the same readouts out.

    The layer's angles are shared, not copied: training either moves both. All circuits of a batch go to the device in
    one job, and so do all shifted circuits of a backward pass; `cost_estimate` counts them beforehand.

    Args:
        layer: what to run; every encoding, and every readout but "amplitudes".
        device: a name for `open_device`, a `Device`, a Qiskit backend or a PennyLane device; or a `DeviceRunner`, whose
            options then stand, and whose calibration and seed several layers share.
        shots: measurements of each circuit in each setting; exact values when None, where the device can.
        mitigate_readout: measure how qubits are misread, once, and take it out of the results. Negative chances that
            this leaves in readout "probabilities" are kept, so that nothing is biased.
        optimization_level: of Qiskit's transpiler, 0 to 3.
        seed: repeats simulated shots; None for no seed.
        gradient: "parameter_shift" for gradients of angles, and of features that are angles; None for none. Features
            of amplitude encoding have no gradient on a device, see `DeviceRunner`.

    Raises:
        DeviceError: when the layer or the options are not for this device.

    Example:
        >>> import torch
        >>> from ketune.circuits import DeviceLayer, QuantumLayer, ryrz_ring_ry
        >>> layer = QuantumLayer(ryrz_ring_ry(2), "angle")
        >>> on_device = DeviceLayer(layer, "statevector")
        >>> x = torch.tensor([[0.3, -0.2]])
        >>> torch.testing.assert_close(on_device(x), layer(x))
    """

    def __init__(
        self,
        layer: QuantumLayer,
        device: Device | DeviceRunner | str | object,
        *,
        shots: int | None = None,
        mitigate_readout: bool = False,
        optimization_level: int = 1,
        seed: int | None = None,
        gradient: str | None = "parameter_shift",
    ) -> None:
        super().__init__()
        self.layer = layer
        if not isinstance(device, DeviceRunner):
            device = DeviceRunner(
                device,
                shots=shots,
                mitigate_readout=mitigate_readout,
                optimization_level=optimization_level,
                seed=seed,
                gradient=gradient,
            )
        self.runner = device

    @property
    def angles(self) -> nn.Parameter:
        """The layer's trained angles."""
        return self.layer.angles

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_features) features to (..., n_outputs) readouts."""
        layer = self.layer
        if x.ndim == 0 or x.shape[-1] != layer.n_features:
            given = x.shape[-1] if x.ndim else "no dimension for its"
            raise ValueError(f"x has {given} features; this layer takes {layer.n_features}")
        if layer.encoding == REUPLOADING:
            return self.runner(layer.circuit, None, layer.all_angles(x), readout=layer.readout)
        return self.runner(
            layer.circuit,
            x,
            layer.angles,
            encoding=layer.encoding,
            readout=layer.readout,
            n_repeats=layer.n_repeats,
        )

    def extra_repr(self) -> str:
        """What print() shows."""
        return f"device={self.runner.device.name!r}, shots={self.runner.shots}"
