"""Upscaled frames that come from a GPU as the codes that an encoder takes; Warp's CPU device stands for the GPU."""

# ruff: noqa: F811  (fixtures of other tests)
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_deploy import Upscaler
from sr_deploy.device.video_planes import PlaneFormat
from sr_deploy.device.ycbcr import Meaning
from sr_deploy.engines import select_backend
from sr_deploy.engines.pixels import HEALTH
from sr_deploy.engines.planes import LEVELS
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.run import upscale_video
from sr_deploy.pictures.size import TargetSize
from sr_deploy.upscaling import upscaler as upscaler_module
from sr_deploy.upscaling.gpu.frames import Schedule
from sr_deploy.video import segment as segment_module
from sr_deploy.video.colors import frame_from_codes, plane_format_of
from sr_deploy.video.frame import ColorTags, VideoFormat
from tests.upscaling.gpu.test_frames import Machine, _warp, exact, machine, photo  # noqa: F401  (fixtures)
from tests.video.clips import Clips, decode, ffmpeg, frame_hashes, pattern, pts_of, video_stream

Array = np.ndarray[Any, np.dtype[Any]]
LOSSLESS = {"codec": "ffv1", "segment_frames": 10}


@pytest.fixture
def pictures_from_rgb(monkeypatch: pytest.MonkeyPatch) -> list[Array]:
    """What reaches the encoder as RGB, but for the black frame before a run."""
    seen: list[Array] = []
    make = segment_module.frame_from_rgb

    def watched(pixels: Array, format: VideoFormat) -> Any:
        if pixels.any():
            seen.append(pixels)
        return make(pixels, format)

    monkeypatch.setattr(segment_module, "frame_from_rgb", watched)
    return seen


def on_the_host(run: Callable[[], Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upscaler_module, "select_backend", lambda *_, **__: select_backend("onnxruntime"))
        return run()


def upscaled(source: Path, target: Path, model: Path, **options: Any) -> Path:
    with Upscaler(model, precision="fp32", schedule=Schedule(slots=1)) as upscaler:
        upscale_video(source, target, upscaler, options=VideoOptions(**LOSSLESS | options))
    return target


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("clip", "pixel_format"), [("cfr", "yuv420p"), ("yuv444", "yuv444p"), ("full_range", "yuv420p")])
def test_films_are_written_as_from_the_host(
    clips: Clips,
    tmp_path: Path,
    exact: Path,
    pictures_from_rgb: list[Array],
    clip: str,
    pixel_format: str,
) -> None:
    expected = on_the_host(lambda: upscaled(clips[clip], tmp_path / "host.mkv", exact))
    pictures_from_rgb.clear()
    result = upscaled(clips[clip], tmp_path / "device.mkv", exact)
    assert not pictures_from_rgb
    assert pts_of(result) == pts_of(expected)
    for key in ("pix_fmt", "color_range", "color_space", "color_transfer", "color_primaries", "width", "height"):
        assert video_stream(result).get(key) == video_stream(expected).get(key)
    difference = np.abs(decode(result, pixel_format).astype(int) - decode(expected, pixel_format))
    assert difference.max() == 0


@pytest.mark.usefixtures("machine")
def test_bits_are_the_same_when_a_run_goes_on(clips: Clips, tmp_path: Path, exact: Path) -> None:
    whole = upscaled(clips["cfr"], tmp_path / "whole.mkv", exact)
    parts = upscaled(clips["cfr"], tmp_path / "parts.mkv", exact, segment_frames=7)
    assert frame_hashes(whole) == frame_hashes(parts)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("options", [{"size": TargetSize.of_factor(1.5)}, {"pixel_format": "gray"}])
def test_what_kernels_do_not_write_comes_as_rgb(
    clips: Clips,
    tmp_path: Path,
    exact: Path,
    pictures_from_rgb: list[Array],
    options: dict[str, Any],
) -> None:
    result = upscaled(clips["cfr"], tmp_path / "a.mkv", exact, **options)
    assert len(pictures_from_rgb) == len(pts_of(result)) == 60


@pytest.mark.usefixtures("machine")
def test_frames_of_more_bits_come_as_rgb(clips: Clips, tmp_path: Path, exact: Path, pictures_from_rgb: list[Array]) -> None:
    upscaled(clips["ten_bit_422"], tmp_path / "deep.mkv", exact)
    assert len(pictures_from_rgb) == 6 and pictures_from_rgb[0].dtype == np.uint16


def test_a_frame_with_an_unhealthy_tile_comes_as_rgb(
    clips: Clips,
    tmp_path: Path,
    exact: Path,
    machine: Machine,
    pictures_from_rgb: list[Array],
) -> None:
    count = 0

    def spoil(_: str, results: dict[str, Array]) -> None:
        nonlocal count
        count += 1
        if count == 3:
            results[LEVELS if LEVELS in results else HEALTH][:] = np.nan

    machine.spoil = spoil
    result = upscaled(clips["cfr"], tmp_path / "spoilt.mkv", exact)
    assert len(pictures_from_rgb) == 1 and len(pts_of(result)) == 60


@pytest.mark.usefixtures("machine")
def test_a_still_picture_is_computed_once(tmp_path: Path, exact: Path, machine: Machine) -> None:
    ffmpeg(*pattern(count=1, extra="loop=loop=7:size=1"), "-c:v", "ffv1", "-pix_fmt", "yuv420p", tmp_path / "still.mkv")
    result = upscaled(tmp_path / "still.mkv", tmp_path / "large.mkv", exact)
    assert len(machine.runs) == 1 and len(set(frame_hashes(result))) == 1 and len(pts_of(result)) == 8


@pytest.mark.usefixtures("machine")
def test_codes_are_the_callers_own(exact: Path) -> None:
    planes = PlaneFormat((128, 96), "yuv420p", Meaning(1, full=False))
    with Upscaler(exact, precision="fp32") as upscale:
        images = [photo(64, 48, seed) for seed in range(4)]
        codes = [upscale._run_to_planes(image, upscale._plan(64, 48), planes) for image in images]
        again = [upscale._run_to_planes(image, upscale._plan(64, 48), planes) for image in images]
        plain = upscale(images[0])
        staying = [upscale._run_to_planes(image, upscale._plan(64, 48), replace(planes, on_device=True)) for image in images]
    assert plain.shape == (128, 96, 3) and not np.array_equal(codes[0], codes[1])
    np.testing.assert_array_equal(codes, again)
    assert not any(isinstance(one, np.ndarray) for one in staying)
    np.testing.assert_array_equal(codes, [one.numpy() for one in staying])


@pytest.mark.parametrize(
    ("size", "pixel_format", "expected"),
    [
        ((1080, 1920), "yuv420p", True),
        ((1080, 1920), "yuv422p10le", True),
        ((1080, 1920), "nv12", False),
        ((1080, 1920), "gray", False),
        ((1080, 1920), "yuv420p16le", False),
        ((1081, 1920), "yuv420p", False),
        ((1081, 1920), "yuv422p", True),
        ((1080, 1921), "yuv422p", False),
        ((1081, 1921), "yuv444p12le", True),
        ((14, 1920), "yuv420p", False),
    ],
)
def test_planes_are_asked_for_where_their_chroma_is_that_of_the_host(
    size: tuple[int, int], pixel_format: str, expected: bool
) -> None:
    depth = 16 if "16" in pixel_format else 12 if "12" in pixel_format else 10 if "10" in pixel_format else 8
    format = VideoFormat(size[1], size[0], pixel_format, depth, Fraction(1, 25), tags=ColorTags(matrix=9, range=2))
    found = plane_format_of(format)
    assert (found is not None) == expected
    if found is not None:
        assert found == PlaneFormat(size, pixel_format, Meaning(9, full=True))
        frame = frame_from_codes(np.arange(found.count).astype(found.dtype), format)
        assert (frame.colorspace, frame.color_range, frame.format.name) == (9, 2, pixel_format)
