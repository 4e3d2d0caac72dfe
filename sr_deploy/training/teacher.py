"""A trained network whose images another one learns to make.

Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015; here between images, by L1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from sr_deploy.architectures import Config, load_checkpoint, reference
from sr_deploy.errors import UsageError
from sr_deploy.training.photos import Photo
from sr_deploy.training.validation import ValidationScore, validate


@dataclass(frozen=True)
class Teacher:
    """`network`: (N, C, H, W) in [0, 1] -> (N, C, sH, sW), frozen; `psnr_y`: what it has on the validation photos, in dB."""

    network: nn.Module
    title: str
    psnr_y: float
    sha256: str


def read_teacher(
    path: Path, config: Config, validation: Sequence[Photo], bicubic: ValidationScore, device: torch.device
) -> Teacher:
    """The network of a checkpoint, read as the validation photos say where its weights leave that open.

    Raises: CheckpointError, UnknownArchitectureError for a file that is no network of ours; UsageError for one of another
    scale or number of colors, or one that is no better than bicubic.
    """
    loaded = load_checkpoint(path)
    if loaded.architecture.mask_guided:
        raise UsageError(f"{path}: a mask-guided network teaches nothing; take the plain network that it came from")
    fitting = [
        reading for reading in loaded.readings if (reading.config.scale, reading.config.colors) == (config.scale, config.colors)
    ]
    if not fitting:
        found = loaded.readings[0].config
        raise UsageError(
            f"{path}: a teacher for x{found.scale} with {found.colors} colors; the recipe trains x{config.scale} with "
            f"{config.colors}"
        )
    networks = [reference(loaded.network(reading), reading.value_range).to(device) for reading in fitting]
    scores = [validate(network, validation, device).psnr_y for network in networks]
    best = max(range(len(scores)), key=scores.__getitem__)
    if not scores[best] > bicubic.psnr_y:
        raise UsageError(
            f"{path}: a teacher with {scores[best]:.2f} dB on the validation photos, where bicubic has {bicubic.psnr_y:.2f}; "
            "take another checkpoint"
        )
    return Teacher(networks[best].requires_grad_(False), loaded.architecture.title, scores[best], loaded.checkpoint.sha256)
