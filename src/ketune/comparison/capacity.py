"""Representational capacity: how many directions an adapted model uses that its base does not.

Two spectra answer that. `hidden_change` looks at what the model computes: the singular values of the matrix
(last hidden states adapted - base), one row per token, which every method has. `weight_changes` looks at the weights:
the singular values of each changed matrix, which only updates that are linear in x, and full fine-tuning, have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ketune.adapters.config import ConfigError
from ketune.adapters.targeting import known_targets

#: Singular values written to a result; the ranks are computed from all of them.
KEPT_VALUES = 256
#: Weight matrices looked at, spread evenly over the model's depth; a decomposition of each takes cubic time.
MAX_MATRICES = 48


def effective_rank(singular_values: torch.Tensor) -> float:
    """exp of the Shannon entropy of the singular values scaled to sum 1: 0 for a zero matrix, n for n equal values.

    Args:
        singular_values: Non-negative, any order, shape (n,).

    Source: Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    """
    values = singular_values.double()
    total = values.sum()
    if not total > 0:
        return 0.0
    shares = values[values > 0] / total
    return math.exp(float(-(shares * shares.log()).sum()))


def stable_rank(singular_values: torch.Tensor) -> float:
    """Squared Frobenius norm over squared spectral norm: 0 for a zero matrix, n for n equal singular values.

    Args:
        singular_values: Non-negative, any order, shape (n,).

    Source: Rudelson and Vershynin, "Sampling from large matrices", J. ACM 54 (2007).
    """
    values = singular_values.double()
    largest = values.max() if values.numel() else values.sum()
    return float((values**2).sum() / largest**2) if largest > 0 else 0.0


def spectrum(matrix: torch.Tensor) -> dict[str, Any]:
    """Singular values (the largest `KEPT_VALUES`, falling) and both ranks of a matrix, as a result file holds them.

    Raises:
        ValueError: The matrix holds a value that is not finite.
    """
    matrix = matrix.detach().to("cpu", torch.float32) if matrix.device.type != "cuda" else matrix.detach().float()
    if not torch.isfinite(matrix).all():
        raise ValueError("the change holds values that are not finite: the training diverged; lower the learning rate")
    values = torch.linalg.svdvals(matrix).cpu()
    return {
        "singular_values": [float(f"{value:.6g}") for value in values[:KEPT_VALUES].tolist()],
        "effective_rank": effective_rank(values),
        "stable_rank": stable_rank(values),
        "shape": list(matrix.shape),
    }


def hidden_states(model: nn.Module, tokenizer: Any, texts: Sequence[str], max_length: int = 128) -> torch.Tensor:
    """The last hidden states of a causal language model for every token of some texts, one text at a time.

    Args:
        model: A transformers model or a PeftModel around one, in any mode; its mode is restored.
        tokenizer: Its tokenizer.
        texts: At least one text.
        max_length: Tokens of each text that are looked at.

    Returns:
        Shape (tokens of all texts, hidden size), float32 on the CPU. Rows of virtual tokens (prompt tuning) are left
        out, so that the rows of an adapted model and of its base belong to the same tokens.
    """
    from ketune.finetuning.metrics import evaluating

    rows = []
    with evaluating(model):
        device = next(model.parameters()).device
        for text in texts:
            ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=max_length)["input_ids"].to(device)
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
            rows.append(output.hidden_states[-1][0, -ids.shape[1] :].float().cpu())
        return torch.cat(rows)


def hidden_change(adapted: torch.Tensor, base: torch.Tensor) -> dict[str, Any]:
    """The spectrum of the change of the hidden states, both (tokens, hidden size), and its size beside the base's.

    `relative_norm` is the Frobenius norm of the change over that of the base's states.
    """
    change = adapted - base
    found = spectrum(change)
    found["relative_norm"] = float(change.norm() / base.norm().clamp_min(1e-30))
    return found


def weight_changes(
    model: nn.Module, base: nn.Module | None = None, targets: Sequence[str] | None = None
) -> dict[str, dict[str, Any]] | None:
    """The spectrum of each changed weight matrix by the module's name in the base, or None where there is none.

    Args:
        model: A PeftModel, or a fully fine-tuned model.
        base: For full fine-tuning the untouched model.
        targets: With `base`, names of the modules to compare; None takes those that adapters target by default.

    Returns:
        None for updates that are not linear in their input (QAA with Pauli readouts, prefix tuning).
    """
    matrices = _full_changes(model, base, targets) if base is not None else _update_matrices(model)
    if not matrices:
        return None
    kept = _spread(list(matrices), MAX_MATRICES)
    return {name.removeprefix("base_model.model."): spectrum(matrices[name]) for name in kept}


def _update_matrices(model: nn.Module) -> Mapping[str, torch.Tensor]:
    from ketune.adapters import update_matrices

    return update_matrices(model)


def _full_changes(model: nn.Module, base: nn.Module, targets: Sequence[str] | None) -> dict[str, torch.Tensor]:
    names = targets or known_targets(base)
    before = dict(base.named_parameters())
    changes = {}
    for key, new in model.named_parameters():
        name = key.removesuffix(".weight")
        if name != key and name.rsplit(".", 1)[-1] in names and new.ndim == 2:
            changes[name] = new.detach().float() - before[key].detach().to(new.device).float()
    return changes


def circuit_metrics(model: nn.Module, peft_config: Any) -> dict[str, Any] | None:
    """Size, expressibility and entangling capability of an adapter's circuit; None if it has none.

    With layers of several widths it is the circuit of the first adapted layer.

    Both capabilities depend on the circuit alone, not on its trained angles: they are averages over random angles.

    Source: Sim, Johnson and Aspuru-Guzik, "Expressibility and entangling capability of parameterized quantum circuits
    for hybrid quantum-classical algorithms", Adv. Quantum Technol. 2 (2019).
    """
    if getattr(peft_config, "control", "trained") in ("classical", "none"):
        return None
    from peft.tuners.tuners_utils import BaseTunerLayer

    from ketune.adapters.layer_circuits import circuits_by_layer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    try:
        circuits = circuits_by_layer(peft_config, [(layer.in_features, layer.out_features) for layer in layers])
    except ConfigError:  # a form of the method that has none
        return None
    if not circuits:
        return None
    circuit = circuits[0]
    from ketune.circuits import entangling_capability, expressibility

    return {
        "n_wires": circuit.n_wires,
        "n_gates": len(circuit.gates),
        "n_angles": circuit.n_angles,
        "depth": circuit.depth(),
        "n_two_qubit": sum(len(gate.wires) == 2 for gate in circuit.gates),
        "expressibility": float(expressibility(circuit)),
        "entangling_capability": float(entangling_capability(circuit)),
    }


def _spread(names: Sequence[str], most: int) -> Iterable[str]:
    if len(names) <= most:
        return names
    step = (len(names) - 1) / (most - 1)
    return [names[round(i * step)] for i in range(most)]
