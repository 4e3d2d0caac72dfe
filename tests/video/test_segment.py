"""A segment holds its frames at their exact times, plays alone, and is complete or absent."""

from __future__ import annotations

import errno
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_deploy.errors import VideoError
from sr_deploy.files import Growing
from sr_deploy.video import segment as module
from sr_deploy.video.frame import Frame
from sr_deploy.video.segment import SegmentWriter, segment_suffix
from tests.video import clips
from tests.video.writing import fast_encoding, picture, video_format, write_segments

BASES = [Fraction(1, 90000), Fraction(1001, 30000), Fraction(1, 1000), Fraction(1499, 45000), Fraction(1, 10**9)]


def irregular(base: Fraction, count: int = 14, start: int = 0) -> list[int]:
    """Times with gaps from one tick up."""
    unit = max(int(Fraction(1, 50) / base), 1)
    return [start + number * unit + number * number * 7 % max(unit, 1) for number in range(count)]


@pytest.mark.parametrize("base", BASES, ids=str)
@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9", "ffv1", "prores_ks"])
def test_every_time_is_kept_exactly(tmp_path: Path, base: Fraction, codec: str) -> None:
    deep = {"pixel_format": "yuv422p10le", "depth": 10} if codec == "prores_ks" else {}
    out = video_format(time_base=base, **deep)
    pts = irregular(base, start=1000003)
    encoding = fast_encoding(
        out, ".mov" if codec == "prores_ks" else ".mkv", codec, **({"preset": "medium"} if codec == "libx264" else {})
    )
    segment = write_segments(tmp_path, out, encoding, pts, len(pts))[0]
    assert clips.times_of(segment.path) == [one * base for one in pts]
    assert (segment.frames, segment.first_pts, segment.last_pts) == (len(pts), pts[0], pts[-1])
    assert segment.bytes == segment.path.stat().st_size


@pytest.mark.parametrize("codec", ["libx265", "libsvtav1"])
def test_reordering_codecs_keep_the_times_too(tmp_path: Path, codec: str) -> None:
    out = video_format(pixel_format="yuv420p10le", depth=10)
    pts = irregular(out.time_base)
    segment = write_segments(tmp_path, out, fast_encoding(out, codec=codec), pts, len(pts))[0]
    assert clips.times_of(segment.path) == [one * out.time_base for one in pts]
    assert clips.frames(segment.path)[0].key


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_fewer_frames_than_the_encoder_holds_back(tmp_path: Path, codec: str, frames: int) -> None:
    out = video_format()
    encoding = fast_encoding(out, codec=codec, **({} if codec == "libsvtav1" else {"preset": "medium"}))
    for attempt in range(5):
        segment = write_segments(tmp_path / str(attempt), out, encoding, [7 + n * 3600 for n in range(frames)], frames)[0]
        assert [frame.key for frame in clips.frames(segment.path)] == [True] + [False] * (frames - 1)
        assert clips.times_of(segment.path) == [(7 + n * 3600) * out.time_base for n in range(frames)]


@pytest.mark.parametrize(
    ("shown", "decoded", "expected"),
    [(0, -2, -2), (5, 5, 5), (4, None, 4), (0, 6800543616371943530, 0), (1, -5327181257930286177, 1), (3, 4, 3)],
)
def test_decoding_times_that_cannot_be_are_not_believed(shown: int, decoded: int | None, expected: int) -> None:
    assert module.decoding_number(shown, decoded) == expected


def test_equal_frames_become_equal_files_wherever_they_stand(tmp_path: Path) -> None:
    out, encoding = video_format(), fast_encoding(video_format())
    one, other = (
        write_segments(tmp_path / str(start), out, encoding, [start + n * 3600 for n in range(8)], 8)[0] for start in (0, 0 * 7)
    )
    assert one.path.read_bytes() == other.path.read_bytes()
    moved = write_segments(tmp_path / "moved", out, encoding, [10**7 + n * n for n in range(8)], 8)[0]
    assert clips.stream_hashes(one.path) == clips.stream_hashes(moved.path)


def test_frames_in_ffv1_come_back_as_they_were(tmp_path: Path) -> None:
    out = video_format(pixel_format="gbrp")
    encoding = fast_encoding(out, codec="ffv1", pixel_format="bgr0")
    segment = write_segments(tmp_path, out, encoding, [0, 1, 2], 3)[0]
    assert np.array_equal(clips.decode(segment.path), [picture(number) for number in range(3)])


def test_a_name_with_every_sort_of_character(tmp_path: Path) -> None:
    folder = tmp_path / "é 漢字 [x] 'q': 100% #?"
    folder.mkdir()
    with SegmentWriter(folder / "0:1%d.nut", video_format(), fast_encoding(video_format())) as writer:
        writer.write(Frame(picture(0), 0))
        segment = writer.close()
    assert [path.name for path in folder.iterdir()] == ["0:1%d.nut"]
    assert len(clips.frames(segment.path)) == 1


def test_until_it_is_closed_there_is_only_a_part(tmp_path: Path) -> None:
    path = tmp_path / "000000.nut"
    with pytest.raises(KeyboardInterrupt), SegmentWriter(path, video_format(), fast_encoding(video_format())) as writer:
        writer.write(Frame(picture(0), 0))
        assert not path.exists()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_frames_out_of_order_and_empty_segments_are_refused(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path / "a.nut", video_format(), fast_encoding(video_format()))
    writer.write(Frame(picture(0), 5))
    with pytest.raises(VideoError, match="a frame at 5 after one at 5"):
        writer.write(Frame(picture(1), 5))
    writer.abort()
    with pytest.raises(VideoError, match="without frames"):
        SegmentWriter(tmp_path / "b.nut", video_format(), fast_encoding(video_format())).close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="No such file"):
        writer = SegmentWriter(tmp_path / "absent" / "a.nut", video_format(), fast_encoding(video_format()))
        writer.write(Frame(picture(0), 0))
        writer.close()


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.Growing, "keep", full)
    writer = SegmentWriter(tmp_path / "a.nut", video_format(), fast_encoding(video_format()))
    writer.write(Frame(picture(0), 0))
    with pytest.raises(VideoError, match=r"a\.nut: cannot be written \(No space left on device\); free space"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_dev_full_says_that_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this machine")

    class Full(Growing):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.part.unlink()
            self.part.symlink_to("/dev/full")

    monkeypatch.setattr(module, "Growing", Full)
    writer = SegmentWriter(tmp_path / "a.nut", video_format(), fast_encoding(video_format(), crf=0))
    with pytest.raises(VideoError, match="No space left on device"):
        for number in range(200):
            writer.write(Frame(np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8), number))
        writer.close()
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_the_file_ending_follows_the_codec() -> None:
    assert segment_suffix(fast_encoding(video_format())) == ".nut"
    assert segment_suffix(fast_encoding(video_format(), ".mov", "prores_ks")) == ".mov"
