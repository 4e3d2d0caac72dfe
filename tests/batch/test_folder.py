from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from sr_deploy.batch import folder
from sr_deploy.batch.folder import Observer, Outcome, Summary, WriteOptions, upscale_files
from sr_deploy.batch.jobs import Job, Plan
from sr_deploy.errors import ImageError, MissingDependencyError, UnhealthyOutputError, UsageError
from sr_deploy.pictures.image import Picture, read_image, write_image
from sr_deploy.pictures.size import TargetSize
from sr_deploy.upscaling.image_upscaler import Stats


@dataclass
class FakeUpscaler:
    """Doubles every pixel; `before` may raise or wait."""

    before: Callable[[Picture], None] = lambda _: None
    scale: int = 2
    bundle: Any = field(default_factory=lambda: SimpleNamespace(card=SimpleNamespace(name="net", scale=2)))
    stats: Stats = field(default_factory=Stats)

    def upscale_picture(
        self, picture: Picture, *, size: TargetSize | None = None, progress: Callable[[int, int], None] | None = None
    ) -> Picture:
        self.before(picture)
        self.count(tiles=1)
        if progress:
            progress(1, 1)
        factor = 2 if size is None else size.resolve(*picture.pixels.shape[:2], 2)[0] // picture.pixels.shape[0]
        return replace(picture, pixels=picture.pixels.repeat(factor, 0).repeat(factor, 1))

    @property
    def stats_of_thread(self) -> Stats:
        return self.stats

    def count(self, **more: int) -> None:
        self.stats = replace(self.stats, **{name: getattr(self.stats, name) + count for name, count in more.items()})


@dataclass
class Recorder(Observer):
    plans: list[Plan] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    ticks: list[tuple[str, int, int]] = field(default_factory=list)

    def planned(self, plan: Plan) -> None:
        self.plans.append(plan)

    def tiles(self, job: Job, done: int, total: int) -> None:
        self.ticks.append((job.source.name, done, total))

    def finished(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


@pytest.fixture(autouse=True)
def _pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder with five small pictures in in/."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for index in range(5):
        picture(Path(f"in/{index}.png"), index)


@pytest.fixture(autouse=True)
def _nothing_half_written(tmp_path: Path) -> Iterator[None]:
    threads = set(threading.enumerate())
    yield
    assert not list(tmp_path.rglob("*.part"))
    assert set(threading.enumerate()) == threads


def picture(path: Path, value: int) -> None:
    write_image(path, Picture(np.full((6, 8, 3), value, np.uint8)))


def run(*inputs: str, output: str | None = "out", upscaler: FakeUpscaler | None = None, **options: Any) -> Summary:
    writing = WriteOptions(**{key: options.pop(key) for key in ("quality", "overwrite") if key in options})
    paths = [Path(name) for name in inputs or ("in",)]
    worker = cast(Any, upscaler or FakeUpscaler())
    return upscale_files(paths, Path(output) if output else None, worker, options=writing, **options)


def test_a_folder_is_done() -> None:
    watch = Recorder()
    summary = run(observer=watch)
    assert [str(path) for path in summary.done] == [f"out/{index}.png" for index in range(5)]
    assert (summary.skipped, summary.failed, summary.notes) == ((), (), ())
    assert summary.stats.tiles == 5 and summary.timing.items == 5
    assert [outcome.job.target for outcome in watch.outcomes] == list(summary.done)
    assert all(outcome.seconds > 0 for outcome in watch.outcomes)
    assert watch.ticks == [(f"{index}.png", 1, 1) for index in range(5)]
    assert len(watch.plans) == 1
    pixels = read_image(Path("out/3.png")).pixels
    assert pixels.shape == (12, 16, 3) and (pixels == 3).all()


def test_one_file_is_named_after_model_and_factor() -> None:
    assert run("in/0.png", output=None).done == (Path("in/0_net_x2.png"),)
    assert run("in/0.png", output=None, size=TargetSize.parse("3")).done == (Path("in/0_net_x3.png"),)
    assert run("in/0.png", output=None, size=TargetSize.parse("long=16")).done == (Path("in/0_net_long16.png"),)


def test_what_exists_is_skipped_unless_overwritten() -> None:
    run("in/1.png")
    picture(Path("out/1.png"), 99)
    summary = run()
    assert summary.skipped == (Path("out/1.png"),)
    assert len(summary.done) == 4
    assert read_image(Path("out/1.png")).pixels[0, 0, 0] == 99
    assert len(run(overwrite=True).done) == 5
    assert read_image(Path("out/1.png")).pixels[0, 0, 0] == 1


def test_a_torn_output_is_made_again() -> None:
    run()
    torn = Path("out/2.png")
    torn.write_bytes(torn.read_bytes()[:-20])
    summary = run()
    assert summary.done == (torn,)
    assert summary.notes == ((Path("in/2.png"), "out/2.png was not complete, it is made again"),)
    assert read_image(torn).pixels.shape == (12, 16, 3)


def test_bad_files_are_told_once_and_the_rest_is_done() -> None:
    Path("in/1.png").write_bytes(b"no picture at all")
    Path("in/3.png").write_bytes(Path("in/0.png").read_bytes()[:40])
    watch = Recorder()
    summary = run(observer=watch)
    assert [str(path) for path in summary.done] == ["out/0.png", "out/2.png", "out/4.png"]
    assert [failure.path for failure in summary.failed] == [Path("in/1.png"), Path("in/3.png")]
    assert [outcome.status for outcome in watch.outcomes] == ["done", "failed", "done", "failed", "done"]
    assert all(str(failure).count("in/") == 1 for failure in summary.failed)
    assert not Path("out/1.png").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UnhealthyOutputError("tile 0,0 64x64 is NaN in fp32 too"), "in/2.png: tile 0,0 64x64 is NaN in fp32 too"),
        (MemoryError(), "in/2.png: does not fit into memory; lower --memory or give a --tile"),
        (ValueError("odd"), "in/2.png: internal error, ValueError: odd"),
    ],
)
def test_an_error_of_one_picture_is_data(error: Exception, message: str) -> None:
    def fail(picture: Picture) -> None:
        if picture.pixels[0, 0, 0] == 2:
            raise error

    summary = run(upscaler=FakeUpscaler(fail))
    assert len(summary.done) == 4
    assert [str(failure) for failure in summary.failed] == [message]
    assert ("ValueError: odd" in summary.failed[0].details) == isinstance(error, ValueError)


def test_what_would_fail_for_every_picture_stops_the_run() -> None:
    def fail(_: Picture) -> None:
        raise MissingDependencyError("no runtime")

    with pytest.raises(MissingDependencyError):
        run(upscaler=FakeUpscaler(fail))
    with pytest.raises(UsageError):
        run(output="out.png")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_stops_the_run(monkeypatch: pytest.MonkeyPatch, wrapped: bool) -> None:
    started = []

    def write(path: Path, picture: Picture, **options: Any) -> tuple[str, ...]:
        started.append(path.name)
        if path.name == "1.png":
            full = OSError(errno.ENOSPC, "No space left on device", str(path))
            if wrapped:
                raise ImageError(f"{path}: cannot be written") from full
            raise full
        return write_image(path, picture, **options)

    monkeypatch.setattr(folder, "write_image", write)
    with pytest.raises(ImageError, match=r"out/1\.png: the disk is full.*run the same command again"):
        run()
    assert started == ["0.png", "1.png"]
    monkeypatch.setattr(folder, "write_image", write_image)
    assert len(run().done) == 4


def test_a_target_that_cannot_be_written_is_told() -> None:
    Path("out").write_text("a file where the folder should be")
    summary = run()
    assert len(summary.failed) == 5
    assert "in/0.png: " in str(summary.failed[0]) and "out" in summary.failed[0].message


def test_ctrl_c_keeps_what_is_finished() -> None:
    def stop(picture: Picture) -> None:
        if picture.pixels[0, 0, 0] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(upscaler=FakeUpscaler(stop))
    left = len(list(Path("out").iterdir()))
    assert left in (1, 2, 3)
    again = run()
    assert (len(again.skipped), len(again.done)) == (left, 5 - left)


def test_the_sentinels_counts_are_told() -> None:
    upscaler = FakeUpscaler()

    def count(picture: Picture) -> None:
        upscaler.count(recomputed=int(picture.pixels[0, 0, 0] in (1, 2)), replaced=int(picture.pixels[0, 0, 0] == 2))

    upscaler.before = count
    upscaler.count(recomputed=7)
    summary = run(upscaler=upscaler)
    assert (summary.stats.recomputed, summary.stats.replaced) == (2, 1)
    assert [(path.name, note) for path, note in summary.notes] == [
        ("1.png", "of 1 tiles 1 were not sane: 1 computed again in fp32, 0 bicubic"),
        ("2.png", "of 1 tiles 1 were not sane: 0 computed again in fp32, 1 bicubic"),
    ]


def test_notes_of_names_and_of_writing_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    picture(Path("in/0.jpg"), 0)
    monkeypatch.setattr(folder, "write_image", lambda path, *_, **__: ("16-bit depth", "EXIF") if path.stem == "4" else ())
    summary = run(extension="png")
    assert summary.notes == (
        (Path("in/0.jpg"), "named 0.jpg.png, because in/0.png becomes 0.png too"),
        (Path("in/4.png"), ".png cannot hold its 16-bit depth, EXIF"),
    )


def test_reading_upscaling_and_writing_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(call: Callable[..., Any]) -> Callable[..., Any]:
        def slowly(*args: Any, **options: Any) -> Any:
            time.sleep(0.03)
            return call(*args, **options)

        return slowly

    monkeypatch.setattr(folder, "read_image", slow(read_image))
    monkeypatch.setattr(folder, "write_image", slow(write_image))
    summary = run(upscaler=FakeUpscaler(lambda _: time.sleep(0.03)))
    timing = summary.timing
    assert timing.read + timing.work + timing.write >= 0.45
    assert timing.wall < 0.8 * (timing.read + timing.work + timing.write)


def test_memory_stays_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300 pictures, never more than a handful are alive."""
    alive = most = 0

    def forget() -> None:
        nonlocal alive
        alive -= 1

    def read(_: Path) -> Picture:
        nonlocal alive, most
        pixels = np.zeros((6, 8, 3), np.uint8)
        weakref.finalize(pixels, forget)
        alive += 1
        most = max(most, alive)
        return Picture(pixels)

    monkeypatch.setattr(folder, "read_image", read)
    monkeypatch.setattr(folder, "write_image", lambda *_, **__: ())
    for index in range(300):
        Path(f"in/{index:03}.png").touch()
    assert len(run().done) == 305
    assert most <= 5


def test_what_a_killed_run_left_is_swept_and_nothing_else() -> None:
    Path("out").mkdir()
    writes = "import os, sys; from pathlib import Path; from sr_deploy.files import growing\n"
    writes += "with growing(Path('out/{0}.png')) as file: print(flush=True); {1}"
    killed = subprocess.Popen([sys.executable, "-c", writes.format("1", "os.kill(os.getpid(), 9)")], stdout=subprocess.DEVNULL)
    alive = subprocess.Popen(
        [sys.executable, "-c", writes.format("x", "sys.stdin.read()")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert killed.wait() == -9 and alive.stdout and alive.stdout.readline()
    left = {path.name for path in Path("out").iterdir()}
    assert sorted(name[:2] for name in left) == ["1.", "x."]
    dead = f"{killed.pid:x}"
    others = [f"mine.{dead}.part", f"mine.{os.getpid():x}-00000000.part", "mine.part", f"{dead}-00000000.part.png"]
    for name in others:
        Path("out", name).write_bytes(b"mine")
    locked = Path("out", f"locked.{dead}-00000000.part")
    with locked.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert len(run().done) == 5
    found = {path.name for path in Path("out").iterdir()} - {f"{index}.png" for index in range(5)}
    assert found == {*others, locked.name, *(name for name in left if name.startswith("x."))}
    alive.communicate(b"")
    assert Path("out/x.png").read_bytes() == b""
    for name in (*others, locked.name):
        Path("out", name).unlink()


@pytest.mark.parametrize(
    ("name", "shape", "alpha", "words"),
    [
        ("a.jpg", (2, 40_000, 3), False, "80000x4 pixels do not fit into JPEG, whose limit is 65535; write .png instead"),
        ("a.webp", (9000, 2, 3), False, "4x18000 pixels do not fit into WebP"),
        ("a.avif", (2, 40_000, 1), False, "80000x4 pixels do not fit into AVIF"),
        ("a.bmp", (2, 40_000, 3), False, "80000x4 pixels do not fit into BMP"),
        ("a.jpg", (5, 5, 3), True, "a JPEG cannot hold the picture's alpha"),
    ],
)
def test_what_the_format_cannot_hold_is_told_before_the_network_runs(
    name: str, shape: tuple[int, ...], alpha: bool, words: str
) -> None:
    pixels = np.zeros(shape, np.uint8)
    write_image(Path("in/wide.png"), Picture(pixels, pixels[..., 0] if alpha else None))
    summary = run("in/wide.png", upscaler=FakeUpscaler(lambda _: pytest.fail("the network ran")), output=f"out/{name}")
    assert str(summary.failed[0]).startswith(f"in/wide.png: out/{name}: {words}")
    assert not Path("out").exists()


def test_a_panorama_too_wide_for_its_format(shared: Path) -> None:
    upscaler = FakeUpscaler(lambda _: pytest.fail("the network ran"), scale=4)
    summary = run(str(shared / "faults" / "pano_16400x8.jpg"), upscaler=upscaler)
    assert "65600x32 pixels do not fit into JPEG, whose limit is 65535; write .png instead" in str(summary.failed[0])
