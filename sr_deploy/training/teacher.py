"""A trained network whose images another one learns to make.

Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015; here between images, by L1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sr_deploy.architectures import Config, load_checkpoint, reference
from sr_deploy.bundle import Bundle, sha256_of
from sr_deploy.engines import open_engine
from sr_deploy.engines.engine import Engine
from sr_deploy.engines.open import open_bundle
from sr_deploy.errors import UsageError
from sr_deploy.models.recipe import recipe_of
from sr_deploy.training.photos import Photo
from sr_deploy.training.validation import ValidationScore, validate

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Teacher:
    """`network`: (N, C, H, W) in [0, 1] -> (N, C, sH, sW), frozen; `title` and `license` of its weights; `psnr_y`: what it has
    on the validation photos, in dB; `file` with `sha256`: what it was read from."""

    network: nn.Module
    title: str
    license: str
    psnr_y: float
    file: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.title} ({self.license})"

    @property
    def facts(self) -> dict[str, object]:
        """What a network that it taught has to say of it."""
        return {name: value for name, value in vars(self).items() if name != "network"}


class _BundleNetwork(nn.Module):
    """The fp32 graph of a bundle as a module; it has nothing to learn."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def forward(self, lr: Tensor) -> Tensor:
        results = self._engine.run({self._engine.inputs[0].name: lr.cpu().contiguous().numpy()})
        return torch.from_numpy(results[self._engine.outputs[0].name]).to(lr.device)


def read_teacher(
    path: Path,
    config: Config,
    validation: Sequence[Photo],
    bicubic: ValidationScore,
    device: torch.device,
    *,
    license_name: str = "",
) -> Teacher:
    """The network of a bundle or of a checkpoint, which is read as the validation photos say where its weights leave that open.

    license_name: of its weights, in place of what its card or a recipe of the published checkpoint says.

    Raises: CheckpointError, UnknownArchitectureError, BundleError for what is no network; UsageError for one of another scale
    or number of colors, or one that is no better than bicubic.
    """
    if path.is_dir() or path.suffix.lower() == ".onnx":
        networks, title, known, digest = _of_bundle(path, config)
    else:
        networks, title, known, digest = _of_checkpoint(path, config)
    scores = [validate(network.to(device), validation, device).psnr_y for network in networks]
    best = max(range(len(scores)), key=scores.__getitem__)
    if not scores[best] > bicubic.psnr_y:
        raise UsageError(
            f"{path}: a teacher with {scores[best]:.2f} dB on the validation photos, where bicubic has {bicubic.psnr_y:.2f}; "
            "take another one"
        )
    frozen = networks[best].requires_grad_(False)
    return Teacher(frozen, title, license_name or known or UNKNOWN, scores[best], path.name, digest)


_Found = tuple[list[nn.Module], str, str, str]
"""Networks that may be meant, a title, a license or nothing, a sha256."""


def _of_checkpoint(path: Path, config: Config) -> _Found:
    loaded = load_checkpoint(path)
    if loaded.architecture.mask_guided:
        raise UsageError(f"{path}: a mask-guided network teaches nothing; take the plain network that it came from")
    sizes = [(reading.config.scale, reading.config.colors) for reading in loaded.readings]
    _check_fit(path, sizes, config)
    fitting = [reading for reading, size in zip(loaded.readings, sizes, strict=True) if size == (config.scale, config.colors)]
    published = recipe_of(path)
    networks: list[nn.Module] = [reference(loaded.network(reading), reading.value_range) for reading in fitting]
    return networks, loaded.architecture.title, published.license if published else "", loaded.checkpoint.sha256


def _of_bundle(path: Path, config: Config) -> _Found:
    bundle: Bundle = open_bundle(path)
    card = bundle.card
    if card.masked is not None:
        raise UsageError(f"{path}: a mask-guided network teaches nothing; take the plain network that it came from")
    _check_fit(path, [(card.scale, card.channels)], config)
    graph = bundle.graph("fp32")
    engine = open_engine(graph, threads=torch.get_num_threads())
    return [_BundleNetwork(engine)], card.name, card.source.license if card.source else "", sha256_of(graph)


def _check_fit(path: Path, sizes: Sequence[tuple[int, int]], config: Config) -> None:
    if (config.scale, config.colors) not in sizes:
        scale, colors = sizes[0]
        raise UsageError(
            f"{path}: a teacher for x{scale} with {colors} colors; the recipe trains x{config.scale} with {config.colors}"
        )
