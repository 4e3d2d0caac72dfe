"""What a video run has finished so far: a folder of segments beside the target, each with a sidecar that vouches for it.

TARGET.part/
  run.json        what the segments are made of and with
  lock            held by the process that resumes or joins; the system releases it with the process
  000000.mkv      segments, each complete and on the disk before its sidecar is
  000000.json     the sidecar of a segment

A segment counts when it is what its sidecar says; whatever does not count is made again. Whoever makes a segment needs no lock:
its files take their names when they are complete, and who is last wins.
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
from sr_deploy.files import growing, sweep, sync

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

FORMAT = {"format of the journal": 2}
_RUN = "run.json"
_LOCK = "lock"
_CONCLUDED = "concluded"
_OURS = re.compile(r"(\d{6,}|joined)\.")
_SIDECAR = re.compile(r"\d{6,}\.json")


@dataclass(frozen=True)
class SegmentRecord:
    """A finished segment, as its sidecar has it.

    index: its place in the order.
    name: of its file.
    frames: how many it holds.
    first: pts of the first.
    last: pts of the last.
    bytes: size of the file.
    sha256: of the file.
    identity: sha256 of what the run depends on.
    """

    index: int
    name: str
    frames: int
    first: int
    last: int
    bytes: int
    sha256: str
    identity: str


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
                self._start(_whole(identity), replace, fresh)
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
        return segment_path(self.folder, index, suffix)

    def add(self, index: int, path: Path, *, frames: int, first: int, last: int) -> SegmentRecord:
        """`vouch` for a segment, and count it.

        Raises: VideoError when the disk refuses.
        """
        segment = _vouch(path, index, self._identity, frames, first, last)
        self._segments[index] = segment
        return segment

    def close(self) -> None:
        """Let other processes at the folder; closing twice is fine."""
        self._lock.close()

    def conclude(self) -> None:
        """Note that the target is about to take its name, so that whoever finds both knows that the folder is done with."""
        with _own_errors(self.folder):
            (self.folder / _CONCLUDED).touch()
            sync(self.folder)

    def remove(self) -> None:
        """Delete the folder: the target is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, identity: dict[str, Any], replace: bool, fresh: bool) -> None:
        self._identity = _digest(identity)
        header = _header(self.folder / _RUN)
        found = [] if fresh or header is None else [one for one in _sidecars(self.folder) if one.identity == _digest(header)]
        if found and header is not None and not replace:
            _require_same(self.folder, header, identity)
        sweep(self.folder)
        anew = fresh or header != identity
        for path in self.folder.iterdir():
            ours = _OURS.match(path.name)
            if path.name == _CONCLUDED or (ours and (ours[1] == "joined" or (anew and path.suffix != ".part"))):
                path.unlink(missing_ok=True)
        if anew:
            _write(self.folder / _RUN, identity)
        else:
            self._segments = {segment.index: segment for segment in found if _is_intact(self.folder, segment)}


def segment_path(folder: Path, index: int, suffix: str) -> Path:
    """Where the segment of that number belongs."""
    return folder / f"{index:06d}{suffix}"


def vouch(path: Path, index: int, identity: Mapping[str, Any], *, frames: int, first: int, last: int) -> SegmentRecord:
    """Write the sidecar of a segment whose file is complete; both are on the disk when this returns.

    Raises: VideoError when the disk refuses.
    """
    return _vouch(path, index, _digest(_whole(identity)), frames, first, last)


def finished_segment(folder: Path, index: int, identity: Mapping[str, Any]) -> SegmentRecord | None:
    """The segment of that number, where it is there and what its sidecar says."""
    found = _read(_sidecar(segment_path(folder, index, "")))
    known = found is not None and found.identity == _digest(_whole(identity)) and _is_intact(folder, found)
    return found if known else None


def _vouch(path: Path, index: int, identity: str, frames: int, first: int, last: int) -> SegmentRecord:
    with _own_errors(path):
        sync(path)
        sync(path.parent)
        segment = SegmentRecord(index, path.name, frames, first, last, path.stat().st_size, _sha256(path), identity)
        _write(_sidecar(path), asdict(segment))
    return segment


def _whole(identity: Mapping[str, Any]) -> dict[str, Any]:
    """With the format of the journal, as JSON gives it back."""
    whole: dict[str, Any] = json.loads(json.dumps({**FORMAT, **identity}))
    return whole


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def clear_concluded(folder: Path) -> None:
    """Delete the part folder of a target that took its name just before its process was killed."""
    if (folder / _CONCLUDED).exists():
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


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".json")


def _sidecars(folder: Path) -> Iterator[SegmentRecord]:
    """Those that are whole, in order."""
    for path in sorted(folder.iterdir()):
        if _SIDECAR.fullmatch(path.name) and (found := _read(path)):
            yield found


def _read(sidecar: Path) -> SegmentRecord | None:
    """What a sidecar says; None where there is none or it is torn."""
    try:
        return SegmentRecord(**json.loads(sidecar.read_bytes()))
    except (ValueError, TypeError, OSError):
        return None


def _is_intact(folder: Path, segment: SegmentRecord) -> bool:
    path = folder / segment.name
    try:
        return path.stat().st_size == segment.bytes and _sha256(path) == segment.sha256
    except OSError:
        return False


def _header(path: Path) -> dict[str, Any] | None:
    """What a run was begun with; None where there is nothing to trust."""
    try:
        header = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return header if isinstance(header, dict) and header.keys() >= FORMAT.keys() else None


def _write(path: Path, contents: Mapping[str, Any]) -> None:
    with growing(path) as file:
        file.write(json.dumps(contents).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


def _require_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    if details := differences(before, now):
        raise UsageError(
            f"{folder}: holds an unfinished run made differently ({details}); "
            "run it again as it was to continue it, or --overwrite to start anew"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What two identities do not share, in words; empty where they are the same."""
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return "; ".join(f"{key} was {_short(before.get(key))}, now {_short(now.get(key))}" for key in changed)


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
