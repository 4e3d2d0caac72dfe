"""Losses against numpy and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sr_deploy.bicubic import imresize
from sr_deploy.training.losses import Contrastive, Loss, bicubic, fourier
from sr_deploy.training.recipe import LossWeights

ALL = LossWeights(l1=1.0, mse=1.0, fourier=0.05, contrastive=0.1)


def images(noise: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(noise.random(shape))


def test_fourier_is_what_numpy_says(noise: np.random.Generator) -> None:
    sr, hr = images(noise, 2, 3, 9, 14), images(noise, 2, 3, 9, 14)
    expected = np.abs(np.fft.fft2(sr.numpy(), axes=(-2, -1)) - np.fft.fft2(hr.numpy(), axes=(-2, -1))).mean()
    assert fourier(sr, hr).item() == pytest.approx(expected, rel=1e-12)


def test_contrastive_is_what_numpy_says(noise: np.random.Generator) -> None:
    """The extractor is written out as sums over shifted images."""
    loss = Contrastive(3, seed=4, width=5).double()
    sr, hr, lr = images(noise, 1, 3, 8, 6), images(noise, 1, 3, 8, 6), images(noise, 1, 3, 4, 3)

    def conv(x: np.ndarray, layer: torch.nn.Module) -> np.ndarray:
        weight, bias = (tensor.numpy() for tensor in layer.parameters())
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        return np.einsum("ihwab,oiab->ohw", windows, weight) + bias[:, None, None]

    def features(x: torch.Tensor) -> np.ndarray:
        return conv(np.tanh(conv(x[0].numpy(), loss.extract[0])), loss.extract[2])

    large = bicubic(lr, (8, 6))
    near, far = (np.abs(features(sr) - features(x)).mean() for x in (hr, large))
    assert loss(sr, hr, lr).item() == pytest.approx(near / (far + 1e-6), rel=1e-9)


def test_contrastive_is_frozen_and_of_the_seed() -> None:
    before = torch.random.get_rng_state()
    first, again, other = Contrastive(3, 1), Contrastive(3, 1), Contrastive(3, 2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.extract[0].weight, again.extract[0].weight)
    assert not torch.equal(first.extract[0].weight, other.extract[0].weight)
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_bicubic_is_imresize_inside(noise: np.random.Generator) -> None:
    lr = images(noise, 1, 1, 16, 12)
    expected = imresize(lr[0, 0].numpy(), 48, 36)
    np.testing.assert_allclose(bicubic(lr, (48, 36))[0, 0, 8:-8, 8:-8], expected[8:-8, 8:-8], atol=1e-6)


def test_weights_add_up(noise: np.random.Generator) -> None:
    sr, hr, taught = (images(noise, 1, 3, 8, 8) for _ in range(3))
    lr = images(noise, 1, 3, 4, 4)

    def value(**weights: float) -> float:
        return float(Loss(LossWeights(**weights), 3, 1).double()(sr, hr, lr, taught))

    parts = 2 * value(l1=1) + 3 * value(mse=1) + 0.5 * value(fourier=1) + 0.25 * value(contrastive=1) + 5 * value(teacher=1)
    assert value(l1=2, mse=3, fourier=0.5, contrastive=0.25, teacher=5) == pytest.approx(parts)
    assert value(l1=1) == pytest.approx(np.abs(sr.numpy() - hr.numpy()).mean())
    assert value(teacher=1) == pytest.approx(np.abs(sr.numpy() - taught.numpy()).mean())
    assert value(mse=1) == pytest.approx(((sr - hr) ** 2).mean().item())


def test_a_teacher_learns_nothing(noise: np.random.Generator) -> None:
    teacher, lr = torch.nn.Upsample(scale_factor=2), images(noise, 1, 3, 4, 4).requires_grad_()
    taught = Loss(LossWeights(teacher=1.0), 3, 1, teacher).taught(lr)
    assert taught is not None and not taught.requires_grad
    assert torch.equal(taught, teacher(lr))
    assert Loss(LossWeights(l1=1.0), 3, 1, teacher).taught(lr) is None


@pytest.mark.parametrize("kind", ["random", "perfect", "flat"])
def test_gradients_are_finite(noise: np.random.Generator, kind: str) -> None:
    hr = images(noise, 2, 3, 8, 8).float()
    lr = images(noise, 2, 3, 4, 4).float()
    if kind == "flat":
        hr, lr = torch.full_like(hr, 0.5), torch.full_like(lr, 0.5)
    sr = (images(noise, 2, 3, 8, 8).float() if kind == "random" else hr.clone()).requires_grad_()
    loss = Loss(ALL, 3, 1)(sr, hr, lr, None)
    loss.backward()
    assert sr.grad is not None and bool(torch.isfinite(sr.grad).all()) and math.isfinite(loss.item())


def test_gradients_are_those_of_the_function(noise: np.random.Generator) -> None:
    hr, lr = images(noise, 1, 1, 4, 6), images(noise, 1, 1, 2, 3)
    contrastive = Contrastive(1, 1, width=4).double()
    for loss in (fourier, lambda sr, hr: contrastive(sr, hr, lr)):
        assert torch.autograd.gradcheck(lambda sr, loss=loss: loss(sr, hr), images(noise, 1, 1, 4, 6).requires_grad_())
