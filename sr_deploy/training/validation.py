"""What a network does on photos that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sr_deploy.arrays import Array
from sr_deploy.bicubic import imresize
from sr_deploy.metrics import psnr_y, ssim_y
from sr_deploy.training.photos import Photo


@dataclass(frozen=True)
class ValidationScore:
    """Means over photos of PSNR-Y in dB and SSIM-Y."""

    psnr_y: float
    ssim_y: float


def validate(upscale: Callable[[Tensor], Tensor], photos: Sequence[Photo], device: torch.device) -> ValidationScore:
    """Score of the 8-bit output of `upscale`, which takes and gives [0, 1]; a border of `scale` pixels is shaved."""
    scores = [_score(photo, _upscaled(upscale, photo.lr, device)) for photo in photos]
    return _mean(scores)


def validate_bicubic(photos: Sequence[Photo]) -> ValidationScore:
    """Score of bicubic upscaling: what a network has to beat."""
    return _mean([_score(photo, imresize(photo.lr, *photo.hr.shape[:2])) for photo in photos])


def as_tensor(images: Array, device: torch.device) -> Tensor:
    """(N, H, W, C) uint8 -> (N, C, H, W) float32 in [0, 1], in memory as it was."""
    return torch.from_numpy(images).to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)


def _upscaled(upscale: Callable[[Tensor], Tensor], lr: Array, device: torch.device) -> Array:
    with torch.inference_mode():
        output = upscale(as_tensor(lr[None], device))[0].permute(1, 2, 0).cpu().numpy()
    return np.asarray(np.clip(np.round(np.nan_to_num(output) * 255), 0, 255), np.uint8)


def _score(photo: Photo, image: Array) -> ValidationScore:
    border = photo.hr.shape[0] // photo.lr.shape[0]
    hr, sr = (pixels[..., 0] if pixels.shape[2] == 1 else pixels for pixels in (photo.hr, image))
    return ValidationScore(psnr_y(hr, sr, border=border), ssim_y(hr, sr, border=border))


def _mean(scores: Sequence[ValidationScore]) -> ValidationScore:
    return ValidationScore(
        float(np.mean([score.psnr_y for score in scores])), float(np.mean([score.ssim_y for score in scores]))
    )
