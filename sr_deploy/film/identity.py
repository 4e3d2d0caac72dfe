"""What the result of a video run depends on, as plain values that a journal keeps and compares."""

from __future__ import annotations

import glob
import hashlib
import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from sr_deploy.errors import VideoError
from sr_deploy.pictures.image import NUMBER, PIPE, names_stream
from sr_deploy.upscaling.image_upscaler import ImageUpscaler
from sr_deploy.upscaling.upscaler import Upscaler
from sr_deploy.video.frame import FrameUpscaler, VideoFormat

_HEAD = 1 << 20
_INSTRUCTIONS = {"AVX2": 11, "AVX-512": 256, "AVX-512 VNNI": 260, "NEON": 100}
"""What runtimes choose their kernels by, in OpenCV's numbers: with others, sums are rounded in another order."""


def source_identity(path: Path) -> dict[str, Any]:
    """What tells a source from another: of a file, size, time of change and sha256 of the first and the last MiB.

    Of numbered pictures (frame_%06d.png) it is the names, sizes and times of all of them; a pipe has nothing of the kind.

    Raises: VideoError when a file cannot be read.
    """
    if not names_stream(path):
        return _file_identity(path)
    names = NUMBER.sub("*", glob.escape(path.name))
    pictures = sorted(path.parent.glob(names)) if path != PIPE else []
    facts = [(picture.name, found.st_size, found.st_mtime_ns) for picture in pictures for found in (picture.stat(),)]
    return {"pictures": len(facts), "sha256 of their facts": hashlib.sha256(json.dumps(facts).encode()).hexdigest()}


def _file_identity(path: Path) -> dict[str, Any]:
    try:
        found = path.stat()
        digest = hashlib.sha256()
        with path.open("rb") as file:
            digest.update(file.read(_HEAD))
            file.seek(max(0, found.st_size - _HEAD))
            digest.update(file.read(_HEAD))
    except OSError as exc:
        raise VideoError(f"{path}: cannot be read ({exc.strerror or exc}); check the path and its permissions") from exc
    return {"bytes": found.st_size, "changed": found.st_mtime_ns, "sha256 of head and tail": digest.hexdigest()}


def network_identity(upscaler: FrameUpscaler, source: VideoFormat) -> dict[str, Any]:
    """What tells a network, and what it is computed with, from others: as plain values."""
    if not isinstance(upscaler, ImageUpscaler):
        return {"function": type(upscaler).__qualname__, "scale": upscaler.scale}
    bundle = upscaler.bundle
    graphs = {name: graph.sha256 for name, graph in bundle.graphs.items()}
    facts = json.dumps([asdict(bundle.card), graphs], sort_keys=True, default=str)
    features = (name for name, number in _INSTRUCTIONS.items() if cv2.checkHardwareSupport(number))
    runs = " ".join((upscaler.description, "with", platform.machine(), *features))
    identity = {"bundle": hashlib.sha256(facts.encode()).hexdigest(), "runs": runs}
    if bundle.card.tiling == "exact" or not isinstance(upscaler, Upscaler):
        return identity
    tiling = upscaler._plan(source.height, source.width)
    return identity | {"tiles": f"{len(tiling)} of {tiling.window[1]}x{tiling.window[0]}"}
