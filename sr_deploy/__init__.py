"""sr-deploy: from a trained super-resolution checkpoint to pixels in production."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sr_deploy.errors import (
    AmbiguousCheckpointError,
    BackendUnavailableError,
    BundleError,
    CancelledError,
    CertificationError,
    CheckpointError,
    EngineError,
    ExportError,
    FeedError,
    FetchError,
    ImageError,
    MissingDependencyError,
    OutOfMemoryError,
    SrDeployError,
    UnhealthyOutputError,
    UnknownArchitectureError,
    UsageError,
    VideoError,
)

if TYPE_CHECKING:
    from sr_deploy.bundle import Bundle
    from sr_deploy.engines.open import open_bundle
    from sr_deploy.export import export_bundle
    from sr_deploy.film.compute import compute_segment
    from sr_deploy.film.decide import plan_video
    from sr_deploy.film.finish import finish
    from sr_deploy.film.observer import VideoObserver
    from sr_deploy.film.options import VideoOptions
    from sr_deploy.film.plan import VideoPlan
    from sr_deploy.film.run import upscale_video, upscaled_frames
    from sr_deploy.masked.masked_upscaler import MaskedUpscaler
    from sr_deploy.pictures.image import decode_image, encode_image, read_image, write_image
    from sr_deploy.pictures.picture import Metadata, Picture
    from sr_deploy.pictures.size import TargetSize
    from sr_deploy.upscaling.image_file import upscale_image
    from sr_deploy.upscaling.upscaler import Upscaler

__version__ = "0.1.0"

_LAZY = {
    "Bundle": "sr_deploy.bundle",
    "MaskedUpscaler": "sr_deploy.masked.masked_upscaler",
    "Metadata": "sr_deploy.pictures.picture",
    "Picture": "sr_deploy.pictures.picture",
    "TargetSize": "sr_deploy.pictures.size",
    "Upscaler": "sr_deploy.upscaling.upscaler",
    "VideoObserver": "sr_deploy.film.observer",
    "VideoOptions": "sr_deploy.film.options",
    "VideoPlan": "sr_deploy.film.plan",
    "compute_segment": "sr_deploy.film.compute",
    "decode_image": "sr_deploy.pictures.image",
    "encode_image": "sr_deploy.pictures.image",
    "export_bundle": "sr_deploy.export",
    "finish": "sr_deploy.film.finish",
    "open_bundle": "sr_deploy.engines.open",
    "plan_video": "sr_deploy.film.decide",
    "read_image": "sr_deploy.pictures.image",
    "upscale_image": "sr_deploy.upscaling.image_file",
    "upscale_video": "sr_deploy.film.run",
    "upscaled_frames": "sr_deploy.film.run",
    "write_image": "sr_deploy.pictures.image",
}

__all__ = [
    "AmbiguousCheckpointError",
    "BackendUnavailableError",
    "Bundle",
    "BundleError",
    "CancelledError",
    "CertificationError",
    "CheckpointError",
    "EngineError",
    "ExportError",
    "FeedError",
    "FetchError",
    "ImageError",
    "MaskedUpscaler",
    "Metadata",
    "MissingDependencyError",
    "OutOfMemoryError",
    "Picture",
    "SrDeployError",
    "TargetSize",
    "UnhealthyOutputError",
    "UnknownArchitectureError",
    "Upscaler",
    "UsageError",
    "VideoError",
    "VideoObserver",
    "VideoOptions",
    "VideoPlan",
    "__version__",
    "compute_segment",
    "decode_image",
    "encode_image",
    "export_bundle",
    "finish",
    "open_bundle",
    "plan_video",
    "read_image",
    "upscale_image",
    "upscale_video",
    "upscaled_frames",
    "write_image",
]


def __getattr__(name: str) -> Any:
    """Load what needs an inference runtime or torch only when it is asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'sr_deploy' has no attribute '{name}'")
    import importlib

    try:
        return getattr(importlib.import_module(_LAZY[name]), name)
    except ImportError as exc:
        if name != "export_bundle" or exc.name is None or not exc.name.startswith(("torch", "onnxscript", "safetensors")):
            raise
        return _unavailable(exc.name)


def _unavailable(package: str) -> Any:
    """In place of `export_bundle` where that package is missing: `from sr_deploy import *` works, a call says what to do."""

    def export_bundle(*_: object, **__: object) -> None:
        raise MissingDependencyError(f'export needs {package}; install it with `pip install "sr-deploy[export]"`')

    return export_bundle


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
