"""Charge stability diagrams: their physics, their noise, and how hard simple classifiers find them."""

import numpy as np
import pytest
import torch

from ketune.vqc.problems import fft_features, logistic_accuracy, quantum_dots
from ketune.vqc.problems.quantum_dots import double_dots, measurement_noise, moments, single_dots


@pytest.fixture(scope="module")
def clean():
    return quantum_dots(600)


@pytest.fixture(scope="module")
def noisy():
    return quantum_dots(600, noisy=True)


def test_rows_are_balanced_images_on_one_scale_of_the_training_rows(clean):
    assert (len(clean.train), len(clean.validation), len(clean.test)) == (420, 60, 120)
    assert clean.train.x.dtype == torch.float32
    for rows in (clean.train, clean.validation, clean.test):
        assert float(rows.y.float().mean()) == 0.5
    assert float(clean.train.x.mean()) == pytest.approx(0, abs=1e-4)
    assert float(clean.train.x.std()) == pytest.approx(1, abs=1e-4)
    assert float(clean.test.x.mean()) != pytest.approx(0, abs=1e-4)


def test_frequencies_tell_the_dots_apart_and_raw_pixels_do_not(clean, noisy):
    # The spec's twin of 2,000 diagrams: 99.3 % and 96.8 % from frequencies, 70 % and 47 % from pixels.
    assert logistic_accuracy(clean, "fft") > 0.95
    assert logistic_accuracy(noisy, "fft") > 0.8
    assert logistic_accuracy(clean, "raw") < 0.8
    assert logistic_accuracy(noisy, "raw") < 0.7
    assert logistic_accuracy(clean, "pca") < 0.8
    assert 0.7 < logistic_accuracy(clean, "moments") < logistic_accuracy(clean, "fft")


def test_a_single_dot_has_one_family_of_straight_lines():
    # Where a line crosses a row, the next row's crossing is shifted by rho pixels, the same everywhere.
    images = single_dots(20, np.random.default_rng(0))
    assert images.shape == (20, 50, 50)
    assert float(images.max()) == 1.0
    assert float(images.min()) >= 0.0
    angles = []
    for image in images:
        spectrum = torch.fft.fft2(image - image.mean()).abs()
        spectrum[0, 0] = 0
        row, column = divmod(int(spectrum.argmax()), 50)
        angles.append((row if row < 25 else row - 50) / ((column if column < 25 else column - 50) or 1e-9))
    # The strongest frequency of all images lies in the quadrant of falling lines, with slopes near 0.6 to 1.6.
    assert 0.3 < float(np.median(angles)) < 2


def test_double_dots_have_two_slopes_and_sit_where_the_exact_occupation_puts_them():
    numbers = np.random.default_rng(4)
    images = double_dots(3, numbers)
    # The same numbers once more, and occupations from all states with up to eight electrons a dot, in float64.
    numbers = np.random.default_rng(4)
    span = numbers.uniform(2, 4, (3, 1, 1))
    a1, a2 = numbers.uniform(0.08, 0.35, (3, 1, 1)), numbers.uniform(0.08, 0.35, (3, 1, 1))
    o1, o2 = numbers.uniform(-0.5, 0.5, (3, 1, 1)), numbers.uniform(-0.5, 0.5, (3, 1, 1))
    e1, e2 = numbers.uniform(0.8, 1.2, (3, 1, 1)), numbers.uniform(0.8, 1.2, (3, 1, 1))
    mutual = numbers.uniform(0.1, 0.45, (3, 1, 1)) * np.minimum(e1, e2)
    b1, b2 = numbers.uniform(0.5, 1.0, (3, 1, 1)), numbers.uniform(0.5, 1.0, (3, 1, 1))
    kt = numbers.uniform(0.01, 0.05, (3, 1, 1))
    sweep = np.linspace(0, 1, 50)
    v1, v2 = span * sweep[None, None, :], span * sweep[None, :, None]
    n1, n2 = v1 + a1 * v2 + o1, v2 + a2 * v1 + o2
    total, first, second = 0.0, 0.0, 0.0
    for k in range(-8, 9):
        for m in range(-8, 9):
            energy = e1 * (k - n1) ** 2 / 2 + e2 * (m - n2) ** 2 / 2 + mutual * (k - n1) * (m - n2)
            weight = np.exp(-energy / kt)
            total, first, second = total + weight, first + k * weight, second + m * weight
    sensor = -(b1 * first + b2 * second) / total
    slopes = abs(np.gradient(sensor, axis=2)) + abs(np.gradient(sensor, axis=1))
    slopes /= slopes.max((1, 2), keepdims=True)
    # Interior pixels: the derivative at the borders is one-sided either way.
    np.testing.assert_allclose(images.numpy(), slopes, atol=5e-3)


def test_noise_has_its_amplitude_and_its_slow_part():
    noise = measurement_noise(200, np.random.default_rng(0))
    assert float(noise.var()) == pytest.approx(0.25**2 + 0.2**2 + 0.2**2 / 4, rel=0.1)
    spectrum = (torch.fft.fft2(noise).abs() ** 2).mean(0)
    assert float(spectrum[1, 1]) > 5 * float(spectrum[20, 20])


def test_noise_is_laid_over_the_same_diagrams(clean, noisy):
    assert torch.equal(clean.test.y, noisy.test.y)
    a, b = clean.test.x - clean.test.x.mean(), noisy.test.x - noisy.test.x.mean()
    assert float((a * b).mean() / (a.std() * b.std())) > 0.3


def test_a_seed_decides_everything():
    assert torch.equal(quantum_dots(20, seed=1).train.x, quantum_dots(20, seed=1).train.x)
    assert not torch.equal(quantum_dots(20, seed=1).train.x, quantum_dots(20, seed=2).train.x)


def test_features_are_what_they_say():
    images = torch.rand(3, 50, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert fft_features(images).shape == (3, 288)
    torch.testing.assert_close(fft_features(images), fft_features(images.roll((7, 11), (1, 2))), atol=1e-9, rtol=0)
    assert moments(torch.tensor([[0.0, 2.0]])).tolist() == [[1.0, 1.0, 0.0]]


def test_too_few_diagrams_and_unknown_features_are_refused(clean):
    with pytest.raises(ValueError, match="n_rows=10"):
        quantum_dots(10)
    with pytest.raises(ValueError, match="features='cnn'"):
        logistic_accuracy(clean, "cnn")
    with pytest.raises(ValueError, match="part='train'"):
        logistic_accuracy(clean, "raw", "train")
