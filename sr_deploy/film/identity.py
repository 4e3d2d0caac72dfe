"""What the result of a video run depends on, as plain values that a journal keeps and compares."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import platform
from dataclasses import asdict
from typing import Any

import cv2

from sr_deploy.errors import VideoError
from sr_deploy.pictures.image import NUMBER
from sr_deploy.upscaling.image_upscaler import ImageUpscaler
from sr_deploy.upscaling.upscaler import Upscaler
from sr_deploy.video.cursor import RemoteFile
from sr_deploy.video.frame import FrameUpscaler, VideoFormat
from sr_deploy.video.input import Input

_HEAD = 1 << 20
_INSTRUCTIONS = {"AVX2": 11, "AVX-512": 256, "AVX-512 VNNI": 260, "NEON": 100}
"""What runtimes choose their kernels by, in OpenCV's numbers: with others, sums are rounded in another order."""


def source_identity(source: Input) -> dict[str, Any]:
    """What tells a source from another: of a file, size, time of change and sha256 of the first and the last MiB.

    Of an address, the ETag or what the server says of the time of change stands for it; a file object has none.
    Of numbered pictures (frame_%06d.png) it is the names, sizes and times of all of them; a pipe has nothing of the kind.

    Raises: VideoError when a file cannot be read.
    """
    if not source.pipe and not source.is_pattern:
        return _file_identity(source)
    path = source.path
    pictures = sorted(path.parent.glob(NUMBER.sub("*", glob.escape(path.name)))) if path else []
    facts = [(picture.name, found.st_size, found.st_mtime_ns) for picture in pictures for found in (picture.stat(),)]
    return {"pictures": len(facts), "sha256 of their facts": hashlib.sha256(json.dumps(facts).encode()).hexdigest()}


def _file_identity(source: Input) -> dict[str, Any]:
    try:
        digest = hashlib.sha256()
        with source.read() as file:
            digest.update(file.read(_HEAD))
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - _HEAD))
            digest.update(file.read(_HEAD))
        version = _version(source)
    except OSError as exc:
        raise VideoError(f"{source.name}: cannot be read ({exc.strerror or exc}); check the path and its permissions") from exc
    changed = {} if version is None else {"changed": version}
    return {"bytes": size, **changed, "sha256 of head and tail": digest.hexdigest()}


def _version(source: Input) -> int | str | None:
    """What another state of a file that was opened would have another of."""
    if isinstance(source.place, RemoteFile):
        return (source.place.facts and source.place.facts.version) or None
    return source.path.stat().st_mtime_ns if source.path else None


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
