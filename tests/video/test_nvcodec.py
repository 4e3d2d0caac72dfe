# ruff: noqa: F811  (fixtures of other tests)
"""Films decoded by a stand-in of NVDEC and upscaled on Warp's CPU device, against the way over the host."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_deploy import Upscaler
from sr_deploy.errors import BackendUnavailableError, UsageError
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.run import upscale_video
from sr_deploy.pictures.size import TargetSize
from sr_deploy.upscaling.gpu.frames import Schedule
from sr_deploy.video import nvcodec
from sr_deploy.video.frame import VideoFormat
from tests import short_and_long
from tests.upscaling.gpu.test_frames import Machine, _warp, exact, machine  # noqa: F401  (fixtures)
from tests.video import fake_nvcodec
from tests.video.clips import Clips, decode, frames, video_stream
from tests.video.fake_nvcodec import DecodedFrame, FakeLibrary

LOSSLESS = {"codec": "ffv1", "segment_frames": 10}
CLIPS = {
    "cfr": "yuv420p",
    "cfr_ts": "yuv420p",
    "vfr": "yuv420p",
    "vfr_mp4": "yuv420p",
    "hdr10": "yuv420p10le",
    "yuv444": "yuv444p",
    "rotated": "yuv420p",
    "offset": "yuv420p",
    "edit_list": "yuv420p",
    "full_range": "yuv420p",
}


@pytest.fixture
def nvdec(monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_nvcodec.Machine]:
    made = fake_nvcodec.Machine()
    monkeypatch.setitem(sys.modules, "PyNvVideoCodec", FakeLibrary(made))
    nvcodec.load_library.cache_clear()
    yield made
    nvcodec.load_library.cache_clear()


def upscaled(source: Path, target: Path, model: Path, **options: Any) -> tuple[Path, tuple[str, ...]]:
    """The film, and the notes about it."""
    with Upscaler(model, precision="fp32", schedule=Schedule(slots=1)) as upscaler:
        summary = upscale_video(source, target, upscaler, options=VideoOptions(**LOSSLESS | options))
    return target, summary.notes


def assert_same_film(result: Path, expected: Path, pixel_format: str) -> None:
    found, wanted = frames(result), frames(expected)
    assert [(frame.pts, frame.duration) for frame in found] == [(frame.pts, frame.duration) for frame in wanted]
    for key in ("pix_fmt", "color_range", "color_space", "color_transfer", "width", "height", "time_base"):
        assert video_stream(result).get(key) == video_stream(expected).get(key)
    difference = np.abs(decode(result, pixel_format).astype(int) - decode(expected, pixel_format))
    assert (difference > 1).mean() < 2e-3


FILMS = [*((clip, "planes") for clip in CLIPS), ("hdr10", "pixels")]


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("clip", "machine"), short_and_long(FILMS, FILMS[:4]), indirect=["machine"])
def test_films_are_those_of_the_host(clips: Clips, tmp_path: Path, exact: Path, nvdec: fake_nvcodec.Machine, clip: str) -> None:
    expected, _ = upscaled(clips[clip], tmp_path / "cpu.mkv", exact, decode="cpu")
    assert not nvdec.opened
    result, notes = upscaled(clips[clip], tmp_path / "gpu.mkv", exact)
    assert nvdec.frames >= len(frames(result)) and not [note for note in notes if "ecoded on the CPU" in note]
    assert_same_film(result, expected, CLIPS[clip])


@pytest.mark.usefixtures("machine")
def test_a_part_of_a_film_is_decoded_from_a_keyframe_before_it(
    clips: Clips, tmp_path: Path, exact: Path, nvdec: fake_nvcodec.Machine
) -> None:
    part = {"start": Fraction(3, 2), "until": Fraction(9, 5)}
    expected, _ = upscaled(clips["cfr"], tmp_path / "cpu.mkv", exact, decode="cpu", **part)
    result, notes = upscaled(clips["cfr"], tmp_path / "gpu.mkv", exact, **part)
    assert nvdec.frames < 60 and not [note for note in notes if "ecoded on the CPU" in note]
    assert_same_film(result, expected, "yuv420p")


def fail(call: int, decoded: list[DecodedFrame]) -> list[DecodedFrame]:
    if call == 30:
        raise RuntimeError("NVDEC: error 4\nand a trace")
    return decoded


def lose(call: int, decoded: list[DecodedFrame]) -> list[DecodedFrame]:
    return [] if call == 30 else decoded


def lose_the_last(_: int, decoded: list[DecodedFrame]) -> list[DecodedFrame]:
    return decoded[:-1] if len(decoded) > 1 else decoded


def repeat(call: int, decoded: list[DecodedFrame]) -> list[DecodedFrame]:
    return decoded * 2 if call == 30 else decoded


def turn(call: int, decoded: list[DecodedFrame]) -> list[DecodedFrame]:
    for frame in decoded if call == 30 else []:
        frame.framesize = lambda: 7  # type: ignore[method-assign]
    return decoded


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("machine", ["planes"], indirect=True)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (fail, "it fails (NVDEC: error 4)"),
        (lose, "frames are missing or out of order"),
        (lose_the_last, "frames are missing at the end"),
        (repeat, "a frame belongs to no packet"),
        (turn, "a frame is NV12 of 7 bytes, not NV12 of 9216"),
    ],
)
def test_the_host_goes_on_where_nvdec_is_not_right(
    clips: Clips, tmp_path: Path, exact: Path, nvdec: fake_nvcodec.Machine, change: Any, reason: str
) -> None:
    expected, _ = upscaled(clips["cfr"], tmp_path / "cpu.mkv", exact, decode="cpu")
    nvdec.change = change
    result, notes = upscaled(clips["cfr"], tmp_path / "gpu.mkv", exact)
    (note,) = [note for note in notes if "NVDEC" in note]
    assert reason in note and note.endswith("The rest was decoded on the CPU.") and "was given up at 0:00:0" in note
    assert len(nvdec.opened) == 1
    assert_same_film(result, expected, "yuv420p")


@pytest.mark.usefixtures("machine")
def test_a_decoder_that_cannot_be_opened_is_told(
    clips: Clips, tmp_path: Path, exact: Path, nvdec: fake_nvcodec.Machine
) -> None:
    nvdec.refuses = "no memory"
    result, notes = upscaled(clips["cfr"], tmp_path / "gpu.mkv", exact)
    assert [note for note in notes if "given up at the beginning: NVDEC cannot be opened (no memory)" in note]
    assert len(frames(result)) == 60


def assert_refused(clip: Path, folder: Path, model: Path, reason: str, **options: Any) -> None:
    """By default a note says so, and on demand it is an error."""
    result, notes = upscaled(clip, folder / "auto.mkv", model, **options)
    (note,) = [note for note in notes if note.startswith("Decoded on the CPU: ")]
    assert reason in note and frames(result)
    with pytest.raises(BackendUnavailableError, match="NVDEC cannot decode it") as caught:
        upscaled(clip, folder / "nvdec.mkv", model, decode="nvdec", **options)
    assert reason in str(caught.value)


@pytest.mark.usefixtures("machine", "nvdec")
@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        ("interlaced", "it is deinterlaced"),
        ("ten_bit_422", "NVDEC is used for h264, hevc, av1, vp9, not for ffv1"),
        ("gif", "not for gif"),
    ],
)
def test_what_nvdec_is_not_used_for_is_told(clips: Clips, tmp_path: Path, exact: Path, clip: str, reason: str) -> None:
    assert_refused(clips[clip], tmp_path, exact, reason)


@pytest.mark.parametrize(
    ("size", "pixel_format", "reason"),
    [
        ((63, 96), "yuv420p", "96x63 has odd or very short sides"),
        ((64, 97), "yuv420p10le", "97x64 has odd or very short sides"),
        ((63, 97), "yuv444p", ""),
        ((64, 96), "yuva420p", "not for yuva420p"),
        ((64, 96), "yuv422p", "not for yuv422p"),
        ((64, 96), "yuv420p", ""),
    ],
)
def test_forms_that_nvdec_is_not_used_for_are_told(size: tuple[int, int], pixel_format: str, reason: str) -> None:
    format = VideoFormat(size[1], size[0], pixel_format, 8, Fraction(1, 25))
    assert nvcodec.refusal("h264", format).endswith(reason) and bool(nvcodec.refusal("h264", format)) == bool(reason)


@pytest.mark.usefixtures("machine", "nvdec")
def test_resized_films_are_decoded_on_the_host(clips: Clips, tmp_path: Path, exact: Path) -> None:
    assert_refused(clips["cfr"], tmp_path, exact, "its frames are resized", size=TargetSize.of_factor(1.5))


@pytest.mark.usefixtures("machine")
def test_a_gpu_without_nvdec_is_told(clips: Clips, tmp_path: Path, exact: Path, nvdec: fake_nvcodec.Machine) -> None:
    nvdec.engines = 0
    assert_refused(clips["cfr"], tmp_path, exact, "this GPU has no NVDEC for h264 yuv420p")


@pytest.mark.usefixtures("machine")
def test_a_missing_library_or_driver_is_told(
    clips: Clips, tmp_path: Path, exact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvcodec.load_library.cache_clear()
    monkeypatch.setitem(sys.modules, "PyNvVideoCodec", None)
    assert_refused(clips["cfr"], tmp_path, exact, 'install it with `pip install "sr-deploy[nvcodec]"`')
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "PyNvVideoCodec.py").write_text("raise RuntimeError('libnvcuvid.so.1: cannot open\\n\\nTROUBLESHOOTING')")
    monkeypatch.delitem(sys.modules, "PyNvVideoCodec")
    monkeypatch.syspath_prepend(str(folder))
    again = tmp_path / "again"
    again.mkdir()
    assert_refused(clips["cfr"], again, exact, "PyNvVideoCodec cannot be loaded (libnvcuvid.so.1: cannot open)")


def test_without_a_gpu_nothing_of_it_is_loaded(clips: Clips, tmp_path: Path) -> None:
    class Double:
        scale = 2

        def __call__(self, image: Any) -> Any:
            return image.repeat(2, 0).repeat(2, 1)

    source, options = clips["cfr"], VideoOptions(preset="ultrafast")
    known = sys.modules.pop("sr_deploy.video.nvcodec")
    try:
        upscale_video(source, tmp_path / "a.mkv", Double(), options=options)
        assert "sr_deploy.video.nvcodec" not in sys.modules
    finally:
        sys.modules["sr_deploy.video.nvcodec"] = known
    with pytest.raises(BackendUnavailableError, match="the network does not run on a GPU; use --decode auto or cpu"):
        upscale_video(source, tmp_path / "b.mkv", Double(), options=VideoOptions(decode="nvdec"))
    with pytest.raises(UsageError, match="leave out --decode nvdec"):
        upscale_video(source, tmp_path / "f_%03d.png", Double(), options=VideoOptions(decode="nvdec"))
