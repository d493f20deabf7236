"""Angle hypernetworks: exact starts, first steps that move, counts, places, rows and precision."""

import pytest
import torch

from ketune.circuits import rxryrz_ring, ry_ring
from ketune.vqc.controls import TrainOnlyClassifier
from ketune.vqc.descriptors import describe_angles
from ketune.vqc.hypernetwork import AngleHypernet

ROWS = describe_angles(rxryrz_ring(4, 2))  # 24 angles
KINDS = {
    "latent": {},
    "vector": {},
    "coordinates": {"descriptors": ROWS},
    "conditioned": {"n_features": 20},
}


def made(kind, n_places=5, **settings):
    return AngleHypernet(n_places, 24, kind, **KINDS[kind], **settings)


def emitted(hypernet, place=2):
    x = torch.randn(7, 20, generator=torch.Generator().manual_seed(1)) if hypernet.wants_rows else None
    return hypernet(place, x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gate", ["scalar", "core"])
def test_a_zero_gate_emits_exactly_the_start_and_moves_from_the_first_step(kind, gate):
    hypernet = made(kind, gate=gate)
    assert torch.equal(emitted(hypernet), hypernet.start[2].expand_as(emitted(hypernet)))
    optimizer = torch.optim.SGD(hypernet.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        emitted(hypernet).sin().sum().backward()
        moving = [p.grad.abs().max().item() for p in hypernet.parameters()]
        assert max(moving) > 1e-4
        if step:  # once the gate is open, everything moves
            assert min(moving) > 1e-8
        optimizer.step()
        assert not torch.equal(emitted(hypernet), hypernet.start[2].expand_as(emitted(hypernet)))


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_gate_angles_are_off_the_start_at_once_by_the_scale(kind):
    hypernet, half = made(kind, gate="none", scale=1.0), made(kind, gate="none", scale=0.5)
    off = emitted(hypernet) - hypernet.start[2]
    assert off.std() > 0.1
    torch.testing.assert_close(emitted(half) - half.start[2], 0.5 * off, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_places", [1, 5, 48])
@pytest.mark.parametrize("gate", ["scalar", "core", "none"])
def test_the_count_is_exact(kind, n_places, gate):
    settings = {"max_rank": 3, "n_modes": 3, "hidden": 9, "n_latent": 11, "gate": gate, "train_start": n_places == 5}
    hypernet = made(kind, n_places, **settings)
    told = {"n_features": 20} if kind == "conditioned" else {}
    told |= {"n_descriptors": ROWS.shape[1]} if kind == "coordinates" else {}
    wanted = sum(p.numel() for p in hypernet.parameters())
    assert AngleHypernet.count_parameters(n_places, 24, kind, **settings, **told) == wanted


def test_a_shared_train_has_far_fewer_weights_than_angles():
    assert AngleHypernet.count_parameters(224, 60, "vector") < 0.05 * 224 * 60
    assert AngleHypernet.count_parameters(224, 60, "latent") == AngleHypernet.count_parameters(1, 60, "latent")


@pytest.mark.parametrize("kind", ["latent", "vector", "coordinates"])
def test_places_differ_and_all_of_them_are_what_each_one_is(kind):
    hypernet = made(kind, gate="none", start="zeros")
    every = hypernet()
    assert every.shape == (5, 24)
    for place in range(5):
        torch.testing.assert_close(every[place], hypernet(place), atol=1e-6, rtol=0)
    assert all((every[place] - every[0]).abs().max() > 1e-3 for place in range(1, 5))


def test_a_vector_of_full_rank_holds_any_angles():
    """3 places of 4 angles: the train is the whole matrix, so that gradient steps fit any of them."""
    hypernet = AngleHypernet(3, 4, "vector", max_rank=12, gate="none", start="zeros")
    wanted = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(hypernet.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        (hypernet() - wanted).square().sum().backward()
        optimizer.step()
    assert (hypernet() - wanted).abs().max() < 1e-3


def test_conditioned_angles_are_affine_in_the_row_and_differ_between_places():
    hypernet = made("conditioned", gate="none").double()
    x = torch.randn(3, 20, dtype=torch.float64)
    whole = hypernet(2, x[0] + x[1]) + hypernet(2, torch.zeros_like(x[0]))
    torch.testing.assert_close(whole, hypernet(2, x[0]) + hypernet(2, x[1]))
    assert (hypernet(2, x) - hypernet.start[2] - hypernet(3, x) + hypernet.start[3]).abs().max() > 1e-3
    loop = torch.stack([hypernet(2, row) for row in x])
    torch.testing.assert_close(hypernet(2, x), loop)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_rebuild_everything_and_files_need_no_latents(kind):
    torch.manual_seed(0)
    first = made(kind, gate="none", seed=5)
    torch.manual_seed(1)
    assert torch.equal(emitted(made(kind, gate="none", seed=5)), emitted(first))
    other = made(kind, gate="none", seed=6)
    assert not torch.equal(emitted(other), emitted(first))
    assert not any("latent" in name for name in first.state_dict())
    again = made(kind, gate="none", seed=5, start="zeros")
    again.load_state_dict(first.state_dict())  # the start travels with the weights
    assert torch.equal(emitted(again), emitted(first))


def test_latents_are_rebuilt_when_memory_comes_late():
    first = made("latent", gate="none", seed=5)
    with torch.device("meta"):
        late = made("latent", gate="none", seed=5)
    late.to_empty(device="cpu")
    late.load_state_dict(first.state_dict())
    assert torch.equal(emitted(late), emitted(first))


@pytest.mark.parametrize("kind", KINDS)
def test_angles_keep_float32_in_half_precision_models_and_under_autocast(kind):
    hypernet = made(kind, gate="none")
    wanted = emitted(hypernet)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(emitted(hypernet), wanted)
    out = emitted(hypernet.to(torch.bfloat16))
    assert out.dtype == torch.float32
    assert (out - wanted).abs().max() < 0.1  # weights were rounded, sums were not
    assert emitted(made(kind, gate="none").double()).dtype == torch.float64


def test_given_starts_are_kept_and_may_be_trained():
    start = torch.linspace(0, 1, 24)
    hypernet = made("vector", start=start)
    assert torch.equal(hypernet(4), start)
    assert "start" not in dict(hypernet.named_parameters())
    trained = made("vector", start=start, train_start=True)
    trained(1).sum().backward()
    assert torch.equal(trained.start.grad[1], torch.ones(24))
    assert not trained.start.grad[0].any()
    circuit = ry_ring(24)
    assert circuit.n_angles == 24


def test_the_control_has_the_identical_train_and_no_circuit():
    hypernet = made("conditioned", 1, gate="none", scale=1.0, start="zeros")
    control = TrainOnlyClassifier(hypernet, 3)
    x = torch.randn(6, 20)
    torch.testing.assert_close(control(x), control.head(hypernet(x=x)))
    n_train = sum(p.numel() for p in hypernet.parameters())
    assert sum(p.numel() for p in control.parameters()) == n_train + 24 * 3 + 3
    control(x).sum().backward()
    assert all(p.grad is None for p in hypernet.parameters())  # a copy
    with pytest.raises(ValueError, match="'latent'"):
        TrainOnlyClassifier(made("latent"), 3)


def test_what_does_not_fit_is_refused_with_what_does():
    with pytest.raises(ValueError, match=r"kind='mlp'.*'latent'"):
        AngleHypernet(1, 2, "mlp")
    with pytest.raises(ValueError, match=r"gate='both'.*'scalar'"):
        AngleHypernet(1, 2, gate="both")
    with pytest.raises(ValueError, match=r"AngleHypernet\(0, 2\)"):
        AngleHypernet(0, 2)
    with pytest.raises(ValueError, match=r"n_features=3"):
        AngleHypernet(1, 2, "latent", n_features=3)
    with pytest.raises(ValueError, match=r"descriptors"):
        AngleHypernet(1, 2, "coordinates")
    with pytest.raises(ValueError, match=r"\(24, 57\)|one row per angle"):
        AngleHypernet(1, 2, "coordinates", descriptors=ROWS)
    with pytest.raises(ValueError, match=r"start of shape \(3,\)"):
        AngleHypernet(2, 4, start=torch.zeros(3))
    with pytest.raises(ValueError, match=r"place=5.*0 to 4"):
        made("vector")(5)
    with pytest.raises(ValueError, match=r"pass x"):
        made("conditioned")(0)
    with pytest.raises(ValueError, match=r"no x"):
        made("vector")(0, torch.zeros(20))
    with pytest.raises(ValueError, match=r"place=None"):
        made("conditioned")(None, torch.zeros(20))
