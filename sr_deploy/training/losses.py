"""Losses between SR and HR, both (N, C, H, W) about [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.training.recipe import LossWeights


def fourier(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean of |FFT(sr) - FFT(hr)|, the modulus of complex numbers; the FFT is over H and W, not normalized.

    Source: Deng et al., Reparameterized Residual Feature Network for Lightweight Image Super-Resolution, CVPRW 2023.
    """
    difference: Tensor = torch.fft.fft2(sr) - torch.fft.fft2(hr)
    return difference.abs().mean()


class Contrastive(nn.Module):
    """How near SR is to HR, over how far it is from bicubic, between features of a frozen random extractor.

    Source: Kong et al., Residual Local Feature Network for Efficient Super-Resolution, CVPRW 2022.
    """

    def __init__(self, colors: int, seed: int, *, width: int = 64) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.extract = nn.Sequential(
                nn.Conv2d(colors, width, 3, padding=1), nn.Tanh(), nn.Conv2d(width, width, 3, padding=1)
            )
        self.requires_grad_(False)

    def forward(self, sr: Tensor, hr: Tensor, lr: Tensor) -> Tensor:
        features = self.extract(sr)
        with torch.no_grad():
            near, far = self.extract(hr), self.extract(bicubic(lr, (hr.shape[-2], hr.shape[-1])))
        # Nothing is infinitely far from bicubic: on a flat crop all three are the same.
        return F.l1_loss(features, near) / (F.l1_loss(features, far) + 1e-6)


class Loss(nn.Module):
    """The weighted sum of losses; those of weight 0 are not computed. `teacher` takes LR and gives its SR."""

    def __init__(self, weights: LossWeights, colors: int, seed: int, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.weights = weights
        self.contrastive = Contrastive(colors, seed) if weights.contrastive else None
        self.teacher = teacher if weights.teacher else None

    def taught(self, lr: Tensor) -> Tensor | None:
        """The teacher's image, where there is a teacher."""
        if self.teacher is None:
            return None
        with torch.no_grad():
            image: Tensor = self.teacher(lr)
        return image

    def forward(self, sr: Tensor, hr: Tensor, lr: Tensor, taught: Tensor | None) -> Tensor:
        weights, total = self.weights, sr.new_zeros(())
        if weights.l1:
            total = total + weights.l1 * F.l1_loss(sr, hr)
        if weights.mse:
            total = total + weights.mse * F.mse_loss(sr, hr)
        if weights.fourier:
            total = total + weights.fourier * fourier(sr, hr)
        if self.contrastive is not None:
            total = total + weights.contrastive * self.contrastive(sr, hr, lr)
        if taught is not None:
            total = total + weights.teacher * F.l1_loss(sr, taught)
        return total


def bicubic(lr: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic upscaling with Keys' a = -0.5, as imresize does it except on the borders."""
    return F.interpolate(lr, size=size, mode="bicubic", align_corners=False, antialias=True)
