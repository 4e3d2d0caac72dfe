# ruff: noqa: F811  (fixtures of other tests)
"""Films encoded by a stand-in of NVENC from the memory of Warp's CPU device, against the way over the host, without loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_deploy import Upscaler
from sr_deploy.engines.pixels import HEALTH
from sr_deploy.engines.planes import LEVELS
from sr_deploy.errors import EngineError, UsageError
from sr_deploy.film.observer import VideoObserver, VideoProgress
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.run import upscale_video
from sr_deploy.pictures.size import TargetSize
from sr_deploy.upscaling.gpu.frames import Schedule
from sr_deploy.video import encoding as encoding_module
from sr_deploy.video import segment, streams
from sr_deploy.video.encoding import Encoding
from sr_deploy.video.frame import VideoFormat
from tests.upscaling.gpu.test_frames import Machine, exact, machine  # noqa: F401  (fixtures)
from tests.video import fake_nvcodec
from tests.video.clips import Clips, decode, frames, video_stream
from tests.video.test_nvcodec import nvdec  # noqa: F401  (fixture)

HOST = {
    "h264_nvenc": ("libx264", (("preset", "ultrafast"), ("qp", "0"))),
    "hevc_nvenc": ("libx265", (("preset", "ultrafast"), ("x265-params", "log-level=none:lossless=1"))),
    "av1_nvenc": ("libsvtav1", (("preset", "12"),)),
}
"""What stands for FFmpeg's NVENC, which needs a GPU."""

TRIED = 2
"""Frames, and sessions, before the first of a run: NVENC is tried, and then the whole run."""


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The codecs of segments that FFmpeg encoded from the host's memory."""
    opened: list[str] = []
    open_encoder, host = encoding_module.open_encoder, segment.HostEncoder

    def stand_in(encoding: Encoding) -> Encoding:
        codec, options = HOST.get(encoding.codec, (encoding.codec, encoding.options))
        return replace(encoding, codec=codec, options=options, pixel_format=encoding.pixel_format.replace("p010", "yuv420p10"))

    def open_stand_in(out: VideoFormat, encoding: Encoding) -> Any:
        return open_encoder(out, stand_in(encoding))

    def host_stand_in(container: Any, out: VideoFormat, encoding: Encoding) -> Any:
        opened.append(encoding.codec)
        return host(container, out, stand_in(encoding))

    monkeypatch.setattr(encoding_module, "open_encoder", open_stand_in)
    monkeypatch.setattr(streams, "open_encoder", open_stand_in)
    monkeypatch.setattr(segment, "HostEncoder", host_stand_in)
    return opened


def upscaled(
    source: Path, target: Path, model: Path, codec: str = "h264_nvenc", **options: Any
) -> tuple[Path, tuple[str, ...]]:
    """The film, and the notes about it."""
    observer, settings = options.pop("observer", None), {"codec": codec, "segment_frames": 10}
    with Upscaler(model, precision="fp32", schedule=Schedule(slots=1)) as upscaler:
        summary = upscale_video(source, target, upscaler, options=VideoOptions(**settings | options), observer=observer)
    return target, tuple(note for note in summary.notes if note.startswith("Encoded by"))


def assert_same_film(result: Path, expected: Path, pixel_format: str) -> None:
    """Bit for bit, at the same times, with the same facts."""
    found, wanted = frames(result), frames(expected)
    assert [(frame.pts, frame.duration) for frame in found] == [(frame.pts, frame.duration) for frame in wanted]
    facts = ("color_range", "color_space", "color_transfer", "color_primaries", "chroma_location", "sample_aspect_ratio")
    for key in (*facts, "width", "height", "time_base", "avg_frame_rate", "r_frame_rate"):
        if key != "color_range" or video_stream(expected).get(key):
            assert video_stream(result).get(key) == video_stream(expected).get(key), key
    assert video_stream(result)["has_b_frames"] == 0 and all(frame.key for frame in found[::10])
    np.testing.assert_array_equal(decode(result, pixel_format), decode(expected, pixel_format))


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("clip", "codec", "pixel_format", "decoder", "machine"),
    [
        ("cfr", "h264_nvenc", "yuv420p", "cpu", "pixels"),
        ("vfr_mp4", "hevc_nvenc", "yuv420p", "nvdec", "planes"),
        ("rotated", "hevc_nvenc", "yuv420p", "nvdec", "planes"),
        ("full_range", "h264_nvenc", "yuv420p", "nvdec", "planes"),
        ("offset", "h264_nvenc", "yuv420p", "cpu", "planes"),
        ("yuv444", "h264_nvenc", "yuv444p", "nvdec", "planes"),
        ("hdr10", "hevc_nvenc", "yuv420p10le", "nvdec", "planes"),
        ("hdr10", "hevc_nvenc", "yuv420p10le", "cpu", "planes"),
    ],
    indirect=["machine"],
)
def test_films_are_those_of_the_host(
    clips: Clips,
    tmp_path: Path,
    exact: Path,
    nvdec: fake_nvcodec.Machine,
    on_host: list[str],
    clip: str,
    codec: str,
    pixel_format: str,
    decoder: str,
) -> None:
    expected, _ = upscaled(clips[clip], tmp_path / "host.mkv", exact, HOST[codec][0], decode=decoder, **lossless(codec))
    assert set(on_host) == {HOST[codec][0]} and not nvdec.sessions
    on_host.clear()
    result, notes = upscaled(clips[clip], tmp_path / "device.mkv", exact, codec, decode=decoder)
    count = len(frames(result))
    assert (notes, on_host) == ((), []) and nvdec.encoded == count + TRIED and len(nvdec.sessions) == -(-count // 10) + TRIED
    assert_same_film(result, expected, pixel_format)


def lossless(codec: str) -> dict[str, Any]:
    options = tuple((key, value) for key, value in HOST[codec][1] if key.endswith("params"))
    return {"encoder_options": options, "preset": "ultrafast", "crf": 0}


class Stop(VideoObserver):
    """Ends a run within its third segment."""

    def written(self, progress: VideoProgress) -> None:
        if progress.frames == 25:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("machine", "on_host")
def test_a_run_goes_on_with_equal_frames(
    clips: Clips, tmp_path: Path, exact: Path, nvdec: fake_nvcodec.Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = upscaled(clips["cfr"], tmp_path / "whole.mkv", exact)
    encoded = nvdec.encoded
    with pytest.raises(KeyboardInterrupt):
        upscaled(clips["cfr"], tmp_path / "parts.mkv", exact, observer=Stop())
    with monkeypatch.context() as patch, pytest.raises(UsageError, match="encoder"):
        patch.setattr(fake_nvcodec.FakeLibrary, "__version__", "2.3.0")
        upscaled(clips["cfr"], tmp_path / "parts.mkv", exact)
    nvdec.encoded = 0
    parts, notes = upscaled(clips["cfr"], tmp_path / "parts.mkv", exact)
    assert not notes and nvdec.encoded == encoded - 20
    assert_same_film(parts, whole, "yuv420p")


@pytest.mark.usefixtures("nvdec")
def test_a_frame_with_an_unhealthy_tile_comes_from_the_host(
    clips: Clips, tmp_path: Path, exact: Path, machine: Machine, on_host: list[str]
) -> None:
    whole, _ = upscaled(clips["yuv444"], tmp_path / "whole.mkv", exact)
    count = 0

    def spoil(_: str, results: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        if count == 3:
            results[LEVELS if LEVELS in results else HEALTH][:] = np.nan

    machine.spoil = spoil
    result, notes = upscaled(clips["yuv444"], tmp_path / "spoilt.mkv", exact)
    assert (notes, on_host) == ((), []) and count > len(frames(result))
    assert_same_film(result, whole, "yuv444p")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"codec": "av1_nvenc"}, "is used for H.264 and HEVC in yuv420p, yuv444p and p010le, not for av1_nvenc"),
        ({"size": TargetSize.of_factor(1.5)}, "its frames are resized"),
        ({"encoder_options": (("tune", "uhq"), ("bf", "2"))}, "has no equal of tune=uhq bf=2"),
        ({"preset": "slow"}, "has no equal of preset=slow"),
        ({"crf": 19.5}, "has no equal of cq=19.5"),
    ],
)
def test_what_nvenc_is_not_given_from_the_gpu_is_told(
    clips: Clips,
    tmp_path: Path,
    exact: Path,
    nvdec: fake_nvcodec.Machine,
    on_host: list[str],
    options: dict[str, Any],
    reason: str,
) -> None:
    codec = {"codec": "hevc_nvenc"} | options
    result, (note,) = upscaled(clips["hdr10"], tmp_path / "a.mkv", exact, **codec)
    assert note.startswith(f"Encoded by FFmpeg's {codec['codec']}, from the host's memory: ") and reason in note
    assert set(on_host) == {codec["codec"]} and not nvdec.encoded and len(frames(result)) == len(frames(clips["hdr10"]))


def refuse(machine: fake_nvcodec.Machine) -> None:
    machine.refuses_to_encode = "Format P010 is not supported by current encoder.\nSupported formats:"


def reorder(machine: fake_nvcodec.Machine) -> None:
    machine.b_frames = 2


def give_nothing(machine: fake_nvcodec.Machine) -> None:
    machine.encodes = lambda _: []


def give_garbage(machine: fake_nvcodec.Machine) -> None:
    machine.encodes = lambda packets: [packet | {"picture_type": 0} for packet in packets]


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (refuse, "NVENC fails (Format P010 is not supported by current encoder.)"),
        (reorder, "NVENC would reorder frames"),
        (give_nothing, "NVENC gave no packets for the last 1 frames"),
        (give_garbage, "NVENC gave a packet out of order after 0 frames"),
    ],
)
def test_an_nvenc_that_does_not_do_one_frame_is_not_used(
    clips: Clips,
    tmp_path: Path,
    exact: Path,
    nvdec: fake_nvcodec.Machine,
    on_host: list[str],
    change: Callable[[fake_nvcodec.Machine], None],
    reason: str,
) -> None:
    change(nvdec)
    result, (note,) = upscaled(clips["hdr10"], tmp_path / "a.mkv", exact, "hevc_nvenc")
    assert reason in note and set(on_host) == {"hevc_nvenc"} and len(frames(result)) == len(frames(clips["hdr10"]))


@pytest.mark.usefixtures("machine", "on_host")
def test_an_nvenc_that_fails_later_ends_the_run_and_finished_segments_are_kept(
    clips: Clips, tmp_path: Path, exact: Path, nvdec: fake_nvcodec.Machine
) -> None:
    whole, _ = upscaled(clips["cfr"], tmp_path / "whole.mkv", exact)
    nvdec.encoded = 0

    def repeat(packets: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return packets * 2 if nvdec.encoded == 15 + TRIED else packets

    nvdec.encodes = repeat
    with pytest.raises(EngineError, match="NVENC gave a packet out of order after 5 frames"):
        upscaled(clips["cfr"], tmp_path / "a.mkv", exact)
    nvdec.encodes, nvdec.encoded = lambda packets: packets, 0
    result, _ = upscaled(clips["cfr"], tmp_path / "a.mkv", exact)
    assert nvdec.encoded == len(frames(result)) - 10 + TRIED
    assert_same_film(result, whole, "yuv420p")
