"""Tiny clips made by ffmpeg's command line, and what ffprobe and ffmpeg say of a file: a reader that we did not write."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

FFMPEG, FFPROBE = shutil.which("ffmpeg"), shutil.which("ffprobe")
NTSC = "30000/1001"
MASTERING = "G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,50)"
LIGHT = "1000,400"


def need_ffmpeg() -> None:
    """Skips the test where ffmpeg's command line is absent."""
    if FFMPEG is None or FFPROBE is None:
        pytest.skip("no ffmpeg and ffprobe on this machine")


def ffmpeg(*arguments: object, stdin: bytes | None = None) -> bytes:
    """What ffmpeg writes to its standard output; fails with its last lines."""
    need_ffmpeg()
    command = [str(FFMPEG), "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *map(str, arguments)]
    if stdin is not None:
        command.remove("-nostdin")
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done.stdout


def ffprobe(path: Path, *arguments: str) -> dict[str, Any]:
    """ffprobe's answer, asked once for a file as it is."""
    need_ffmpeg()
    answer: dict[str, Any] = json.loads(_answer(path, path.stat().st_mtime_ns, arguments))
    return answer


@lru_cache(maxsize=64)
def _answer(path: Path, changed: int, arguments: tuple[str, ...]) -> bytes:
    del changed
    command = [str(FFPROBE), "-v", "error", "-of", "json", *arguments, str(path)]
    return subprocess.run(command, capture_output=True, check=True).stdout


def streams(path: Path) -> list[dict[str, Any]]:
    """All streams of a file as ffprobe shows them, with dispositions, tags and side data."""
    return list(ffprobe(path, "-show_streams")["streams"])


def video_stream(path: Path, index: int = 0) -> dict[str, Any]:
    """The video stream of that number among the video streams."""
    found: list[dict[str, Any]] = ffprobe(path, "-show_streams", "-select_streams", f"v:{index}")["streams"]
    return found[0]


def chapters(path: Path) -> list[dict[str, Any]]:
    """The chapters of a file as ffprobe shows them."""
    return list(ffprobe(path, "-show_chapters")["chapters"])


@dataclass(frozen=True)
class ProbedFrame:
    """pts, duration: in ticks of the stream's time base; side_data: as ffprobe shows it."""

    pts: int | None
    duration: int
    key: bool
    side_data: tuple[dict[str, Any], ...] = ()


def frames(path: Path, index: int = 0) -> list[ProbedFrame]:
    """Every frame that FFmpeg decodes from a video stream, in presentation order."""
    answer = ffprobe(path, "-show_frames", "-select_streams", f"v:{index}")["frames"]
    return [_probed(frame) for frame in answer if frame.get("media_type", "video") == "video"]


def _probed(frame: dict[str, Any]) -> ProbedFrame:
    pts = frame.get("best_effort_timestamp", frame.get("pts"))
    duration = int(frame.get("duration", frame.get("pkt_duration", 0)))
    side_data = tuple(frame.get("side_data_list", ()))
    return ProbedFrame(None if pts is None else int(pts), duration, bool(frame["key_frame"]), side_data)


def pts_of(path: Path, index: int = 0) -> list[int | None]:
    """The pts of every frame, in ticks."""
    return [frame.pts for frame in frames(path, index)]


def times_of(path: Path, index: int = 0) -> list[Fraction]:
    """When every frame is shown, in exact seconds: comparable between time bases."""
    base = Fraction(video_stream(path, index)["time_base"])
    return [pts * base for pts in pts_of(path, index) if pts is not None]


def stream_hashes(path: Path, *maps: str) -> dict[int, str]:
    """The SHA-256 of the packets of each stream, copied: equal hashes are bit-identical packets."""
    chosen = [part for one in maps or ("0",) for part in ("-map", one)]
    text = ffmpeg("-i", path, *chosen, "-c", "copy", "-f", "streamhash", "-hash", "sha256", "-").decode()
    return {int(line.split(",")[0]): line.split("=")[1] for line in text.split()}


def frame_hashes(path: Path, index: int = 0) -> list[str]:
    """A hash of the decoded planes of every frame, whatever its time."""
    text = ffmpeg("-i", path, "-map", f"0:v:{index}", "-fps_mode", "passthrough", "-f", "framemd5", "-").decode()
    return [line.split(",")[-1].strip() for line in text.splitlines() if not line.startswith("#")]


def decode(path: Path, pixel_format: str = "rgb24", index: int = 0, filters: str | None = None) -> NDArray[Any]:
    """All frames decoded by ffmpeg's command line.

    (N,H,W,3) for rgb24 and rgb48le, (N,H,W) for gray formats, (N, samples) for planar ones: samples in the order of the planes.
    """
    stream = video_stream(path, index)
    data = ffmpeg(
        *("-noautorotate", "-i", path, "-map", f"0:v:{index}", "-fps_mode", "passthrough"),
        *(("-vf", filters) if filters else ()),
        *("-f", "rawvideo", "-pix_fmt", pixel_format, "-"),
    )
    deep = any(depth in pixel_format for depth in ("9le", "10le", "12le", "14le", "16le", "48le"))
    samples = np.frombuffer(data, "<u2" if deep else np.uint8)
    height, width = stream["height"], stream["width"]
    if pixel_format.startswith("rgb"):
        return samples.reshape(-1, height, width, 3)
    if pixel_format.startswith("gray"):
        return samples.reshape(-1, height, width)
    return samples.reshape(len(frames(path, index)), -1)


def encode(path: Path, planes: NDArray[Any], size: tuple[int, int], pixel_format: str, *options: object) -> None:
    """Writes raw frames without loss, as FFV1 unless the options name another codec; size: width, height; options: ffmpeg's."""
    source = ("-f", "rawvideo", "-pix_fmt", pixel_format, "-s", f"{size[0]}x{size[1]}", "-r", "25", "-i", "-")
    ffmpeg(*source, "-c:v", "ffv1", *options, path, stdin=planes.tobytes())


def pattern(size: str = "96x64", count: int = 12, rate: str = "25", extra: str = "") -> tuple[str, ...]:
    """An input of moving pictures, every one different from the last."""
    chain = f"testsrc2=size={size}:rate={rate},trim=end_frame={count}" + (f",{extra}" if extra else "")
    return ("-f", "lavfi", "-i", chain)


def tone(frequency: int = 440, seconds: float = 1) -> tuple[str, ...]:
    """An input of sound."""
    return ("-f", "lavfi", "-i", f"sine=frequency={frequency}:sample_rate=48000:duration={seconds}")


X264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-bf", "2", "-threads", "1")
IRREGULAR = "setpts='(N*40+mod(N*N*7,23))/1000/TB'"


def cfr(path: Path) -> None:
    """60 frames at 30000/1001 with B-frames and a keyframe every 12: long enough to be resumed."""
    ffmpeg(*pattern(count=60, rate=NTSC), *X264, "-g", "12", path)


def cfr_sound(path: Path) -> None:
    """The same with a tone."""
    ffmpeg(*pattern(count=60, rate=NTSC), *tone(seconds=2), *X264, "-g", "12", "-c:a", "aac", path)


def vfr(path: Path) -> None:
    """24 frames at irregular times."""
    ffmpeg(*pattern(count=24, extra="settb=1/1000," + IRREGULAR), *X264, "-g", "8", "-fps_mode", "vfr", path)


def vfr_mp4(path: Path) -> None:
    """24 frames at irregular times in a time base of 1/90000."""
    ffmpeg(
        *pattern(count=24, extra="settb=1/90000," + IRREGULAR),
        *(*X264, "-g", "8", "-fps_mode", "vfr", "-enc_time_base", "1/90000", "-video_track_timescale", "90000", path),
    )


def hdr10(path: Path) -> None:
    """10-bit 4:2:0 in BT.2020 with PQ, mastering display and content light."""
    params = f"log-level=none:repeat-headers=1:hdr10=1:pools=1:frame-threads=1:master-display={MASTERING}:max-cll={LIGHT}"
    tags = ("-colorspace", "bt2020nc", "-color_primaries", "bt2020", "-color_trc", "smpte2084", "-color_range", "tv")
    ffmpeg(
        *pattern(count=8, extra="scale=out_color_matrix=bt2020:out_range=tv,format=yuv420p10le"),
        *("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", params, *tags, "-chroma_sample_location", "topleft", path),
    )


def yuv444(path: Path) -> None:
    """4:4:4 without chroma subsampling."""
    ffmpeg(*pattern(), "-c:v", "libx264", "-pix_fmt", "yuv444p", "-preset", "veryfast", "-threads", "1", path)


def ten_bit_422(path: Path) -> None:
    """10-bit 4:2:2 FFV1, the form of masters."""
    ffmpeg(*pattern(count=6), "-c:v", "ffv1", "-pix_fmt", "yuv422p10le", path)


def odd(path: Path) -> None:
    """4:2:0 of odd width and height."""
    ffmpeg(*pattern("97x63"), "-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p", "-deadline", "realtime", "-cpu-used", "8", path)


def rotated(path: Path) -> None:
    """A display matrix of 90 degrees, as phones write it."""
    plain = path.with_name("plain-" + path.name)
    ffmpeg(*pattern(), *X264, plain)
    ffmpeg("-i", plain, "-c", "copy", "-metadata:s:v:0", "rotate=90", path)


def anamorphic(path: Path) -> None:
    """Pixels of 32:27."""
    ffmpeg(*pattern(extra="setsar=32/27"), *X264, path)


def interlaced(path: Path) -> None:
    """Fields of different moments, top first."""
    ffmpeg(
        *pattern(count=24, rate="50", extra="tinterlace=interleave_top,setfield=tff"),
        *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-flags", "+ildct+ilme", "-top", "1", "-threads", "1", path),
    )


def offset(path: Path) -> None:
    """Video and sound that start at 3.5 s."""
    ffmpeg(*pattern(count=25), *tone(), *X264, "-c:a", "aac", "-output_ts_offset", "3.5", path)


def edit_list(path: Path) -> None:
    """An mp4 cut without encoding: its edit list hides the frames before the cut."""
    plain = path.with_name("plain-" + path.name)
    ffmpeg(*pattern(count=50), *tone(seconds=2), *X264, "-g", "25", "-c:a", "aac", plain)
    ffmpeg("-ss", "0.5", "-i", plain, "-c", "copy", path)


def late_sound(path: Path) -> None:
    """Sound that starts half a second after the pictures."""
    ffmpeg(*pattern(count=25), "-itsoffset", "0.5", *tone(seconds=0.5), *X264, "-c:a", "aac", path)


def truncated(path: Path) -> None:
    """A file that ends in the middle of a frame, as after a broken download."""
    whole = path.with_name("whole-" + path.name)
    movflags = ("-movflags", "+faststart") if path.suffix == ".mp4" else ()
    ffmpeg(*pattern("192x128", count=50), *X264, "-g", "10", *movflags, whole)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])


def damaged(path: Path) -> None:
    """A file with the pictures of some packets in its middle overwritten, behind their headers."""
    whole = path.with_name("whole-" + path.name)
    ffmpeg(*pattern("192x128", count=50), *X264, "-g", "10", whole)
    data = bytearray(whole.read_bytes())
    for packet in ffprobe(whole, "-show_packets")["packets"][21:28]:
        start, end = int(packet["pos"]) + 24, int(packet["pos"]) + int(packet["size"])
        data[start:end] = bytes(value * 37 % 251 for value in range(end - start))
    path.write_bytes(data)


def audio_only(path: Path) -> None:
    """No pictures."""
    ffmpeg(*tone(), "-c:a", "aac", path)


def full_range(path: Path) -> None:
    """Full-range 4:2:0, tagged BT.709 throughout."""
    tags = ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "pc")
    ffmpeg(*pattern(extra="scale=out_color_matrix=bt709:out_range=pc,format=yuvj420p"), *X264[:4], "-threads", "1", *tags, path)


def alpha(path: Path) -> None:
    """VP9 with an alpha plane."""
    ffmpeg(*pattern(count=4), "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "-deadline", "realtime", "-cpu-used", "8", path)


def cover(path: Path) -> None:
    """A cover picture before the video."""
    picture = path.with_name("cover.png")
    ffmpeg(*pattern("32x32", count=1), picture)
    ffmpeg(
        *("-i", picture, *pattern(), "-map", "0:v", "-map", "1:v", "-c:v:0", "png", "-disposition:v:0", "attached_pic"),
        *("-c:v:1", "libx264", "-pix_fmt", "yuv420p", "-threads", "1", path),
    )


SUBTITLES = "1\n00:00:00,100 --> 00:00:00,800\nfirst é 漢字\n\n2\n00:00:01,000 --> 00:00:01,900\nsecond\n"
CHAPTERS = """;FFMETADATA1
title=A title é 漢字
[CHAPTER]
TIMEBASE=1/1000
START=0
END=1000
title=Opening
[CHAPTER]
TIMEBASE=1/1000
START=1000
END=2000
title=Ending
"""


def rich(path: Path) -> None:
    """Two audio tracks, text and bitmap subtitles, chapters, a font, titles, languages, dispositions: 50 frames, 2 s."""
    folder = path.parent
    (folder / "text.srt").write_text(SUBTITLES, encoding="utf-8")
    (folder / "chapters.txt").write_text(CHAPTERS, encoding="utf-8")
    (folder / "bitmap.sup").write_bytes(bitmap_subtitles())
    (folder / "font.ttf").write_bytes(b"\0\1\0\0" + bytes(range(200)))
    ffmpeg(
        *(*pattern(count=50), *tone(seconds=2), *tone(660, seconds=2)),
        *("-i", folder / "text.srt", "-i", folder / "bitmap.sup", "-i", folder / "chapters.txt"),
        *(
            "-map",
            "0:v",
            "-map",
            "1:a",
            "-map",
            "2:a",
            "-map",
            "3:s",
            "-map",
            "4:s",
            "-map_metadata",
            "5",
            "-map_chapters",
            "5",
        ),
        *(*X264, "-g", "25", "-c:a:0", "aac", "-c:a:1", "flac", "-c:s:0", "subrip", "-c:s:1", "copy"),
        *("-metadata:s:v:0", "title=Main", "-metadata:s:a:0", "language=jpn", "-metadata:s:a:1", "language=eng"),
        *("-metadata:s:a:1", "title=Commentary", "-metadata:s:s:0", "language=deu", "-metadata:s:s:1", "language=fra"),
        *("-disposition:a:0", "default", "-disposition:a:1", "comment", "-disposition:s:0", "default+forced"),
        *("-attach", folder / "font.ttf", "-metadata:s:t:0", "mimetype=font/ttf", "-metadata:s:t:0", "filename=font.ttf", path),
    )


def bitmap_subtitles() -> bytes:
    """A Blu-ray subtitle stream (PGS) that shows a rectangle of 16x8 from 0.2 s to 0.8 s."""
    palette = struct.pack(">BB", 0, 0) + bytes((1, 235, 128, 128, 255))
    row = bytes((0, 0x80 | 16, 1, 0, 0))
    picture = struct.pack(">HBB", 0, 0, 0xC0) + (len(row) * 8 + 4).to_bytes(3, "big") + struct.pack(">HH", 16, 8) + row * 8
    window = struct.pack(">BBHHHH", 1, 0, 40, 48, 16, 8)

    def composition(number: int, shown: bool) -> bytes:
        state = struct.pack(">HHBHBBBB", 96, 64, 0x10, number, 0x80 if shown else 0, 0, 0, int(shown))
        return state + (struct.pack(">HBBHH", 0, 0, 0, 40, 48) if shown else b"")

    show = [(0x16, composition(0, True)), (0x17, window), (0x14, palette), (0x15, picture), (0x80, b"")]
    hide = [(0x16, composition(1, False)), (0x17, window), (0x80, b"")]
    timed = [(18000, segment) for segment in show] + [(72000, segment) for segment in hide]
    return b"".join(b"PG" + struct.pack(">IIBH", time, 0, kind, len(body)) + body for time, (kind, body) in timed)


def numbered_pictures(path: Path) -> None:
    """A folder of frame_000007.png to frame_000012.png; a file like these: path / 'frame_%06d.png'."""
    path.mkdir()
    ffmpeg(*pattern(count=6), "-start_number", "7", path / "frame_%06d.png")


def gif(path: Path) -> None:
    """Eight pictures of 90 and 130 ms in turn."""
    ffmpeg(*pattern(count=8, extra="settb=1/100,setpts='N*11-mod(N,2)*2'"), "-fps_mode", "vfr", path)


def apng(path: Path) -> None:
    """Eight pictures of 90 and 130 ms in turn, with a chunk for the animation."""
    ffmpeg(*pattern(count=8, extra="settb=1/100,setpts='N*11-mod(N,2)*2'"), "-fps_mode", "vfr", "-f", "apng", path)


def webp(path: Path) -> None:
    """Six pictures of 40 ms, without loss."""
    ffmpeg(*pattern(count=6), "-c:v", "libwebp_anim", "-lossless", "1", "-loop", "0", path)


def y4m(path: Path) -> None:
    """Raw frames with a header, as programs pipe them."""
    ffmpeg(*pattern(count=10, rate=NTSC, extra="format=yuv420p"), "-strict", "-1", "-f", "yuv4mpegpipe", path)


MAKERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "cfr": ("cfr.mp4", cfr),
    "cfr_mkv": ("cfr.mkv", cfr),
    "cfr_ts": ("cfr.ts", cfr),
    "cfr_sound": ("cfr_sound.mp4", cfr_sound),
    "vfr": ("vfr.mkv", vfr),
    "vfr_mp4": ("vfr.mp4", vfr_mp4),
    "hdr10": ("hdr10.mkv", hdr10),
    "hdr10_mp4": ("hdr10.mp4", hdr10),
    "yuv444": ("yuv444.mp4", yuv444),
    "ten_bit_422": ("ten_bit_422.mkv", ten_bit_422),
    "odd": ("odd.webm", odd),
    "rotated": ("rotated.mp4", rotated),
    "anamorphic": ("anamorphic.mp4", anamorphic),
    "interlaced": ("interlaced.mkv", interlaced),
    "offset": ("offset.mkv", offset),
    "offset_ts": ("offset.ts", offset),
    "edit_list": ("edit_list.mp4", edit_list),
    "late_sound": ("late_sound.mp4", late_sound),
    "truncated": ("truncated.mkv", truncated),
    "truncated_mp4": ("truncated.mp4", truncated),
    "damaged": ("damaged.mkv", damaged),
    "audio_only": ("audio_only.m4a", audio_only),
    "full_range": ("full_range.mp4", full_range),
    "alpha": ("alpha.webm", alpha),
    "cover": ("cover.mp4", cover),
    "rich": ("rich é 漢字 [x] 'q'.mkv", rich),
    "pictures": ("pictures", numbered_pictures),
    "gif": ("animation.gif", gif),
    "apng": ("animation.apng", apng),
    "webp": ("animation.webp", webp),
    "y4m": ("frames.y4m", y4m),
}

INTACT = tuple(sorted(set(MAKERS) - {"truncated", "truncated_mp4", "damaged", "audio_only", "pictures", "webp"}))
"""Names of the clips that one file holds whole and that ffmpeg's command line decodes; it cannot decode an animated WebP."""


class Clips:
    """Makes each clip once, when it is first asked for: `clips["vfr"]` is its path. Do not change the file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> Path:
        return self._made(name)

    @cache  # noqa: B019 - it lives as long as the test run
    def _made(self, name: str) -> Path:
        need_ffmpeg()
        file, make = MAKERS[name]
        folder = self.folder / name
        folder.mkdir()
        make(folder / file)
        return folder / file
