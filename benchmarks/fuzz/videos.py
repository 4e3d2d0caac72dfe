"""Damaged videos: frames that are written, as ffprobe counts them, against those that the file had, and that it promises."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from cases import Case, Kind, Run, Seed
from mutations import damage_bytes

SECONDS = 300
FRAMES, SIZE = 12, "48x32"

CODECS = {
    "h264.mp4": "-c:v libx264 -movflags +faststart",
    "fragments.mp4": "-c:v libx264 -movflags frag_keyframe+empty_moov",
    "h264.mkv": "-c:v libx264 -bf 2 -g 6",
    "h264.mov": "-c:v libx264 -bf 2",
    "h264.ts": "-c:v libx264 -g 6",
    "h264.flv": "-c:v libx264",
    "hevc.mkv": "-s 64x64 -c:v libx265 -x265-params log-level=none:pools=none:frame-threads=1:ctu=16",
    "vp9.webm": "-c:v libvpx-vp9 -g 6",
    "vp8.webm": "-c:v libvpx -g 6",
    "mpeg4.avi": "-c:v mpeg4 -g 6",
    "mjpeg.avi": "-c:v mjpeg -pix_fmt yuvj420p",
    "mpeg2.mpg": "-c:v mpeg2video -g 6",
    "wmv.wmv": "-c:v wmv2 -g 6",
    "ffv1.mkv": "-c:v ffv1 -level 3 -g 1",
    "raw.y4m": "-c:v wrapped_avframe",
    "pal.gif": "-c:v gif",
}
WITH_SOUND = {"h264.mp4": "aac", "h264.mkv": "libopus", "h264.ts": "aac", "mpeg4.avi": "mp2", "vp9.webm": "libopus"}
SKIP_SHARE = 4
"""One of so many runs with `--on-damage skip`."""

TOLD = re.compile(r"^note: .*(?:damage|missing|broken|lost|skip|gap|short|fewer|hides)", re.M)
"""A note that a user understands frames to be lost by."""

NOT_IN_IT = re.compile(r"^note: .*(?:pictures? before a keyframe|edit list hides)", re.M)
"""A note of pictures that no player shows either, so that a run without them is none that failed."""


@dataclass(frozen=True)
class Probed:
    """Of the first video stream: packets that can be read, and frames that the file promises by index or duration, else 0."""

    packets: int
    promised: int


class Videos(Kind):
    name = "video"
    suffixes = frozenset({*(Path(name).suffix for name in CODECS), ".m2ts", ".vob", ".m4v", ".apng"})
    largest_seed = 100_000

    def make_seeds(self, folder: Path) -> None:
        """None where there is no ffmpeg, and none of what it cannot write."""
        ffmpeg = shutil.which("ffmpeg")
        if ffmpeg is None or shutil.which("ffprobe") is None:
            return
        for name, how in CODECS.items():
            sound = WITH_SOUND.get(name)
            source = ["-f", "lavfi", "-i", f"testsrc2=size={SIZE}:rate=12"]
            source += ["-f", "lavfi", "-i", "sine=sample_rate=48000"] if sound else []
            options = ["-frames:v", str(FRAMES), "-t", "1", "-pix_fmt", "yuv420p", *how.split(), "-threads", "1"]
            options += ["-c:a", sound, "-ac", "1"] if sound else []
            options = [option for option in options if name != "pal.gif" or option not in ("-pix_fmt", "yuv420p")]
            command = [ffmpeg, "-v", "error", "-nostdin", "-y", *source, *options, str(folder / name)]
            done = subprocess.run(command, check=False, capture_output=True, timeout=SECONDS)
            if done.returncode:
                (folder / name).unlink(missing_ok=True)

    def damage(self, random: Random, seed: Seed, other: Seed) -> tuple[bytes, str, str]:
        data, how = damage_bytes(random, seed.data, other.data)
        return data, how, seed.suffix

    def run(self, path: Path, case: Case) -> Run:
        run = Run()
        options = ["-f", ("mkv", "mkv", "mp4")[case.number % 3], "--preset", "ultrafast", "--no-progress"]
        options += ["--on-damage", "skip"] if case.number % SKIP_SHARE == 0 else []
        code, _ = run.call("upscale", path, "-m", "fast-x2", "-o", f"{path.parent / 'out'}/", *options)
        run.accepted = code == 0
        results = self._results(path)
        if run.accepted and not results:
            run.note("exit 0 and no result")
        run.check_leftovers(path.parent / "out", results if run.accepted else [], resumable=not run.accepted)
        return run

    def _results(self, path: Path) -> list[Path]:
        return [one for one in sorted((path.parent / "out").glob("*")) if one.is_file() and one.stem == path.stem]

    def judge(self, path: Path, case: Case, run: Run) -> str | None:
        results = self._results(path)
        if not results or results[0].suffix == ".png":
            return None
        delivered = frames_of(results[0].read_bytes(), results[0].suffix)
        whole = frames_of(case.seed.data, case.seed.suffix)
        expected = expected_frames(case.data, probe(path), whole)
        if delivered >= expected or NOT_IN_IT.search(run.text):
            return ""
        if case.number % SKIP_SHARE == 0:
            return "" if TOLD.search(run.text) else "frames lost without a note"
        run.text += (
            f"ffprobe counts {delivered} frames in {results[0].name}; the undamaged file has {whole}, expected {expected}\n"
        )
        return f"frames lost in {case.suffix}, exit 0"


@lru_cache(64)
def frames_of(data: bytes, suffix: str) -> int:
    """Frames that ffprobe decodes."""
    path = Path(f"counted{suffix}")
    path.write_bytes(data)
    try:
        return int(ffprobe(path, "-count_frames").get("nb_read_frames", 0))
    finally:
        path.unlink()


def expected_frames(data: bytes, probed: Probed, whole: int) -> int:
    """Frames that a damaged file must give: each packet, and what is promised, as far as the undamaged one had it.

    A file that promises nothing, cut at its end, is a shorter one, except in y4m, where a part of a frame is left.
    """
    promised = probed.promised
    if data.startswith(b"YUV4MPEG2") and (size := re.search(rb"W(\d+) H(\d+)", data[:100])):
        frame = int(size[1]) * int(size[2]) * 3 // 2 + len(b"FRAME\n")
        promised = -(-(len(data) - data.index(b"\n") - 1) // max(frame, 1))
    return max(min(probed.packets, whole), min(promised, whole))


def probe(path: Path) -> Probed:
    stream = ffprobe(path, "-count_packets")
    rate, _, base = str(stream.get("avg_frame_rate", "0/1")).partition("/")
    duration = float(stream.get("duration", stream.get("of_file", 0)))
    by_time = duration * int(rate) / int(base) if int(base or 0) else 0.0
    return Probed(int(stream.get("nb_read_packets", 0)), int(stream.get("nb_frames", 0)) or min(round(by_time), 10**6))


def ffprobe(path: Path, count: str) -> dict[str, Any]:
    """What ffprobe shows of the first video stream, with `of_file`, the duration of the file; empty where it shows none."""
    shown = "stream=nb_read_packets,nb_read_frames,nb_frames,avg_frame_rate,duration:format=duration"
    command = ["ffprobe", "-v", "quiet", count, "-select_streams", "v:0", "-show_entries", shown, "-of", "json", str(path)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS, stdin=subprocess.DEVNULL)
    answer = json.loads(done.stdout or b"{}")
    of_file = answer.get("format", {}).get("duration", 0)
    return {"of_file": of_file, **(answer.get("streams") or [{}])[0]}
