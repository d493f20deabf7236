"""Figures: what their lines show, that colours and labels can be told apart, that text does not overlap."""

from __future__ import annotations

import itertools
import re

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.comparison.result_builder import CELLS, build_result

from ketune.comparison.arms import Comparison, group
from ketune.comparison.figure_labels import spread
from ketune.comparison.figure_style import colour, dashes, marker, to_svg
from ketune.comparison.figures_capacity import (
    circuit_figure,
    mean_spectrum,
    mean_weight_spectrum,
    spectrum_figure,
    weight_spectrum_figure,
)
from ketune.comparison.figures_convergence import loss_figure, mean_curve, smooth
from ketune.comparison.figures_efficiency import (
    bar_figure,
    difference_figure,
    learning_rate_figure,
    quality_figure,
    size_figure,
)


@pytest.fixture(scope="module")
def arms():
    results = [build_result(method, control, seed) for method, control in CELLS for seed in range(3)]
    return group(results, ("full", "lora", "prefix", "sora", "qaa"))


def texts(figure) -> list:
    """The names written into the plot of a figure, drawn."""
    figure.draw_without_rendering()
    (axes,) = figure.axes
    return [text for text in axes.texts if text.get_text().strip()]


def overlap(a, b) -> float:
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return width * height if width > 0 and height > 0 else 0.0


@pytest.mark.parametrize("draw", [lambda arms: loss_figure(arms, "step"), quality_figure, spectrum_figure])
def test_names_do_not_overlap(arms, draw):
    written = texts(draw(arms))
    assert {arm.label for arm in arms} <= {text.get_text() for text in written}
    boxes = [text.get_window_extent() for text in written]
    for a, b in itertools.combinations(boxes, 2):
        assert overlap(a, b) < 0.12 * min(a.width * a.height, b.width * b.height)


def test_each_method_has_its_colour_in_every_comparison(arms):
    alone = group([build_result("qaa", "trained")])
    with_all = next(arm for arm in arms if arm.label == "QAA")
    assert colour(alone[0]) == colour(with_all)
    methods = [arm for arm in arms if not arm.is_control]
    assert len({colour(arm) for arm in methods}) == len({marker(arm) for arm in methods}) == 5


def test_controls_share_the_colour_and_differ_in_dashes(arms):
    family = [arm for arm in arms if arm.method == "qaa"]
    assert len({colour(arm) for arm in family}) == 1
    assert len({str(dashes(arm)) for arm in family}) == 4


def test_colours_of_the_methods_differ_for_colour_blind_readers(arms):
    # Viénot, Brettel and Mollon (1999): linear-light RGB as protanopes and deuteranopes see it.
    deficiencies = {
        "none": numpy.eye(3),
        "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }
    hexes = [colour(arm) for arm in arms if not arm.is_control]
    rgb = numpy.array([[int(h[i : i + 2], 16) / 255 for i in (1, 3, 5)] for h in hexes])
    linear = numpy.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = numpy.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    for name, matrix in deficiencies.items():
        xyz = numpy.clip(linear @ numpy.array(matrix).T, 0, 1) @ to_xyz.T / [0.9505, 1, 1.089]
        f = numpy.cbrt(xyz)
        lab = numpy.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
        for i, j in itertools.combinations(range(len(hexes)), 2):
            assert numpy.linalg.norm(lab[i] - lab[j]) > 12, (name, hexes[i], hexes[j])


def test_the_mean_curve_is_numpys_interpolation_averaged(arms):
    lora = next(arm for arm in arms if arm.method == "lora")
    curve = mean_curve(lora, "seconds")
    assert curve is not None
    x, mean, low, high = curve
    seeds = []
    for result in lora.results:
        history = result.ketune.history
        seeds.append(numpy.interp(x, [e["seconds"] for e in history], smooth([e["loss"] for e in history])))
    numpy.testing.assert_allclose(mean, numpy.mean(seeds, axis=0), rtol=1e-12)
    numpy.testing.assert_allclose(low, numpy.min(seeds, axis=0), rtol=1e-12)
    numpy.testing.assert_allclose(high, numpy.max(seeds, axis=0), rtol=1e-12)


def test_a_curve_ends_where_the_first_seed_ends():
    short, long = build_result("lora", seed=0, n_steps=20), build_result("lora", seed=1, n_steps=50)
    (arm,) = group([short, long])
    curve = mean_curve(arm, "step")
    assert curve is not None
    assert curve[0][-1] == 20


def test_a_loss_that_is_not_a_number_is_left_out_of_the_curve():
    result = build_result("lora", n_steps=30)
    result.ketune.history[4]["loss"] = None
    result.ketune.history[5]["loss"] = float("nan")
    (arm,) = group([result])
    curve = mean_curve(arm, "step")
    assert curve is not None
    assert numpy.isfinite(curve[1]).all()


def test_smoothing_leaves_a_straight_line_straight():
    line = [3.0 - 0.1 * i for i in range(100)]
    assert smooth(line) == pytest.approx(line)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_spread_names_keep_their_order_and_their_distance(heights):
    placed = spread(heights, 0.07)
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    for lower, upper in itertools.pairwise(order):
        assert placed[upper] - placed[lower] >= 0.07 - 1e-9
    assert sum(placed) == pytest.approx(sum(heights))


def test_names_that_are_far_apart_stay_where_they_are():
    assert spread([0.1, 0.9, 0.5], 0.07) == pytest.approx([0.1, 0.9, 0.5])


def test_the_pareto_line_runs_through_what_nothing_beats(arms):
    figure = quality_figure([arm for arm in arms if not arm.is_control])
    assert figure is not None
    (axes,) = figure.axes
    (line,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert list(line.get_xdata()) == [20_480, 1_313_280]


def test_a_base_far_above_is_mentioned_and_a_near_one_is_drawn(arms):
    far, near = quality_figure(arms, 3.2), quality_figure(arms, 1.75)
    assert any("base, above: 3.200" in text.get_text() for text in texts(far))
    assert any(text.get_text() == "base 1.750" for text in texts(near))


def test_bars_have_the_length_of_the_mean_and_show_what_was_there_before(arms):
    figure = bar_figure(arms, "peak_bytes", "MiB", 2.0**-20, floor="baseline_bytes")
    assert figure is not None
    (axes,) = figure.axes
    ends = sorted(round(patch.get_x() + patch.get_width()) for patch in axes.patches)
    assert ends == sorted([420] * 8 + [930, 640, 610, 645, 655, 650, 650, 640])


def test_differences_are_drawn_at_their_means(arms):
    comparison = Comparison(folder=None, arms=arms)  # pyright: ignore[reportArgumentType]
    tests = comparison.tests_against_reference()
    figure = difference_figure(tests, arms, "LoRA")
    assert figure is not None
    drawn = {float(line.get_xdata()[0]) for line in figure.axes[0].lines if len(line.get_xdata()) == 1}
    assert drawn == {test.difference.mean for test in tests.values() if test.difference}


def test_whiskers_of_bars_reach_from_the_lowest_to_the_highest_seed():
    results = [
        build_result("lora", seed=seed, speed={"step_seconds_median": x}) for seed, x in enumerate((0.2, 0.5, 0.3))
    ]
    figure = bar_figure(group(results), "step_seconds", "ms", 1e3)
    assert figure is not None
    (axes,) = figure.axes
    assert list(axes.lines[0].get_xdata()) == pytest.approx([200, 500])
    assert [text.get_text() for text in axes.texts] == ["333"]


def test_the_weight_spectrum_counts_matrices_that_end_early_as_zero_there():
    result = build_result("lora")
    assert result.ketune.capacity is not None
    result.ketune.capacity["weights"] = {
        "q": {"singular_values": [2.0, 1.0]},
        "v": {"singular_values": [4.0, 4.0, 2.0]},
    }
    (arm,) = group([result])
    assert mean_weight_spectrum(arm) == pytest.approx([1.0, 0.75, 0.25])
    assert weight_spectrum_figure([arm]) is not None


def test_the_mean_spectrum_is_geometric_over_seeds():
    first, second = build_result("lora", seed=0), build_result("lora", seed=1)
    for result, values in ((first, [2.0, 1.0, 1e-4]), (second, [8.0, 1.0, 1.0])):
        assert result.ketune.capacity is not None
        result.ketune.capacity["hidden"]["singular_values"] = values
    (arm,) = group([first, second])
    assert mean_spectrum(arm) == pytest.approx([1.0, (0.5 * 0.125) ** 0.5])


def test_the_ring_of_random_states_stands_at_their_mean_entanglement(arms):
    rng = numpy.random.default_rng(0)
    n, found = 7, []
    for _ in range(200):
        state = rng.normal(size=2**n) + 1j * rng.normal(size=2**n)
        state = (state / numpy.linalg.norm(state)).reshape([2] * n)
        purities = []
        for wire in range(n):
            matrix = numpy.moveaxis(state, wire, 0).reshape(2, -1)
            rho = matrix @ matrix.conj().T
            purities.append(numpy.trace(rho @ rho).real)
        found.append(2 * (1 - numpy.mean(purities)))  # Meyer-Wallach, in the form of Brennen (2003)
    figure = circuit_figure(arms)
    assert figure is not None
    ring = next(line for line in figure.axes[0].lines if line.get_xdata()[0] == 0)
    assert ring.get_ydata()[0] == pytest.approx(numpy.mean(found), abs=2e-3)


def test_a_figure_without_data_is_no_figure():
    (arm,) = group([build_result("lora", history=[], capacity=None, lr_trials=None, memory={}, test={}, circuit=None)])
    arm.results[0].train_info.accelerator_memory_max = None
    assert loss_figure([arm], "step") is None
    assert quality_figure([arm]) is None
    assert bar_figure([arm], "peak_bytes", "MiB", 1.0) is None
    assert spectrum_figure([arm]) is None
    assert circuit_figure([arm]) is None
    assert learning_rate_figure([arm]) is None
    assert difference_figure({}, [arm], "LoRA") is None


def test_svg_takes_its_ink_from_the_page(arms):
    svg = to_svg(quality_figure(arms))
    assert svg.startswith("<svg ")
    assert "currentColor" in svg
    assert "#22262b" not in svg
    assert "var(--grid)" in svg
    assert not re.search(r"(?:href|src)=\"http", svg)


def test_quality_against_size_is_drawn_where_some_model_was_quantised():
    sizes = {None: 5_000_000, "roste:w4a4kv4": 1_200_000, "ste:w2a16": 900_000}
    results = [
        build_result("lora", seed=seed, quantization=way, experiment=way or "r4", size={"model_bytes": size})
        for way, size in sizes.items()
        for seed in range(3)
    ]
    assert size_figure(group(results[:3])) is None
    figure = size_figure(group(results), 1.75)
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts == ["LoRA", "LoRA, roste w4a4kv4", "LoRA, ste w2a16"]
    assert figure.axes[0].get_xlabel() == "size of the model (MiB)"
