"""Damaged pictures: what `read_image` gives against what Pillow decodes, and zlib's own word on PNG."""

from __future__ import annotations

import contextlib
import io
import struct
import traceback
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from cases import Case, Kind, Run, Seed
from mutations import damage_bytes
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from structures import PNG, png_chunks

from sr_deploy.errors import SrDeployError
from sr_deploy.pictures import image
from sr_deploy.pictures.picture import Picture

COMMAND_SHARE = 8
"""One of so many goes through the command line too."""

LOSSY = {"jpeg": 6, "webp": 6, "avif": 12, "bmp": 1}
"""How far decoders of one file differ, in steps of 8 bits; five bits of a BMP are made eight in several ways."""

NO_SAY = (
    "not supported",
    "unsupported",
    "unknown",
    "unrecognized",
    "cannot determine",
    "invalid dimensions",
    "not enough image data in memory",
)
"""In what Pillow says of files that are whole, but none of its kinds."""

MANY_KINDS = ("tiff", "bmp", "pnm")
"""Formats of which Pillow identifies some kinds only."""

Levels = NDArray[np.int16]


class Pictures(Kind):
    name = "picture"
    suffixes = frozenset(
        {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".avif", ".bmp", ".gif", ".jp2", ".ppm", ".pgm", ".pnm"}
    )
    largest_seed = 150_000

    def __init__(self) -> None:
        self._read: Picture | None = None

    def make_seeds(self, folder: Path) -> None:
        rows, columns = np.mgrid[0:33, 0:40]
        color = np.stack([rows * 6, columns * 5, (rows + columns) % 7 * 30], axis=-1).astype(np.uint8)
        color[8:20, 10:25] = np.random.default_rng(1).integers(0, 256, (12, 15, 3), np.uint8)
        rgb = Image.fromarray(color)
        rgba = Image.fromarray(np.dstack([color, (columns * 6).astype(np.uint8)]))
        gray, deep = rgb.convert("L"), Image.fromarray((rows * 1900 + columns * 13).astype(np.uint16))
        palette = rgb.quantize(60)
        exif = Image.Exif()
        exif[0x0112] = 6
        for name, one in {
            "rgb": rgb,
            "rgba": rgba,
            "gray": gray,
            "deep": deep,
            "palette": palette,
            "bits": rgb.convert("1"),
        }.items():
            one.save(folder / f"{name}.png")
        for name, one in {"rgb": rgb, "gray": gray}.items():
            one.save(folder / f"{name}.jpg", quality=90, exif=exif)
            one.save(folder / f"{name}.jp2")
            one.save(folder / f"{name}.bmp")
            one.save(folder / f"{name}.ppm")
        rgb.save(folder / "progressive.jpg", progressive=True, subsampling=0, icc_profile=bytes(300))
        for name, one in {"rgb": rgb, "rgba": rgba}.items():
            one.save(folder / f"{name}_lossless.webp", lossless=True)
            one.save(folder / f"{name}.webp", quality=80, exif=exif)
            one.save(folder / f"{name}.avif", quality=80)
        for pressed in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            rgb.save(folder / f"{pressed}.tif", compression=pressed)
        for name, one in {"gray": gray, "rgba": rgba, "deep": deep, "palette": palette}.items():
            one.save(folder / f"{name}.tif", compression="tiff_lzw")
        palette.save(folder / "palette.gif")

    def damage(self, random: Random, seed: Seed, other: Seed) -> tuple[bytes, str, str]:
        data, how = damage_bytes(random, seed.data, other.data)
        return data, how, seed.suffix

    def run(self, path: Path, case: Case) -> Run:
        run = Run(commands=[f"read_image({path.name!r})"])
        self._read = None
        try:
            self._read = image.read_image(path)
        except SrDeployError as exc:
            run.text = f"{exc}\n"
        except Exception as exc:
            run.note(f"traceback, {type(exc).__name__}", traceback.format_exc())
        run.accepted = self._read is not None
        if case.number % COMMAND_SHARE == 0:
            self._upscale(path, run)
        return run

    def _upscale(self, path: Path, run: Run) -> None:
        folder = path.parent / "out"
        code, _ = run.call("upscale", path, "-m", "fast-x2", "-o", f"{folder}/", "--no-progress")
        results = [one for one in folder.glob("*") if one.stem == path.stem] if code == 0 else []
        run.check_leftovers(folder, results)
        if code == 0 and not results:
            run.note("exit 0 and no result")
        if code == 0 and self._read is not None and results:
            height, width = self._read.pixels.shape[:2]
            with contextlib.suppress(UnidentifiedImageError), Image.open(results[0]) as written:
                written.load()
                if written.size != (2 * width, 2 * height):
                    run.note(f"{width}x{height} became {written.width}x{written.height}")

    def judge(self, path: Path, case: Case, run: Run) -> str | None:
        del path, run
        assert self._read is not None
        wrong = zlib_says(case.data) if case.data.startswith(PNG) else ""
        if wrong or not agrees(case.seed.data):
            return wrong or None
        said = against_pillow(self._read, case.data)
        if said and case.data.startswith(PNG) and against_pillow(self._read, plain_png(case.data)) == "":
            return ""
        if said and said.startswith("accepted") and against_pillow(self._read, case.seed.data) == "":
            return ""
        return said


@cache
def agrees(seed: bytes) -> bool:
    """Whether Pillow decodes the undamaged file as we do."""
    try:
        return against_pillow(image.decode_image(seed), seed) == ""
    except SrDeployError:
        return True


def zlib_says(data: bytes) -> str:
    """What is wrong with a PNG's chunks or with their compressed pixels."""
    stream, inflate = b"", zlib.decompressobj()
    for first, behind in png_chunks(data):
        name = data[first + 4 : first + 8]
        if name[0] < ord("a") and zlib.crc32(data[first + 4 : behind - 4]) != int.from_bytes(data[behind - 4 : behind], "big"):
            return f"accepted, the CRC of {name.decode('latin-1')} is wrong"
        if name == b"IEND":
            break
        stream += data[first + 8 : behind - 4] if name == b"IDAT" else b""
    try:
        inflate.decompress(stream)
    except zlib.error as exc:
        return f"accepted, zlib: {exc}"
    return "" if inflate.eof else "accepted, zlib: the pixels are cut off"


def plain_png(data: bytes) -> bytes:
    """With the chunks that pixels need alone, and samples of a transparent color cut to their bits, as the standard has it."""
    parts, depth, color = [PNG], 0, 0
    for first, behind in png_chunks(data):
        name, body = data[first + 4 : first + 8], data[first + 8 : behind - 4]
        if name == b"IHDR":
            depth, color = body[8], body[9]
        if name == b"tRNS" and color in (0, 2):
            samples = struct.unpack(f">{len(body) // 2}H", body[: len(body) // 2 * 2])
            body = struct.pack(f">{len(samples)}H", *(sample & ((1 << depth) - 1) for sample in samples))
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            parts.append(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)))
    return b"".join(parts)


def against_pillow(picture: Picture, data: bytes) -> str | None:
    """Empty where Pillow decodes the same, None where it does not know this kind of file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = by_pillow(data)
    except (KeyError, NotImplementedError, Image.DecompressionBombError, MemoryError):
        return None
    except UnidentifiedImageError:
        return None if picture.format in MANY_KINDS else "accepted, Pillow: cannot identify image file"
    except Exception as exc:
        if any(word in str(exc).lower() for word in NO_SAY):
            return None
        return f"accepted, Pillow: {type(exc).__name__}: {str(exc)[:80]}"
    if theirs is None:
        return None
    ours = levels_of(picture)
    if is_near(ours, theirs.upright, picture):
        return ""
    if b"exif" in data.lower() and any(is_near(ours, turned, picture) for turned in in_all_directions(theirs.stored)):
        return None
    if ours.shape != theirs.upright.shape:
        (height, width), (high, wide) = ours.shape[:2], theirs.upright.shape[:2]
        return f"wrong size in {picture.format}: {width}x{height}, Pillow has {wide}x{high}"
    return f"wrong pixels in {picture.format}"


def in_all_directions(levels: Levels) -> Iterator[Levels]:
    """The eight orientations: readers differ in which damaged metadata they believe."""
    for one in (levels, levels.transpose(1, 0, 2)):
        for across in (one, one[:, ::-1]):
            yield from (across, across[::-1])


def is_near(ours: Levels, theirs: Levels, picture: Picture) -> bool:
    """Whether the levels are equal as far as decoders of this format agree; colors of what cannot be seen do not count.

    Pillow cuts off where it makes 16 bits 8, and where it divides by a premultiplied alpha.
    """
    if ours.shape != theirs.shape:
        return False
    seen = (ours[..., 3:] > 0) & (theirs[..., 3:] > 0)
    difference = np.abs(ours - theirs)
    worst = max(int((difference[..., :3] * seen).max()), int(difference[..., 3].max()))
    rounded = picture.pixels.dtype != np.uint8 or (picture.format == "tiff" and picture.alpha is not None)
    return worst <= LOSSY.get(picture.format, int(rounded))


@dataclass(frozen=True)
class Decoded:
    """(H,W,4) in 0..255, as the file has it, and turned as the file says: damaged metadata may say anything."""

    stored: Levels
    upright: Levels


def by_pillow(data: bytes) -> Decoded | None:
    """None for what Pillow does not turn into 8 bits, and for what moves."""
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        if getattr(opened, "n_frames", 1) > 1 or _has_palette_of_bytes(opened):
            return None
        deep = opened.mode.startswith("I;16")
        if not deep and opened.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
            return None
        try:
            turned = ImageOps.exif_transpose(opened)
        except Exception:  # of damaged metadata, not of pixels
            turned = opened
        return Decoded(
            *(_shifted(one) if deep else np.asarray(one.convert("RGBA")).astype(np.int16) for one in (opened, turned))
        )


def _has_palette_of_bytes(opened: Image.Image) -> bool:
    """Whether a TIFF's colors are all below 256: black by the standard, and 8-bit for libtiff, as old programs wrote them."""
    return opened.mode == "P" and isinstance(opened, TiffImageFile) and max(opened.tag_v2.get(320, (256,))) < 256


def _shifted(deep: Image.Image) -> Levels:
    gray = (np.asarray(deep).astype(np.int32) >> 8).astype(np.int16)
    return np.dstack([gray, gray, gray, np.full_like(gray, 255)])


def levels_of(picture: Picture) -> Levels:
    """(H,W,4) in 0..255."""
    pixels, alpha = picture.pixels, picture.alpha
    opaque = np.full(pixels.shape[:2], 1.0 if pixels.dtype == np.float32 else np.iinfo(pixels.dtype).max, pixels.dtype)
    whole = np.dstack([np.broadcast_to(pixels, (*pixels.shape[:2], 3)), opaque if alpha is None else alpha])
    if whole.dtype == np.float32:
        return np.round(whole.clip(0, 1) * 255).astype(np.int16)
    return (whole >> 8 if whole.dtype == np.uint16 else whole).astype(np.int16)
