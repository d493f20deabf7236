"""Compass: frames that point where the loss falls, and what turns them."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from tests.adapters.models import TwoLayers, tiny_llama
from torch import nn

from ketune.adapters import METHODS, CompassConfig, ConfigError
from ketune.adapters.frames import point_frames


def language_batches(n=3, rows=4, length=12):
    generator = torch.Generator().manual_seed(7)
    batches = []
    for _ in range(n):
        ids = torch.randint(0, 50, (rows, length), generator=generator)
        batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()})
    return batches


def adapt(**settings):
    config = CompassConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], **settings)
    return get_peft_model(tiny_llama(), config), config


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    rank=st.integers(1, 20),
    layers=st.integers(0, 2),
    control=st.sampled_from(["trained", "frozen", "classical", "none"]),
)
def test_counts_are_exact_and_updates_start_at_zero(shape, rank, layers, control):
    config = CompassConfig(rank=rank, n_layers=layers, control=control if layers else "trained")
    update = config.make_update(*shape)
    assert sum(p.numel() for p in update.parameters()) == config.parameter_count(*shape)
    x = torch.randn(3, shape[0])
    assert update(x).shape == (3, shape[1])
    assert not update(x).any()


def test_published_style_count():
    # k lambdas and, per side, q + 2 (q - 1) L angles for q = log2 m.
    assert CompassConfig(rank=21).parameter_count(128, 128) == 21
    assert CompassConfig(rank=16, n_layers=1).parameter_count(128, 128) == 16 + 2 * (5 + 2 * 4)


@pytest.mark.parametrize("control", ["trained", "frozen", "classical", "none"])
def test_the_matrix_of_the_update_is_what_it_does(control):
    update = CompassConfig(rank=5, n_layers=2, control=control).make_update(13, 9)
    with torch.no_grad():
        for parameter in update.parameters():
            nn.init.normal_(parameter)
    x = torch.randn(4, 13)
    torch.testing.assert_close(x @ update.delta_weight().T, update(x))
    update_wide = CompassConfig(rank=9, n_layers=1, control=control).make_update(13, 9)  # one dense product
    nn.init.normal_(update_wide.diagonal)
    torch.testing.assert_close(x @ update_wide.delta_weight().T, update_wide(x))


def test_gradient_frames_are_the_singular_vectors_of_the_gradient():
    model, config = adapt(rank=4, frame="gradient")
    batches = language_batches()
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    weight = layer.base_layer.weight
    weight.requires_grad_(True)
    model.eval()
    sum(model(**batch).loss for batch in batches).backward()
    expected = torch.linalg.svd(weight.grad)
    weight.requires_grad_(False)
    weight.grad = None
    config.calibrate(model, batches, "default")
    update = layer.update_of("default")
    overlap = (update.down @ expected.Vh[:4].T).abs()
    torch.testing.assert_close(overlap, torch.eye(4), atol=1e-3, rtol=0)
    up = update.up / update.up.norm(dim=0)
    torch.testing.assert_close((up.T @ expected.U[:, :4]).abs(), torch.eye(4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("frame", ["natural", "kfac"])
def test_whitened_frames_see_activations_of_size_one(frame):
    model, config = adapt(rank=3, frame=frame)
    batches = language_batches()
    config.calibrate(model, batches, "default")
    seen = []
    layer = model.base_model.model.model.layers[1].self_attn.v_proj
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    handle.remove()
    z = torch.cat(seen) @ layer.update_of("default").down.T
    torch.testing.assert_close(z.T @ z / len(z), torch.eye(3), atol=2e-2, rtol=0)


def test_lambda_first_moves_down_the_singular_values():
    model, config = adapt(rank=4, frame="gradient", n_layers=1)
    batches = language_batches(1)
    config.calibrate(model, batches, "default")
    assert all(p.grad is None for p in model.parameters())
    model.eval()
    model(**batches[0]).loss.backward()
    gradient = model.base_model.model.model.layers[0].self_attn.q_proj.update_of("default").diagonal.grad
    assert (gradient > 0).all()
    assert (gradient[:-1] > gradient[1:]).all()


def test_pointed_frames_train_faster_than_random_ones():
    losses = {}
    for frame in ("natural", "random"):
        torch.manual_seed(0)
        model, config = adapt(rank=6, frame=frame)
        batches = language_batches()
        config.calibrate(model, batches, "default")
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for _ in range(6):
            loss = sum(model(**batch).loss for batch in batches)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[frame] = loss.item()
    assert losses["natural"] < losses["random"]


def test_frames_are_saved_and_loaded(tmp_path):
    model, config = adapt(rank=4, n_layers=1)
    config.calibrate(model, language_batches(), "default")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "compass" in name:
                nn.init.normal_(parameter, std=0.1)
    ids = language_batches(1)[0]["input_ids"]
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path)
    assert torch.equal(loaded.eval()(ids).logits, model.eval()(ids).logits)


def test_small_groups_of_layers_give_the_same_frames(monkeypatch):
    frames = []
    for limit in (1, 1 << 30):
        monkeypatch.setattr("ketune.adapters.frames.MAX_BYTES", limit)
        model, config = adapt(rank=3)
        config.calibrate(model, language_batches(), "default")
        update = model.base_model.model.model.layers[1].self_attn.q_proj.update_of("default")
        frames.append(torch.einsum("om,mi->moi", update.up, update.down))  # free of the sign of both
    torch.testing.assert_close(*frames)


def test_what_cannot_be_pointed_says_why():
    model, _ = adapt(rank=3)
    with pytest.raises(ConfigError, match="labels"):
        point_frames(model, [{"input_ids": torch.zeros(1, 4, dtype=torch.long)}])
    with pytest.raises(ConfigError, match="at least one"):
        point_frames(model, [])
    with pytest.raises(ConfigError, match="no adapter of that name"):
        point_frames(model, language_batches(1), adapter_name="other")
    frozen, config = adapt(rank=3)
    frozen.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter of the model trains"):
        config.calibrate(frozen, language_batches(1), "default")
    with pytest.raises(ConfigError, match="no circuit to replace"):
        CompassConfig(control="frozen")
    with pytest.raises(ConfigError, match="frame_dim"):
        CompassConfig(rank=4, frame_dim=2)


def test_a_layer_that_the_loss_does_not_reach_is_named_and_nothing_is_pointed():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            return SimpleNamespace(loss=self.used(x).square().sum() + 0 * self.idle(x).detach().sum())

    model = get_peft_model(Two(), CompassConfig(rank=2, target_modules=["used", "idle"]))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with pytest.raises(ConfigError, match=r"does not depend on '.*idle' \(1 such"):
        point_frames(model, [{"x": torch.randn(5, 6)}])
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_circuits_are_told_where_the_config_has_some():
    shapes = [(16, 16), (64, 8)]
    assert CompassConfig(rank=4).circuits(shapes) is None
    assert CompassConfig(rank=4, n_layers=1, control="none").circuits(shapes) is None
    config = CompassConfig(rank=4, n_layers=2)
    assert [c.n_angles for c in config.circuits(shapes)] == [config.shape(*shape)[2] for shape in shapes]
    assert METHODS["compass_circuit"].quantum
    assert not METHODS["compass"].quantum


def test_random_frames_need_no_data_and_come_from_the_seed():
    first, again, other = (CompassConfig(frame="random", seed=s).make_update(10, 20) for s in (1, 1, 2))
    assert not CompassConfig(frame="random").needs_calibration
    assert torch.equal(first.down, again.down)
    assert not torch.equal(first.down, other.down)
    assert math.isclose(float(first.down.norm(dim=1).mean()), 1.0, rel_tol=0.5)
    model = get_peft_model(TwoLayers(), CompassConfig(target_modules=["lin0"]))
    assert {name for name, _ in model.named_buffers()} == {
        f"base_model.model.lin0.compass_update.default.{side}" for side in ("down", "up")
    }
