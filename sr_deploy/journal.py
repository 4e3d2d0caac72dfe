"""What a video run has finished so far: a folder of segments beside the target, and a journal that vouches for them.

TARGET.part/
  journal.jsonl   first what the segments were made of and with, then one line per finished segment
  lock            held by the process that is at work; the system releases it with the process
  000000.mkv      segments, each complete and on the disk before its line is

A line counts when it is whole, and a segment when it is what its line says; whatever does not count is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from sr_deploy.errors import UsageError, VideoError
from sr_deploy.files import sync

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

JOURNAL_FORMAT = 1
_JOURNAL = "journal.jsonl"
_LOCK = "lock"
_OURS = re.compile(r"(\d{6}|joined)\.")
_CONCLUDED = {"concluded": True}


@dataclass(frozen=True)
class SegmentRecord:
    """A finished segment: its place in the order, its file, and what is in it. first, last: pts."""

    index: int
    name: str
    frames: int
    first: int
    last: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Gap:
    """Segments to make: `count` from number `first` on, None for all to the end; their frames come after the pts `after`."""

    first: int
    count: int | None
    after: int | None


class Journal:
    """The part folder of one target, locked for this process; a context manager that releases it.

    identity: what pixels and packets depend on, as plain values. A folder with segments of another identity is refused, or
    with `replace` begun anew; `fresh` begins anew in any case.

    Raises: UsageError when something of the identity changed; VideoError when another process is at work, or the folder cannot
    be used.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, replace: bool = False, fresh: bool = False) -> None:
        self.folder = folder
        self._segments: dict[int, SegmentRecord] = {}
        with _own_errors(folder):
            self._lock = _locked(folder)
            try:
                self._start(json.loads(json.dumps(identity)), replace, fresh)
            except BaseException:
                self.close()
                raise

    @property
    def segments(self) -> tuple[SegmentRecord, ...]:
        """What is finished, in order, also behind gaps."""
        return tuple(self._segments[index] for index in sorted(self._segments))

    @property
    def frames(self) -> int:
        """How many frames are finished."""
        return sum(segment.frames for segment in self._segments.values())

    def gaps(self) -> Iterator[Gap]:
        """What is missing, in order; the last gap is open, and may turn out to be empty."""
        after: int | None = None
        expected = 0
        for segment in self.segments:
            if segment.index > expected:
                yield Gap(expected, segment.index - expected, after)
            expected, after = segment.index + 1, segment.last
        yield Gap(expected, None, after)

    def path(self, index: int, suffix: str) -> Path:
        """Where the segment of that number belongs."""
        return self.folder / f"{index:06d}{suffix}"

    def add(self, index: int, path: Path, *, frames: int, first: int, last: int) -> SegmentRecord:
        """Vouch for a segment whose file is complete; both are on the disk when this returns.

        Raises: VideoError when the disk refuses.
        """
        with _own_errors(path):
            sync(path)
            sync(self.folder)
            segment = SegmentRecord(index, path.name, frames, first, last, path.stat().st_size, _sha256(path))
            self._append(asdict(segment))
        self._segments[index] = segment
        return segment

    def close(self) -> None:
        """Let other processes at the folder; closing twice is fine."""
        self._lock.close()

    def conclude(self) -> None:
        """Note that the target is about to take its name, so that whoever finds both knows that the folder is done with."""
        with _own_errors(self.folder):
            self._append(_CONCLUDED)

    def remove(self) -> None:
        """Delete the folder: the target is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, identity: dict[str, Any], replace: bool, fresh: bool) -> None:
        header, lines = _read(self.folder / _JOURNAL)
        if header is not None and lines and not fresh and not (replace and header != identity):
            _require_same(self.folder, header, identity)
            self._segments = {line.index: line for line in lines if self._is_intact(line)}
        kept = {segment.name for segment in self._segments.values()}
        for path in self.folder.iterdir():
            if _OURS.match(path.name) and path.name not in kept:
                path.unlink()
        self._rewrite(identity)

    def _is_intact(self, segment: SegmentRecord) -> bool:
        path = self.folder / segment.name
        try:
            return path.stat().st_size == segment.bytes and _sha256(path) == segment.sha256
        except OSError:
            return False

    def _rewrite(self, identity: dict[str, Any]) -> None:
        """The journal without torn and refuted lines, at once in place of the old one."""
        part = self.folder / f"{_JOURNAL}.part"
        lines = [{"format": JOURNAL_FORMAT, "identity": identity}, *map(asdict, self.segments)]
        part.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        sync(part)
        part.replace(self.folder / _JOURNAL)
        sync(self.folder)

    def _append(self, line: dict[str, Any]) -> None:
        with (self.folder / _JOURNAL).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def clear_concluded(folder: Path) -> None:
    """Delete the part folder of a target that took its name just before its process was killed."""
    try:
        concluded = json.loads((folder / _JOURNAL).read_bytes().splitlines()[-1]) == _CONCLUDED
    except (OSError, ValueError, IndexError):
        return
    if concluded:
        with contextlib.suppress(VideoError), _locked(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: Path) -> IO[bytes]:
    """The open lock file; whoever finishes removes the folder, so that the file may be gone by the time it is ours."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _LOCK
        try:
            file = path.open("ab")
        except FileNotFoundError:
            continue
        try:
            _lock(file)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        except (BlockingIOError, PermissionError) as exc:
            file.close()
            raise VideoError(
                f"{folder}: another process is at work on this target; wait for it to end, or stop it, then run this again"
            ) from exc
        file.close()


def _lock(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read(path: Path) -> tuple[dict[str, Any] | None, list[SegmentRecord]]:
    """The identity and the lines up to the first that is torn; None without a header to trust."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return None, []
    segments: list[SegmentRecord] = []
    header: dict[str, Any] | None = None
    with contextlib.suppress(ValueError, TypeError, KeyError):
        header = _header(json.loads(lines[0])) if lines else None
        for line in lines[1:]:
            segments.append(SegmentRecord(**json.loads(line)))  # noqa: PERF401 - those before a torn line count
    return header, segments


def _header(line: dict[str, Any]) -> dict[str, Any]:
    identity = line["identity"]
    if not isinstance(identity, dict):
        raise TypeError("no identity")
    return identity | ({} if line["format"] == JOURNAL_FORMAT else {"format of the journal": line["format"]})


def _require_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [key for key in before | now if before.get(key) != now.get(key)]
    if changed:
        details = "; ".join(f"{key} was {_short(before.get(key))}, now {_short(now.get(key))}" for key in changed)
        raise UsageError(
            f"{folder}: holds an unfinished run made differently ({details}); "
            "run it again as it was to continue it, or --overwrite to start anew"
        )


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    text = "unset" if value is None else str(value)
    return text[:12] if len(text) == 64 and text.isalnum() else text


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _own_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise VideoError(f"{path}: cannot be written ({exc.strerror or exc}); free space or choose another folder") from exc
