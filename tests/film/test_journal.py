from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sr_deploy.errors import UsageError, VideoError
from sr_deploy.files import Growing, growing
from sr_deploy.film.identity import source_identity
from sr_deploy.film.journal import FORMAT, Gap, Journal, clear_concluded, vouch
from sr_deploy.video.input import input_of

MADE_WITH: dict[str, Any] = {"model": "a" * 64, "encoding": {"codec": "libx264", "crf": 17}, "options": [["a", "b"]]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "é 漢字 [x] 'q'.mkv.part"


def open_journal(folder: Path, **changes: Any) -> Journal:
    begin = {name: changes.pop(name) for name in ("fresh", "replace") if name in changes}
    return Journal(folder, MADE_WITH | changes, **begin)


def fill(folder: Path, count: int = 4) -> None:
    with open_journal(folder) as journal:
        for index in range(count):
            add(journal, index)


def add(journal: Journal, index: int) -> None:
    path = journal.path(index, ".mkv")
    path.write_bytes(bytes([index]) * 100)
    journal.add(index, path, frames=10, first=index * 10, last=index * 10 + 9)


def gaps(folder: Path) -> list[Gap]:
    with open_journal(folder) as journal:
        return list(journal.gaps())


def test_everything_is_missing_at_first(folder: Path) -> None:
    with open_journal(folder) as journal:
        assert list(journal.gaps()) == [Gap(0, None, None)]
        assert (journal.segments, journal.frames) == ((), 0)


def test_finished_segments_are_there_again(folder: Path) -> None:
    fill(folder)
    with open_journal(folder) as journal:
        assert [segment.name for segment in journal.segments] == ["000000.mkv", "000001.mkv", "000002.mkv", "000003.mkv"]
        assert journal.frames == 40
        assert list(journal.gaps()) == [Gap(4, None, 39)]
    assert json.loads((folder / "run.json").read_text()) == {"format of the journal": 2} | MADE_WITH
    assert json.loads((folder / "000001.json").read_text())["sha256"] == _sha256(bytes([1]) * 100)


def _sha256(data: bytes) -> str:
    command = ["sha256sum", "-"]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout.decode().split()[0]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_sidecar_makes_its_segment_missing(folder: Path, cut: int) -> None:
    fill(folder)
    sidecar = folder / "000003.json"
    sidecar.write_bytes(sidecar.read_bytes()[: -1 - cut])
    assert gaps(folder) == [Gap(3, None, 29)]
    fill(folder, 5)
    assert gaps(folder) == [Gap(5, None, 49)]


@pytest.mark.parametrize("damage", ["changed", "short", "gone"])
def test_a_segment_that_is_not_what_its_line_says_is_missing(folder: Path, damage: str) -> None:
    fill(folder)
    for name in ("000000.mkv", "000002.mkv"):
        path = folder / name
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(b"x" * 100 if damage == "changed" else path.read_bytes()[:50])
    assert gaps(folder) == [Gap(0, 1, None), Gap(2, 1, 19), Gap(4, None, 39)]


def test_a_gap_can_be_filled(folder: Path) -> None:
    fill(folder)
    (folder / "000001.mkv").unlink()
    with open_journal(folder) as journal:
        add(journal, 1)
        assert [segment.index for segment in journal.segments] == [0, 1, 2, 3]
    assert gaps(folder) == [Gap(4, None, 39)]


def test_a_segment_without_a_sidecar_does_not_count(folder: Path) -> None:
    fill(folder)
    (folder / "000004.mkv").write_bytes(b"its sidecar is still to come")
    (folder / "notes.txt").write_text("of somebody")
    assert gaps(folder) == [Gap(4, None, 39)]
    with open_journal(folder, fresh=True):
        assert not list(folder.glob("0*"))
        assert (folder / "notes.txt").exists()


def test_what_a_dead_process_was_writing_goes_and_what_a_living_one_writes_stays(folder: Path) -> None:
    fill(folder)
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = folder / f"000004.{dead.pid:x}-0123abcd.part"
    left.write_bytes(b"half")
    grows = Growing(folder / "000005.mkv")
    assert gaps(folder) == [Gap(4, None, 39)]
    assert not left.exists()
    assert grows.part.exists()
    grows.abandon()


def test_a_segment_of_another_run_does_not_count(folder: Path) -> None:
    fill(folder)
    path = folder / "000002.mkv"
    vouch(path, 2, {"model": "b"}, frames=10, first=20, last=29)
    assert gaps(folder) == [Gap(2, 1, 19), Gap(4, None, 39)]


def test_who_finishes_last_wins(folder: Path) -> None:
    fill(folder)
    with Growing(folder / "000001.mkv").file as one, Growing(folder / "000001.mkv").file as other:
        assert one.name != other.name
    for content in (b"first", b"second"):
        with growing(folder / "000001.mkv") as file:
            file.write(content)
        vouch(folder / "000001.mkv", 1, MADE_WITH, frames=10, first=10, last=19)
    assert gaps(folder) == [Gap(4, None, 39)]


@pytest.mark.parametrize("content", [b"", b"{", b"[]\n", b'{"model": 2}\n', b"\xff\n"])
def test_a_journal_without_a_header_counts_for_nothing(folder: Path, content: bytes) -> None:
    fill(folder)
    (folder / "run.json").write_bytes(content)
    assert gaps(folder) == [Gap(0, None, None)]


def test_what_changed_is_named(folder: Path) -> None:
    fill(folder)
    with pytest.raises(UsageError, match=r"model was aaaaaaaaaaaa, now bbbbbbbbbbbb.*--overwrite") as caught:
        open_journal(folder, model="b" * 64)
    assert "encoding" not in str(caught.value)
    with pytest.raises(UsageError, match="encoding was codec libx264, crf 17, now codec libx264, crf 20"):
        open_journal(folder, encoding={"codec": "libx264", "crf": 20})
    with pytest.raises(UsageError, match="size was unset, now 4k"):
        open_journal(folder, size="4k")
    assert gaps(folder) == [Gap(4, None, 39)], "a refused run changes nothing"


def test_another_format_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(folder)
    monkeypatch.setitem(FORMAT, "format of the journal", 9)
    with pytest.raises(UsageError, match="format of the journal was 2, now 9"):
        open_journal(folder)


def test_a_fresh_start_forgets(folder: Path) -> None:
    fill(folder)
    with open_journal(folder, fresh=True, model="b") as journal:
        assert list(journal.gaps()) == [Gap(0, None, None)]
    assert not list(folder.glob("*.mkv"))


def test_replacing_begins_anew_only_what_changed(folder: Path) -> None:
    fill(folder)
    with open_journal(folder, replace=True) as journal:
        assert journal.frames == 40
    with open_journal(folder, replace=True, model="b") as journal:
        assert journal.frames == 0


def test_what_a_kill_after_the_last_step_leaves_is_cleared(folder: Path) -> None:
    fill(folder)
    clear_concluded(folder)
    assert folder.exists()
    with open_journal(folder) as journal:
        journal.conclude()
        clear_concluded(folder)
        assert folder.exists(), "its process is still at work"
    clear_concluded(folder)
    assert not folder.exists()
    clear_concluded(folder)


def test_a_concluded_folder_without_its_target_goes_on(folder: Path) -> None:
    fill(folder)
    with open_journal(folder) as journal:
        journal.conclude()
    assert gaps(folder) == [Gap(4, None, 39)]


def test_two_at_once(folder: Path) -> None:
    with open_journal(folder):
        with pytest.raises(VideoError, match="another process is at work") as caught:
            open_journal(folder)
        assert "\n" not in str(caught.value)
    with open_journal(folder):
        pass


def _hold(folder: Path, ready: Any) -> None:
    with open_journal(folder) as journal:
        add(journal, 0)
        ready.send(True)
        ready.recv()


def test_the_lock_ends_with_its_process(folder: Path) -> None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(folder, theirs))
    process.start()
    assert ours.recv()
    with pytest.raises(VideoError, match="another process"):
        open_journal(folder)
    process.kill()
    process.join()
    assert gaps(folder) == [Gap(1, None, 9)]


def test_a_finished_folder_is_gone(folder: Path) -> None:
    fill(folder)
    with open_journal(folder) as journal:
        journal.remove()
    assert not folder.exists()
    assert gaps(folder) == [Gap(0, None, None)]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VideoError, match=r"cannot be written \(Not a directory\)"):
        open_journal(tmp_path / "file" / "part")


def test_another_file_has_another_identity(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    path.write_bytes(b"a" * (3 << 20))
    first = source_identity(input_of(path))
    assert source_identity(input_of(path)) == first
    os.utime(path, ns=(1, 1))
    moved = source_identity(input_of(path))
    assert moved != first
    path.write_bytes(b"a" * ((3 << 20) - 1) + b"b")
    os.utime(path, ns=(1, 1))
    assert source_identity(input_of(path)) != moved
    path.write_bytes(b"")
    assert source_identity(input_of(path))["bytes"] == 0
    with pytest.raises(VideoError, match=r"gone.mkv: cannot be read \(No such file"):
        source_identity(input_of(tmp_path / "gone.mkv"))


def test_numbered_pictures_are_known_by_all_of_them(tmp_path: Path) -> None:
    pattern = tmp_path / "[x] frame_%03d.png"
    for number in range(3):
        (tmp_path / f"[x] frame_{number:03}.png").write_bytes(b"a")
    first = source_identity(input_of(pattern))
    assert first["pictures"] == 3
    os.utime(tmp_path / "[x] frame_001.png", ns=(1, 1))
    assert source_identity(input_of(pattern)) != first


def test_only_what_is_on_the_disk_has_a_sidecar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    with open_journal(folder) as journal:
        monkeypatch.setattr(os, "fsync", lambda handle: order.append(Path(f"/proc/self/fd/{handle}").readlink().suffix))
        add(journal, 0)
    assert order == [".mkv", ".part", ".part", ".part"], "the segment, the folder, the sidecar, the folder"
