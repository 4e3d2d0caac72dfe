"""The fuzzer: a short campaign has no finds, and what it is there to find is found."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fuzz
import numpy as np
import pytest
from cards import upscale
from cases import Case, Kind, Run, Seed, case_of
from graphs import Graphs, shuffled
from kinds import KINDS
from pictures import Pictures, zlib_says
from structures import png_chunks
from videos import Videos
from worker import judged, lay_out

from sr_deploy.pictures import image
from sr_deploy.pictures.image import Picture, read_image
from tests.benchmarks.bad_kind import Bad
from tests.video.clips import ffmpeg, need_ffmpeg

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured by Linux")

CASES = {"picture": 80, "video": 10, "checkpoint": 6, "card": 10, "onnx": 10}


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_campaign_has_no_finds(kind: str, tmp_path: Path) -> None:
    if kind == "video":
        need_ffmpeg()
    campaign = fuzz.main(["-o", str(tmp_path), "--kind", kind, "--max-cases", str(CASES[kind]), "--seed", "7"])
    assert len(campaign.records) == CASES[kind]
    assert len({record.outcome for record in campaign.records}) > 1
    assert [(record.number, record.how, record.find) for record in campaign.records if record.find] == []


@pytest.fixture
def seeds(tmp_path: Path) -> dict[str, Seed]:
    """Undamaged pictures, by name."""
    folder = tmp_path / "seeds"
    folder.mkdir()
    Pictures().make_seeds(folder)
    return {path.name: Seed(path.name, path.read_bytes()) for path in folder.iterdir()}


def judge(kind: Kind, folder: Path, seed: Seed, data: bytes | None = None, number: int = 1) -> str:
    """What is found in the file, by default an undamaged one."""
    case = Case(kind.name, number, seed, seed.data if data is None else data, "", seed.suffix)
    path = lay_out(case, folder / "case")
    run = kind.run(path, case)
    judged(kind, path, case, run)
    return run.find


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_undamaged_pictures_are_no_finds(seeds: dict[str, Seed], tmp_path: Path) -> None:
    assert {name: find for name, seed in seeds.items() if (find := judge(Pictures(), tmp_path, seed))} == {}


def _darkened(picture: Picture) -> Picture:
    pixels = picture.pixels.copy()
    pixels[20, 20] //= 2
    return replace(picture, pixels=pixels)


def _turned(picture: Picture) -> Picture:
    return replace(picture, pixels=np.ascontiguousarray(picture.pixels.transpose(1, 0, 2)), alpha=None)


@pytest.mark.parametrize(("wrong", "find"), [(_darkened, "wrong pixels in "), (_turned, "wrong size in ")])
@pytest.mark.parametrize(
    "name", ["rgb.png", "deep.png", "progressive.jpg", "rgba_lossless.webp", "rgb.avif", "tiff_lzw.tif", "palette.gif"]
)
def test_a_reader_that_is_wrong_is_found(
    name: str,
    wrong: Callable[[Picture], Picture],
    find: str,
    seeds: dict[str, Seed],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image, "read_image", lambda path: wrong(read_image(path)))
    assert judge(Pictures(), tmp_path, seeds[name]).startswith(find)


def _cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def _zeroed(data: bytes) -> bytes:
    return data[:300] + bytes(300) + data[600:]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((f"rgb.{suffix}", _cut) for suffix in ("png", "jpg", "webp", "avif", "bmp", "ppm", "jp2")),
        *((f"{pressed}.tif", _zeroed) for pressed in ("raw", "tiff_lzw", "tiff_adobe_deflate")),
    ],
)
def test_a_reader_that_takes_damage_is_found(
    name: str, damage: Callable[[bytes], bytes], seeds: dict[str, Seed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = seeds[name]
    (tmp_path / name).write_bytes(seed.data)
    half = read_image(tmp_path / name)
    half.pixels[half.pixels.shape[0] // 2 :] = 7
    monkeypatch.setattr(image, "read_image", lambda _: half)
    assert judge(Pictures(), tmp_path, seed, damage(seed.data)).startswith(("accepted, ", "wrong pixels"))


def test_zlib_says_what_is_wrong_with_a_png(seeds: dict[str, Seed]) -> None:
    data = bytearray(seeds["rgb.png"].data)
    assert zlib_says(data) == ""
    (first, behind), *_ = (chunk for chunk in png_chunks(data) if data[chunk[0] + 4 : chunk[0] + 8] == b"IDAT")
    data[behind - 5] ^= 1
    assert zlib_says(data) == "accepted, the CRC of IDAT is wrong"
    data[behind - 4 : behind] = struct.pack(">I", zlib.crc32(data[first + 4 : behind - 4]))
    assert zlib_says(data).endswith("incorrect data check")


def test_an_error_that_is_none_of_ours_is_found(
    seeds: dict[str, Seed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> Picture:
        raise IndexError(path)

    monkeypatch.setattr(image, "read_image", fail)
    assert judge(Pictures(), tmp_path, seeds["rgb.png"]) == "traceback, IndexError"


class Untouched(Videos):
    """Writes what the test has put there, in place of upscaling."""

    def __init__(self, written: Path, text: str = "") -> None:
        self._written, self._text = written, text

    def run(self, path: Path, case: Case) -> Run:
        del case
        (path.parent / "out").mkdir()
        shutil.copy(self._written, path.parent / "out" / f"{path.stem}.mkv")
        return Run(accepted=True, text=self._text)


def test_lost_frames_are_found(tmp_path: Path) -> None:
    source = ["-f", "lavfi", "-i", "testsrc2=size=32x32:rate=12"]
    for frames in (8, 7):
        ffmpeg(*source, "-frames:v", frames, "-c:v", "ffv1", tmp_path / f"{frames}.mkv")
    seed = Seed("8.mkv", (tmp_path / "8.mkv").read_bytes())
    assert judge(Untouched(tmp_path / "8.mkv"), tmp_path, seed) == ""
    assert judge(Untouched(tmp_path / "7.mkv"), tmp_path, seed) == "frames lost in .mkv, exit 0"
    assert judge(Untouched(tmp_path / "7.mkv", "note: Its colors are untagged."), tmp_path, seed, number=4).endswith(
        "without a note"
    )
    assert judge(Untouched(tmp_path / "7.mkv", "note: 1 damaged packets were skipped."), tmp_path, seed, number=4) == ""
    assert judge(Untouched(tmp_path / "7.mkv"), tmp_path, seed, seed.data[:-300]) == "frames lost in .mkv, exit 0"


def test_pixels_of_another_network_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = Seed("dynamic.onnx", shuffled("dynamic").SerializeToString())
    assert judge(Graphs(), tmp_path, seed) == ""
    monkeypatch.setattr("graphs.upscale", lambda _, folder, run: upscale("fast-x2", folder, run))
    assert judge(Graphs(), tmp_path, seed) == "wrong pixels"


@pytest.mark.long
def test_deaths_hangs_memory_and_leftovers_are_found(tmp_path: Path) -> None:
    limits = ["--limit-seconds", "2", "--limit-megabytes", "200"]
    campaign = fuzz.main(["-o", str(tmp_path / "run"), "--max-cases", "5", *limits], {"bad": Bad})
    finds = {record.number: record.find for record in campaign.records}
    assert finds == {0: "", 1: "the process ended with -9", 2: "over 2 s", 3: "over 200 MB", 4: "left behind: journal"}
    assert {path.name for path in (tmp_path / "run" / "finds").iterdir()} == {"bad_1", "bad_2", "bad_3", "bad_4"}
    assert (tmp_path / "run" / "finds" / "bad_4" / "bad_4.txt").read_bytes() == b"a"


def test_a_campaign_goes_on_where_it_stopped(tmp_path: Path) -> None:
    stopped = ["-o", str(tmp_path / "a"), "--kind", "picture", "--max-cases"]
    assert len(fuzz.main([*stopped, "3"]).records) == 3
    with (tmp_path / "a" / "state.jsonl").open("a", encoding="utf-8") as state:
        state.write('{"kind": "picture", "number": 3, "how": "{}')
    fuzz.main([*stopped, "5"])
    campaign = fuzz.main([*stopped, "7"])
    assert [record.number for record in campaign.records] == list(range(7))
    whole = fuzz.main(["-o", str(tmp_path / "b"), "--kind", "picture", "--max-cases", "7"])
    assert [record.how for record in whole.records] == [record.how for record in campaign.records]
    with pytest.raises(SystemExit, match="was begun with"):
        fuzz.main([*stopped, "7", "--seed", "2"])


def test_no_case_is_like_another(seeds: dict[str, Seed]) -> None:
    cases = [case_of(Pictures(), list(seeds.values()), 0, number).data for number in range(40)]
    assert len(set(cases)) > 35
