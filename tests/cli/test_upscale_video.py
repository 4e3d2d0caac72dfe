from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from sr_deploy.cli import program
from sr_deploy.pictures.image import Picture, read_image, write_image
from tests.evaluation.test_comparison import Images, decoded
from tests.video.clips import Clips, decode, ffmpeg, frame_hashes, frames, times_of, video_stream

Invoke = Callable[..., Result]
PROGRAM = [sys.executable, "-c", "from sr_deploy.cli import main; main()"]


@pytest.fixture
def film(clips: Clips) -> Path:
    """A short video in in/."""
    Path("in").mkdir()
    path = Path("in/é 漢字 [x] 'q'.mkv")
    shutil.copy(clips["vfr"], path)
    return path


def test_a_video(invoke: Invoke, bundle: Path, film: Path) -> None:
    result = invoke("upscale", film, "-m", bundle, "--preset", "ultrafast")
    target = film.with_name("é 漢字 [x] 'q'_double_x2.mkv")
    assert (result.exit_code, result.stdout) == (0, f"{target}\n"), result.stderr
    lines = result.stderr.splitlines()
    assert re.fullmatch(r"double on openvino \w+", lines[0])
    assert any(
        re.fullmatch(
            r"24 frames, [\d.e+]+ fps, [\d.]+ MB: reading \d+%, upscaling \d+%, writing \d+% of [\d.]+ s; "
            r"\w+ is the bottleneck.*",
            line,
        )
        for line in lines
    )
    assert re.match(r"1 done in [\d.]+ s", lines[-1])
    notes = [line for line in lines if line.startswith("note: ")]
    assert len(notes) == len(set(notes)) >= 1
    assert (video_stream(target)["width"], len(frames(target))) == (2 * video_stream(film)["width"], 24)
    again = invoke("upscale", film, "-m", bundle)
    assert (again.exit_code, again.stdout) == (0, "")
    assert f"skipped: {target} exists already; --overwrite makes it again" in again.stderr


def test_pictures_and_videos_of_a_folder(invoke: Invoke, bundle: Path, pictures: list[Path], clips: Clips) -> None:
    shutil.copy(clips["cfr"], "in/sub/film.mp4")
    shutil.copy(clips["gif"], "in/moving.gif")
    Path("in/bad.mkv").write_bytes(b"no video")
    result = invoke("upscale", "in", "gone.mp4", "-m", bundle, "-o", "out", "--preset", "ultrafast")
    assert result.exit_code == 1
    done = [path.relative_to("in") for path in pictures] + [Path("moving.mkv"), Path("sub/film.mp4")]
    assert result.stdout.splitlines() == [str("out" / path) for path in done]
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert [line.split()[1].rstrip(":") for line in errors] == ["gone.mp4", "in/bad.mkv"]
    assert "6 done, 2 failed in" in result.stderr
    assert len(frames(Path("out/moving.mkv"))) == 8


def test_the_summary_for_programs(invoke: Invoke, bundle: Path, film: Path) -> None:
    result = invoke("upscale", film, "-m", bundle, "-o", "out", "--json", "--progress", "json", "--profile", "-f", "mp4")
    assert result.exit_code == 0, result.stderr
    (video,) = json.loads(result.stdout)["videos"]
    assert video["input"] == str(film) and video["output"] == "out/é 漢字 [x] 'q'.mp4"
    assert (video["frames"], video["resumed"], video["timing"]["items"]) == (24, 0, 24)
    assert video["stats"]["tiles"] == video["reuse"]["tiles_computed"]
    events = [json.loads(line) for line in result.stderr.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds.index("plan") < kinds.index("video") < kinds.index("frames") < kinds.index("file") < kinds.index("end")
    start = events[kinds.index("video")]
    assert (start["width"], start["codec"], start["resumed"]) == (2 * video_stream(film)["width"], "libx264", 0)
    ticks = [event for event in events if event["event"] == "frames"]
    assert ticks[0]["done"] >= 1 and all(set(tick) >= {"fps", "bitrate", "seconds_left", "total"} for tick in ticks)
    assert events[kinds.index("file")]["video"]["frames"] == 24
    assert events[-1]["bottleneck"] in ("read", "work", "write")


def test_options_reach_the_encoder(invoke: Invoke, bundle: Path, film: Path) -> None:
    arguments = ["--codec", "libx265", "--crf", "30", "--pix-fmt", "yuv444p10le", "--preset", "ultrafast", "-e", "tune=grain"]
    result = invoke("upscale", film, "-m", bundle, "-o", "out.mkv", *arguments, "-s", "3")
    assert result.exit_code == 0, result.stderr
    stream = video_stream(Path("out.mkv"))
    assert (stream["codec_name"], stream["pix_fmt"]) == ("hevc", "yuv444p10le")
    assert stream["width"] == 3 * video_stream(film)["width"]


def test_a_part_without_reuse(invoke: Invoke, bundle: Path, film: Path) -> None:
    until = float(times_of(film)[9])
    result = invoke("upscale", film, "-m", bundle, "-o", "out.mkv", "--from", "0", "--until", f"{until:.6f}", "--no-reuse")
    assert result.exit_code == 0, result.stderr
    assert len(frames(Path("out.mkv"))) == 9


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-o", "out.gif"], 2, "error: -o out.gif: neither a folder"),
        (["-o", "out.mkv", "--codec", "mpeg9"], 2, "no codec 'mpeg9'; expected one of"),
        (["-o", "out.mkv", "--from", "soon"], 2, "error: time 'soon': not understood"),
        (["-o", "out.mkv", "--from", "5", "--until", "4"], 2, "nothing lies between"),
        (["-o", "out.mkv", "-e", "novalue"], 2, "is no KEY=VALUE"),
        (["-o", "out.mkv", "--fps", "fast"], 2, "error: rate 'fast': not understood"),
        (["-o", "-", "--json"], 2, "both want stdout"),
        (["-o", "out.mkv", "-e", "nonsense=1"], 2, "has no option nonsense=1"),
    ],
)
def test_wrong_usage(invoke: Invoke, bundle: Path, film: Path, arguments: list[str], code: int, message: str) -> None:
    result = invoke("upscale", film, "-m", bundle, *arguments)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    if "--json" in arguments:
        assert message in json.loads(result.stdout)["error"]["message"]
    else:
        assert result.stdout == ""
    assert [path.name for path in Path().iterdir()] == ["in"]


def test_a_pipe_on_either_side(bundle: Path, clips: Clips) -> None:
    command = [*PROGRAM, "upscale", "-i", "-", "-o", "-", "-m", bundle]
    done = subprocess.run(command, input=clips["y4m"].read_bytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    Path("out.y4m").write_bytes(done.stdout)
    small, large = video_stream(clips["y4m"]), video_stream(Path("out.y4m"))
    assert (large["width"], large["r_frame_rate"]) == (2 * small["width"], small["r_frame_rate"])
    assert len(frames(Path("out.y4m"))) == 10
    into_file = [*PROGRAM, "upscale", "-", "-m", bundle, "-o", "out.mkv", "--no-progress"]
    done = subprocess.run(into_file, input=clips["y4m"].read_bytes(), capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"out.mkv\n"), done.stderr.decode()
    assert len(frames(Path("out.mkv"))) == 10


def test_standard_input_needs_an_output(invoke: Invoke, bundle: Path) -> None:
    result = invoke("upscale", "-", "-m", bundle)
    assert (result.exit_code, "give one with -o" in result.stderr) == (2, True)


def test_a_reader_that_leaves_ends_the_run(bundle: Path, clips: Clips) -> None:
    command = [*PROGRAM, "upscale", clips["cfr"], "-o", "-", "-m", bundle, "--no-progress"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(100)
    process.stdout.close()
    assert process.wait(20) == 1
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


def test_pictures_become_a_video_and_a_video_pictures(invoke: Invoke, bundle: Path, clips: Clips) -> None:
    pattern = clips["pictures"] / "frame_%06d.png"
    result = invoke("upscale", pattern, "-m", bundle, "-o", "out.mkv", "--fps", "10", "--codec", "ffv1")
    assert result.exit_code == 0, result.stderr
    assert times_of(Path("out.mkv")) == [Fraction(number, 10) for number in range(6)]
    result = invoke("upscale", pattern, "-m", bundle, "-o", "large/%03d.png", "--fp32")
    assert (result.exit_code, result.stdout) == (0, "large/%03d.png\n"), result.stderr
    assert len(list(Path("large").iterdir())) == 6
    small = read_image(clips["pictures"] / "frame_000007.png").pixels
    assert np.array_equal(read_image(Path("large/001.png")).pixels, small.repeat(2, 0).repeat(2, 1))


def test_a_picture_is_still_a_picture(invoke: Invoke, bundle: Path) -> None:
    write_image(Path("a%02d.png"), Picture(np.full((8, 8, 3), 9, np.uint8)))
    assert invoke("upscale", "a%02d.png", "-m", bundle).stdout == "a%02d_double_x2.png\n"


@pytest.fixture
def _cleared() -> Iterator[None]:
    """Unfinished videos leave their folders, by intent."""
    yield
    for path in Path().rglob("*.part"):
        shutil.rmtree(path)


@pytest.mark.usefixtures("_cleared")
@pytest.mark.parametrize("name", ["truncated", "damaged"])
def test_a_damaged_source_is_one_line_and_its_segments_stay(
    invoke: Invoke, bundle: Path, clips: Clips, film: Path, name: str
) -> None:
    result = invoke("upscale", clips[name], film, "-m", bundle, "-o", "out", "--preset", "ultrafast")
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and str(clips[name]) in errors[0]
    assert result.stdout == f"out/{film.name}\n"
    assert not Path("out", clips[name].name).exists()
    result = invoke("upscale", clips[name], "-m", bundle, "-o", "all.mkv", "--on-damage", "skip")
    assert result.exit_code == 0, result.stderr


@pytest.mark.usefixtures("_cleared")
def test_ctrl_c_and_the_same_command_goes_on(bundle: Path, clips: Clips) -> None:
    source = Path("long.mkv")
    ffmpeg("-stream_loop", "9", "-i", clips["cfr_mkv"], "-c", "copy", source)
    count = len(frames(source))
    command = [*PROGRAM, "upscale", source, "-m", bundle, "-o", "out.mkv", "--progress", "json"]
    command += ["--codec", "ffv1", "-t", "32"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(Path().glob("out.mkv.part/000000.nut")):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (130, "")
    kept = r"\d+ frames are kept, \d+ will be computed again"
    whole = "everything finished so far is whole, run the same command again to go on"
    assert re.fullmatch(f"error: interrupted; {kept}; {whole}", stderr.splitlines()[-1])
    result = CliRunner().invoke(program, [str(argument) for argument in command[len(PROGRAM) :]], prog_name="sr-deploy")
    assert result.exit_code == 0, result.stderr
    starts = [event for event in map(json.loads, result.stderr.splitlines()) if event["event"] == "video"]
    assert starts[0]["resumed"] >= 240
    assert len(frame_hashes(Path("out.mkv"))) == count
    assert not Path("out.mkv.part").exists()


@pytest.mark.usefixtures("_cleared")
def test_changed_settings_are_told(invoke: Invoke, bundle: Path, clips: Clips) -> None:
    cut = Path("cut.mkv")
    ffmpeg("-stream_loop", "4", "-i", clips["cfr_mkv"], "-c", "copy", cut)
    os.truncate(cut, cut.stat().st_size - 1000)
    assert "240 frames are kept" in invoke("upscale", cut, "-m", bundle, "-o", "out.mkv").stderr
    result = invoke("upscale", cut, "-m", bundle, "-o", "out.mkv", "--crf", "40")
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "crf 17" in line and "crf 40" in line and "--overwrite" in line


def test_a_setting_that_suits_one_of_two(invoke: Invoke, bundle: Path, film: Path, clips: Clips) -> None:
    result = invoke("upscale", film, clips["odd"], "-m", bundle, "-o", "out", "--codec", "libx264")
    assert (result.exit_code, result.stdout) == (1, f"out/{film.name}\n")
    assert "'.webm' cannot hold libx264; use .mkv" in result.stderr


def test_options_of_pictures_do_nothing_for_videos(invoke: Invoke, bundle: Path, film: Path) -> None:
    common = ("-m", bundle, "-o", "out/", "--preset", "ultrafast", "--no-progress")
    result = invoke("upscale", film, *common, "--strip-metadata", "--quality", "80")
    assert result.exit_code == 0, result.stderr
    notes = [line for line in result.stderr.splitlines() if "without effect" in line]
    assert notes == ["note: --quality, --strip-metadata: without effect here, for pictures, and there are none"]
    assert "without effect" not in invoke("upscale", film, *common, "--overwrite").stderr


def test_help_shows_the_options_of_videos_apart(invoke: Invoke) -> None:
    text = invoke("upscale", "--help").stdout
    assert text.index("--overwrite") < text.index("Options for videos:") < text.index("--crf")


@pytest.fixture
def documented(bundle: Path, clips: Clips) -> str:
    """docs/video.md, in a folder with the network and the files that it names."""
    shutil.copytree(bundle, "rlfn")
    shutil.copy(clips["cfr_mkv"], "film.mkv")
    shutil.copytree(clips["pictures"], "frames")
    for index, path in enumerate(sorted(Path("frames").iterdir())):
        path.rename(f"frames/f_{index:04}.png")
    Path("photos").mkdir()
    write_image(Path("photos/a.png"), Picture(np.full((9, 16, 3), 9, np.uint8)))
    return (Path(__file__).parents[2] / "docs" / "video.md").read_text(encoding="utf-8")


def test_the_python_of_the_docs_runs(documented: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole, single = re.findall(r"```python\n(.*?)```", documented, flags=re.DOTALL)
    assert all(len([line for line in code.splitlines() if line]) <= 5 for code in (whole, single))
    exec(whole, {})
    count = len(frames(Path("film.mkv")))
    assert capsys.readouterr().out.startswith(f"{count} ")
    assert len(frames(Path("film_x4.mkv"))) == count
    exec(single, {})
    assert len(capsys.readouterr().out.splitlines()) == count


def test_the_commands_of_the_docs_run(documented: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```console\n(.*?)```", documented, flags=re.DOTALL)
    lines = [line.removeprefix("$ ") for line in block.splitlines()]
    assert len(lines) == 5
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for line in lines:
        quick = line.replace("4k", "320x180")
        done = subprocess.run(["bash", "-o", "pipefail", "-c", quick], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    made = ["film_double_x2.mkv", "large/film.mkv", "large/a.png", "start.mp4", "frames.mkv", "large.y4m"]
    assert [name for name in made if not Path(name).exists()] == []


def nearest(film: NDArray[np.uint8], image: NDArray[np.uint8]) -> int:
    """The number of the frame that is most like the image."""
    return int(np.abs(film.astype(int) - image).mean(axis=(1, 2, 3)).argmin())


def test_a_preview(invoke: Invoke, bundle: Path, film: Path, pictures: list[Path]) -> None:
    common = ("-m", bundle, "-o", "out/", "--preset", "ultrafast", "--preview", "0.2")
    result = invoke("upscale", film, pictures[0], *common)
    assert result.exit_code == 0, result.stderr
    parts = [Path(f"out/é 漢字 [x] 'q'_preview_{number}.mkv") for number in (1, 2, 3)]
    page = Path("out/é 漢字 [x] 'q'_preview.html")
    assert result.stdout.splitlines() == ["out/a.png", *map(str, [*parts, page])]
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(path.name for path in [*parts, page, pictures[0]])
    whole, images = decode(film), Images(page).images
    assert [image["alt"] for image in images] == ["source", "double"] * 3
    for part, before, after in zip(parts, images[::2], images[1::2], strict=True):
        shown = decode(part)
        source, large = (decoded(base64.b64decode(str(one["src"]).partition(",")[2])) for one in (before, after))
        assert nearest(shown, large) == len(shown) // 2
        assert nearest(whole, source) == nearest(whole, large[::2, ::2])
    again = json.loads(invoke("upscale", film, *common, "--preview", "0.1", "--json").stdout)
    assert (again["pages"], [entry["output"] for entry in again["done"]]) == ([str(page)], list(map(str, parts)))
    assert len(frames(parts[1])) < len(shown)


@pytest.mark.usefixtures("film")
def test_previews_of_folders_leave_out_what_cannot_be_read(invoke: Invoke, bundle: Path) -> None:
    Path("in/bad.mkv").write_bytes(b"no video")
    result = invoke("upscale", "in", "-m", bundle, "--preview", "0.1", "--suffix", "_2x", "--preset", "ultrafast", "-o", "in")
    assert result.exit_code == 1
    (error,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert error.startswith("error: in/bad.mkv")
    again = invoke("upscale", "in", "-m", bundle, "--preview", "0.1", "--suffix", "_2x", "-o", "in")
    assert "3 outputs of earlier runs left out" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "-"], "-: a preview is made of files; name one with -o"),
        (["-o", "frame_%06d.png"], "a preview is made of files"),
        (["-o", "out.mkv", "--preview", "0"], "a preview of 0 s; expected more than 0"),
        (["-o", "out.mkv", "--on", "ray"], "--preview are for one process"),
    ],
)
def test_previews_that_make_no_sense(invoke: Invoke, bundle: Path, film: Path, arguments: list[str], message: str) -> None:
    result = invoke("upscale", film, "-m", bundle, "--preview", "5", *arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.stderr
    assert message in result.stderr
    assert [path.name for path in Path().iterdir()] == ["in"]
