"""What a file is by its first bytes, told before anything is loaded that could read it."""

from __future__ import annotations

import re
from pathlib import Path

from sr_deploy.errors import CheckpointError

_PICTURE = "picture; `sr-deploy upscale` takes it"
_VIDEO = "video; `sr-deploy upscale` takes it"
_ARCHIVE = "archive; unpack it and name the file inside"

_STARTS = (
    (b"\x89PNG", f"a PNG {_PICTURE}"),
    (b"\xff\xd8\xff", f"a JPEG {_PICTURE}"),
    (b"GIF8", f"a GIF {_PICTURE}"),
    (b"II*\0", f"a TIFF {_PICTURE}"),
    (b"MM\0*", f"a TIFF {_PICTURE}"),
    (b"\x1aE\xdf\xa3", f"a Matroska or WebM {_VIDEO}"),
    (b"%PDF", "a PDF document; name the checkpoint itself"),
    (b"\x1f\x8b", f"a gzip {_ARCHIVE}"),
    (b"7z\xbc\xaf", f"a 7z {_ARCHIVE}"),
    (b"Rar!", f"a RAR {_ARCHIVE}"),
    (b"\xfd7zXZ", f"an xz {_ARCHIVE}"),
)
_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1")
_VIDEOS = re.compile(
    rb"\x1aE\xdf\xa3|FLV\x01|OggS|DKIF|YUV4MPEG2 |nut/multimedia|\x06\x0e\+4|0&\xb2u\x8ef\xcf\x11|RIFF....AVI "
    rb"|\0?\0\0\x01[^\0]|....(moov|mdat|wide|ftyp(?!avi|hei|hev|mif|msf))|(.{4}|)(G.{187}G.{187}G|G.{191}G.{191}G)",
    re.DOTALL,
)


def begins_as_video(path: Path) -> bool:
    """Whether a file has the first bytes of a container or an elementary stream of video, whatever its name."""
    try:
        with path.open("rb") as file:
            return _VIDEOS.match(file.read(1024)) is not None
    except OSError:
        return False


def read_start(path: Path) -> bytes:
    """First bytes of a file that may hold weights.

    Raises: CheckpointError with what the file is instead, and the way out.
    """
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except FileNotFoundError as exc:
        raise CheckpointError(f"{path}: no such file; check the path") from exc
    except IsADirectoryError as exc:
        raise CheckpointError(f"{path}: a folder, expected one checkpoint file; name the file inside it") from exc
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be read ({exc.strerror}); check the file's permissions") from exc
    if not start:
        raise CheckpointError(f"{path}: empty (0 bytes); download or copy it again")
    if what := _media(start) or _text(start):
        raise CheckpointError(f"{path}: not a network, but {what}")
    return start


def _media(start: bytes) -> str:
    for begin, what in _STARTS:
        if start.startswith(begin):
            return what
    if start[:4] == b"RIFF":
        return f"a WebP {_PICTURE}" if start[8:12] == b"WEBP" else f"an AVI {_VIDEO}"
    if start[4:8] == b"ftyp":
        return f"an AVIF or HEIC {_PICTURE}" if start[8:12] in _STILL_BRANDS else f"an MP4 or MOV {_VIDEO}"
    if start[:2] == b"BM" and start[6:10] == b"\0\0\0\0":
        return f"a BMP {_PICTURE}"
    return ""


def _text(start: bytes) -> str:
    if b"\0" in start:
        return ""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the weights; run `git lfs pull` in its repository"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "a web page saved under a checkpoint's name; download the file itself again"
    if text.startswith((b"{", b"[")):
        return "a JSON text, often a server's error; download the file itself again"
    return ""
