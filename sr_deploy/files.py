"""Files that are there whole or not at all, through power cuts too, files that others may change meanwhile, and addresses.

Where files for the user stand, too, and how one process at a time makes them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote

if sys.platform == "win32":
    import msvcrt

_POLL = 0.1
_PART = re.compile(r".{0,40}\.(?P<process>[0-9a-f]{1,8})-[0-9a-f]{8}\.part", re.DOTALL)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def write_whole(path: Path, part: Path, contents: bytes) -> None:
    """Write a file that appears under its name when it is complete and on the disk; `part`, beside it, is what it grows as.

    Raises: OSError, with `path` as it was.
    """
    try:
        with part.open("wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class Growing:
    """A new file that takes the name `path` once it is complete; `part` is where it grows, `file` writes it.

    It grows beside `path`, as STEM.PROCESS-RANDOM.part: short, so that any name that fits the file system still does; unique,
    so that two writers never share it; locked, so that `sweep` knows it for one that grows.

    Raises: OSError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.part = path.with_name(f"{path.stem[:40]}.{os.getpid():x}-{secrets.token_hex(4)}.part")
        self.file = self.part.open("xb")
        _lock(self.file)

    def keep(self) -> None:
        """Give the file its name. Raises: OSError, with `path` as it was."""
        self.file.close()
        self.part.replace(self._path)

    def abandon(self) -> None:
        """Remove the file; harmless once it has its name."""
        self.file.close()
        self.part.unlink(missing_ok=True)


@contextlib.contextmanager
def growing(path: Path) -> Iterator[BinaryIO]:
    """A new file to write, which takes the name `path` when the block is left well, and vanishes otherwise.

    Raises: OSError, with `path` as it was.
    """
    grows = Growing(path)
    try:
        yield grows.file
        grows.keep()
    except BaseException:
        grows.abandon()
        raise


@contextlib.contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that takes its name when the block is left well, and vanishes otherwise.

    What stands at `target` is removed once the new one has its name.

    Raises: OSError, with `target` as it was.
    """
    part = target.with_name(f"{target.name}.part-{os.getpid()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        _put_folder_in_place(part, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _put_folder_in_place(part: Path, target: Path) -> None:
    old = target.with_name(f"{target.name}.old-{os.getpid()}")
    had_one = target.exists()
    if had_one:
        target.rename(old)
    try:
        part.rename(target)
    except BaseException:
        if had_one:
            old.rename(target)
        raise
    if had_one:
        shutil.rmtree(old)


def sweep(folder: Path) -> tuple[Path, ...]:
    """Remove what processes of this machine that are dead left in a folder while a file was `growing`; returns what it was.

    Where it is not certain that nobody writes, it stays: on Windows, and where another machine or container holds its lock.
    """
    swept: list[Path] = []
    if sys.platform == "win32":
        return ()
    with contextlib.suppress(OSError):
        for entry in sorted(folder.iterdir()):
            found = _PART.fullmatch(entry.name)
            if found and not entry.is_symlink() and not odd_kind(entry) and not _is_alive(int(found["process"], 16)):
                with contextlib.suppress(OSError), entry.open("rb") as file:
                    if _lock(file):
                        entry.unlink()
                        swept.append(entry)
    return tuple(swept)


def _lock(file: BinaryIO) -> bool:
    """Whether the file is ours until it is closed, or the file system knows no locks."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def alone(lock: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Keep other processes out of blocks of the same lock, a file that is made for it; the system lets go with the process.

    waiting: called once where another process is in such a block; this one waits for it.

    Raises: OSError.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as file:
        told = False
        while not _acquire(file):
            if waiting is not None and not told:
                waiting()
                told = True
            time.sleep(_POLL)
        yield


def _acquire(file: BinaryIO) -> bool:
    """As `_lock`, on Windows too, where nobody can read the file meanwhile."""
    if sys.platform == "win32":
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    return _lock(file)


def cache_folder() -> Path:
    """Where what can be made again is kept for this user."""
    return _user_folder("XDG_CACHE_HOME", Path(".cache"))


def data_folder() -> Path:
    """Where what was fetched for this user stays."""
    return _user_folder("XDG_DATA_HOME", Path("Library/Application Support" if sys.platform == "darwin" else ".local/share"))


def _user_folder(variable: str, usual: Path) -> Path:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get(variable) or Path.home() / usual
    return Path(base) / "sr-deploy"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def odd_kind(path: Path) -> str:
    """What a path names that is no regular file: 'a pipe', 'a folder'; empty for a regular file and where there is nothing."""
    try:
        return _kind(path.stat())
    except OSError:
        return ""


def read_regular(path: Path, most: int | None = None) -> bytearray:
    """The bytes of a regular file, or the first `most` of them. Pipes, sockets and devices are not opened: they may never end.

    Raises: OSError, also for what is no regular file, and for a file that becomes shorter while it is read.
    """
    if kind := _kind(path.stat()):
        raise OSError(errno.EINVAL, f"it is {kind}, expected a regular file", str(path))
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        data = bytearray(size if most is None else min(size, most))
        rest = memoryview(data)
        while rest:
            count = file.readinto(rest)
            if not count:
                raise OSError(errno.EIO, "it became shorter while it was read", str(path))
            rest = rest[count:]
    return data


def _kind(found: os.stat_result) -> str:
    return "" if stat.S_ISREG(found.st_mode) else _KINDS.get(stat.S_IFMT(found.st_mode), "no regular file")


def put_in_place(part: Path, path: Path) -> None:
    """Rename a file that is complete, so that neither its bytes nor its name are lost in a power cut."""
    sync(part)
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if sys.platform == "win32" and path.is_dir():
        return  # folders have no handle there
    handle = os.open(path, os.O_RDONLY if sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Address:
    """A file on a web server. As text it is without user name, password and query, which may be secrets."""

    url: str = field(repr=False)

    @classmethod
    def of(cls, text: str) -> Address | None:
        """The address that a text is; None when it is none."""
        return cls(text) if text.lower().startswith(("http://", "https://")) else None

    def __str__(self) -> str:
        protocol, _, rest = re.split("[?#]", self.url, maxsplit=1)[0].partition("://")
        host, slash, path = rest.partition("/")
        return f"{protocol}://{host.rpartition('@')[2]}{slash}{path}"

    @property
    def name(self) -> str:
        """The last part of its path, as a name for a file."""
        path = str(self).partition("://")[2].partition("/")[2]
        return re.sub(r'[\0\\:*?"<>|]', "_", PurePosixPath(unquote(path)).name) or "video"

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return Path(self.name).stem

    @property
    def suffix(self) -> str:
        """The ending of the name."""
        return Path(self.name).suffix
