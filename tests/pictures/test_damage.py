"""Pixels that their own file calls wrong are refused."""

from __future__ import annotations

import io
import itertools
import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sr_deploy import files
from sr_deploy.errors import ImageError
from sr_deploy.pictures.image import Picture, decode_image, is_animated, is_whole, read_image, write_image

SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[:40, :60], np.uint8(90)), axis=2).astype(np.uint8) * np.uint8(4)
NOISY = np.random.default_rng(1).integers(0, 255, (33, 40, 3), np.uint8)
KINDS = [
    *(("RGB", name) for name in ("tiff_adobe_deflate", "tiff_deflate", "tiff_lzw", "jpeg", "packbits")),
    *(("I;16", name) for name in ("tiff_adobe_deflate", "tiff_lzw")),
    *(("1", name) for name in ("group3", "group4", "tiff_ccitt")),
]


def tiff(mode: str, compression: str, predictor: int = 1) -> bytes:
    picture = (
        Image.fromarray(SMOOTH).convert(mode) if mode != "I;16" else Image.fromarray(SMOOTH[..., 0].astype(np.uint16) * 99)
    )
    file = io.BytesIO()
    picture.save(file, "TIFF", compression=compression, tiffinfo={317: predictor} if predictor > 1 else {})
    return file.getvalue()


def flipped(data: bytes, count: int) -> list[bytes]:
    """The TIFF with one bit of its first strip changed, `count` times."""
    with Image.open(io.BytesIO(data)) as opened:
        (start, *_), (size, *_) = opened.tag_v2[273], opened.tag_v2[279]
    dice, results = random.Random(1), []
    for _ in range(count):
        copy = bytearray(data)
        copy[start + dice.randrange(size)] ^= 1 << dice.randrange(8)
        results.append(bytes(copy))
    return results


def pillow(data: bytes) -> np.ndarray | None:
    with Image.open(io.BytesIO(data)) as opened:
        try:
            return np.asarray(opened.convert("RGB") if opened.mode != "I;16" else opened)
        except OSError:
            return None


@pytest.mark.parametrize("name", ["img_2654.tif", "img_1031.tif"])
def test_a_flipped_bit_in_a_compressed_tiff(shared: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImageError, match=rf"{name}: its pixels are damaged"):
        read_image(shared / "faults" / name)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("mode", "compression"), KINDS)
def test_what_pillow_refuses_is_refused(mode: str, compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = tiff(mode, compression)
    whole = decode_image(data).pixels
    refused = 0
    for damaged in flipped(data, 40):
        reference = pillow(damaged)
        capfd.readouterr()
        try:
            found = decode_image(damaged).pixels
        except ImageError as exc:
            assert "\n" not in str(exc)
            refused += 1
        else:
            assert reference is not None
            if "deflate" in compression:
                assert np.array_equal(found, whole)
        assert capfd.readouterr().err == ""
    assert refused >= {"packbits": 0, "tiff_lzw": 1}.get(compression, 15)


@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_whole_tiffs_pass(mode: str, predictor: int) -> None:
    data = tiff(mode, "tiff_adobe_deflate", predictor)
    assert np.array_equal(decode_image(data).pixels.squeeze(), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize(("compression", "name"), [("zstd", "Zstandard"), ("lzma", "LZMA")])
def test_a_compression_that_cannot_be_decoded_is_named(compression: str, name: str) -> None:
    with pytest.raises(ImageError, match=f"compressed by {name} is not supported; save it with LZW or deflate"):
        decode_image(tiff("RGB", compression))


def test_complaints_are_heard_without_stderr() -> None:
    code = (
        "import os, sys; os.close(2)\n"
        "from sr_deploy.pictures.image import decode_image\n"
        "try: decode_image(sys.stdin.buffer.read())\n"
        "except Exception as exc: print(exc)"
    )
    damaged = flipped(tiff("1", "group4"), 1)[0]
    told = subprocess.run([sys.executable, "-c", code], input=damaged, stdout=subprocess.PIPE, check=True).stdout
    assert b"its pixels are damaged" in told


FORMATS: list[tuple[str, dict[str, object]]] = [
    *((format, {}) for format in ("JPEG2000", "JPEG", "WEBP", "GIF", "AVIF", "PNG")),
    ("WEBP", {"lossless": True}),
]


@pytest.mark.parametrize(("format", "options"), FORMATS)
def test_what_pillow_refuses_of_other_formats_is_refused(
    format: str, options: dict[str, object], capfd: pytest.CaptureFixture[str]
) -> None:
    file = io.BytesIO()
    Image.fromarray(SMOOTH if format != "WEBP" else NOISY).save(file, format, **options)
    data, dice, refused = file.getvalue(), random.Random(7), 0
    for number in range(60):
        damaged = bytearray(data)
        place = dice.randrange(20, len(data))
        if number % 3 == 0:
            damaged[place] ^= 1 << dice.randrange(8)
        elif number % 3 == 1:
            damaged[place : place + 8] = bytes(len(damaged[place : place + 8]))
        else:
            del damaged[place : place + dice.randrange(1, 9)]
        try:
            reference = pillow(bytes(damaged))
        except (OSError, SyntaxError, ValueError, RuntimeError):
            reference = None
        capfd.readouterr()
        try:
            found = decode_image(bytes(damaged)).pixels
        except ImageError:
            refused += 1
        else:
            assert reference is not None
            assert np.abs(found.astype(int) - reference).max() <= 3
        assert capfd.readouterr().err == ""
    assert refused >= 10


def png(mode: str, pieces: list[int], mangle: int) -> bytes:
    """A PNG whose zlib stream is cut at `pieces`, with the byte at `mangle` changed and every CRC right."""
    file = io.BytesIO()
    Image.fromarray(SMOOTH).convert(mode).save(file, "PNG")
    data = file.getvalue()
    chunks, position, stream = [], 8, b""
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        position += 12 + length
        if kind != b"IDAT":
            chunks.append((kind, body))
            continue
        stream += body
    damaged = bytearray(stream)
    damaged[mangle] ^= 16
    edges = [0, *(len(damaged) + piece for piece in pieces), len(damaged)]
    bodies = [bytes(damaged[start:stop]) for start, stop in itertools.pairwise(edges)]
    chunks[-1:-1] = [(b"IDAT", body) for body in bodies]
    packed = [struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks]
    return data[:8] + b"".join(packed)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
@pytest.mark.parametrize("pieces", [[], [-4], [-2, -2]])
def test_a_wrong_checksum_of_zlib_in_a_png(mode: str, pieces: list[int]) -> None:
    """Also where it has a chunk of its own, which decoders never read."""
    for byte in (-1, -4):
        with pytest.raises(ImageError, match=r"its pixels are damaged \((?:IDAT: )?incorrect data check\)"):
            decode_image(png(mode, pieces, byte))


# ---- files that are none, and files that others change meanwhile


def test_pipes_devices_and_sockets_are_neither_read_nor_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "a.png"
    os.mkfifo(pipe)
    for path, kind in ((pipe, "a pipe"), (Path("/dev/zero"), "a device"), (tmp_path, "a folder")):
        with pytest.raises(ImageError, match=f"cannot be read .*it is {kind}"):
            read_image(path)
        assert not is_whole(path)
        assert not is_animated(path)
    with pytest.raises(ImageError, match="cannot be written, it is a pipe"):
        write_image(pipe, Picture(SMOOTH))
    assert pipe.is_fifo()


@pytest.mark.parametrize("suffix", [".gif", ".avif", ".png"])
def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(SMOOTH).save(path)
    size = path.stat().st_size
    monkeypatch.setattr(files.os, "fstat", lambda _: SimpleNamespace(st_size=size + 9000))
    with pytest.raises(ImageError, match=r"cannot be read .*it became shorter while it was read"):
        read_image(path)
    assert not is_whole(path)
    assert not is_animated(path)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif"])
@pytest.mark.parametrize("count", [1, 3])
def test_animations_are_known(tmp_path: Path, suffix: str, count: int) -> None:
    frames = [Image.fromarray(np.roll(SMOOTH, 9 * index, 1)) for index in range(count)]
    path = tmp_path / f"a{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], icc_profile=random.Random(0).randbytes(90_000))
    assert is_animated(path) == (count > 1)


def test_a_fourth_channel_without_a_meaning_is_no_alpha() -> None:
    file = io.BytesIO()
    Image.fromarray(NOISY).convert("RGBA").save(file, "TIFF")
    entry, unsaid = (struct.pack("<HHII", 338, 3, 1, meaning) for meaning in (2, 0))
    picture = decode_image(file.getvalue().replace(entry, unsaid))
    assert np.array_equal(picture.pixels, NOISY)
    assert picture.alpha is None
    assert picture.lost == ("channel without a meaning",)


def ifd_entry(data: bytes, tag: int) -> int:
    """Where the entry of a tag begins, in a little-endian TIFF with one directory."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    places = range(start + 2, start + 2 + 12 * count, 12)
    return next(place for place in places if struct.unpack_from("<H", data, place)[0] == tag)


def retagged(data: bytes, tag: int, value: int) -> bytes:
    copy = bytearray(data)
    struct.pack_into("<H", copy, ifd_entry(data, tag) + 8, value)
    return bytes(copy)


def test_a_tiff_with_fewer_strips_than_its_size_needs() -> None:
    whole = tiff("RGB", "raw")
    assert decode_image(whole).pixels.shape == SMOOTH.shape
    for tag, value in ((257, 4 * SMOOTH.shape[0]), (284, 2)):
        with pytest.raises(ImageError, match=r"its pixels are damaged .*StripOffsets"):
            decode_image(retagged(whole, tag, value))


def test_a_tiff_with_more_places_of_strips_than_lengths() -> None:
    whole = tiff("RGB", "raw")
    copy = bytearray(whole)
    struct.pack_into("<I", copy, ifd_entry(whole, 273) + 4, 3)
    with pytest.raises(ImageError, match="places and lengths of its strips differ"):
        decode_image(bytes(copy))


def test_a_jpeg_with_a_second_scan_of_the_same_color() -> None:
    file = io.BytesIO()
    Image.fromarray(SMOOTH[..., 0]).save(file, "JPEG")
    whole = file.getvalue()
    assert decode_image(whole).pixels.shape == (40, 60, 1)
    scan = whole[whole.index(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match="coded twice"):
        decode_image(whole[:-2] + scan + whole[-2:])
    progressive = io.BytesIO()
    Image.fromarray(SMOOTH).save(progressive, "JPEG", progressive=True)
    assert decode_image(progressive.getvalue()).pixels.shape == SMOOTH.shape


@pytest.mark.parametrize("moved", [b"tRNS", b"IDAT"])
def test_a_png_whose_palette_comes_too_late(moved: bytes) -> None:
    picture = Image.fromarray(SMOOTH[..., 0] // 4).convert("P")
    file = io.BytesIO()
    picture.save(file, "PNG", **({"transparency": 0} if moved == b"tRNS" else {}))
    chunks = {}
    data, place = file.getvalue(), 8
    while place < len(data):
        behind = place + 12 + int.from_bytes(data[place : place + 4], "big")
        chunks[data[place + 4 : place + 8]] = data[place:behind]
        place = behind
    names = [name for name in chunks if name != b"PLTE"]
    names.insert(names.index(moved) + 1, b"PLTE")
    with pytest.raises(ImageError, match=f"{moved.decode()} comes before its palette"):
        decode_image(data[:8] + b"".join(chunks[name] for name in names))


def test_a_bmp_header_of_no_known_length() -> None:
    file = io.BytesIO()
    Image.fromarray(SMOOTH).save(file, "BMP")
    data = bytearray(file.getvalue())
    struct.pack_into("<I", data, 14, 1 << 20)
    with pytest.raises(ImageError, match="BMP header is not valid"):
        decode_image(bytes(data))


@pytest.mark.parametrize("offset", [0, 14, 53])
def test_the_pixels_of_a_bmp_do_not_lie_in_its_header(offset: int) -> None:
    file = io.BytesIO()
    Image.fromarray(SMOOTH).save(file, "BMP")
    data = bytearray(file.getvalue())
    struct.pack_into("<I", data, 10, offset)
    with pytest.raises(ImageError, match="BMP header is not valid"):
        decode_image(bytes(data))


@pytest.mark.parametrize("depth", [1, 4, 8])
def test_the_colors_of_a_bmp_come_before_its_pixels(depth: int) -> None:
    file = io.BytesIO()
    (Image.fromarray(SMOOTH).convert("1") if depth == 1 else Image.fromarray(SMOOTH).quantize(16)).save(file, "BMP")
    data = bytearray(file.getvalue())
    assert decode_image(bytes(data)).pixels.shape[:2] == SMOOTH.shape[:2]
    struct.pack_into("<I", data, 10, 54 + 4)
    with pytest.raises(ImageError, match="colors of the BMP reach into its pixels"):
        decode_image(bytes(data))


def test_a_webp_that_claims_too_much() -> None:
    file = io.BytesIO()
    Image.fromarray(SMOOTH).save(file, "WEBP", lossless=True)
    data = bytearray(file.getvalue())
    place = data.index(b"VP8L") + 9
    (bits,) = struct.unpack_from("<I", data, place)
    struct.pack_into("<I", data, place, bits | 0xFFFFFFF)
    with pytest.raises(ImageError, match=r"more than 178 million pixels|cut off|damaged"):
        decode_image(bytes(data))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_claims_more_than_its_bytes_can_hold(progressive: bool) -> None:
    file = io.BytesIO()
    Image.new("L", (2000, 1500)).save(file, "JPEG", progressive=progressive, quality=1, optimize=True)
    data = bytearray(file.getvalue())
    assert decode_image(bytes(data)).pixels.shape == (1500, 2000, 1)
    struct.pack_into(">HH", data, data.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5, 40000, 40000)
    with pytest.raises(ImageError, match="claims 40000x40000 pixels"):
        decode_image(bytes(data))


def jp2(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG2000", **options)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"tile_size": (16, 16)}, {"no_jp2": True}, {"plt": True}, {"num_resolutions": 2}])
@pytest.mark.parametrize("pixels", [NOISY, NOISY[..., 0]])
def test_channels_tiles_and_boxes_of_a_jp2_that_contradict_each_other(pixels: np.ndarray, options: dict[str, object]) -> None:
    data = jp2(pixels, **options)
    np.testing.assert_array_equal(decode_image(data).pixels.squeeze(), pixels)
    begin = data.index(b"\xff\x4f\xff\x51")
    deep = bytearray(data)
    deep[begin + 42 + 3 * (pixels.ndim == 3)] ^= 2
    with pytest.raises(ImageError, match="several depths" if pixels.ndim == 3 else r"6-bit|6 bits|damaged|contradict"):
        decode_image(bytes(deep))
    short = bytearray(data)
    short[data.index(b"\xff\x90\x00\x0a") + 9] ^= 4
    with pytest.raises(ImageError, match=r"tiles do not end where the JPEG 2000 does|damaged|cut"):
        decode_image(bytes(short))
    with pytest.raises(ImageError, match=r"another picture follows|tiles do not end"):
        decode_image(data + data)
    if not options.get("no_jp2"):
        with pytest.raises(ImageError, match="another picture follows"):
            decode_image(data + b"\0\0\0\x14ftypavif\0\0\0\0avif")


@pytest.mark.parametrize(("place", "value"), [(0, 1), (7, 9), (9, 1), (9, 255), (10, 3), (11, 255), (11, 7)])
def test_the_two_headers_of_a_jp2_agree(place: int, value: int) -> None:
    data = bytearray(jp2(NOISY))
    data[data.index(b"ihdr") + 4 + place] = value
    if (place, value) in ((10, 255), (11, 7)):
        np.testing.assert_array_equal(decode_image(bytes(data)).pixels, NOISY)
        return
    with pytest.raises(ImageError, match="headers of the JPEG 2000 contradict each other"):
        decode_image(bytes(data))


@pytest.mark.parametrize(("pixels", "space"), [(NOISY, 17), (NOISY[..., 0], 16), (NOISY[..., 0], 18)])
def test_the_colors_that_a_jp2_names_are_those_that_it_has(pixels: np.ndarray, space: int) -> None:
    data = bytearray(jp2(pixels))
    np.testing.assert_array_equal(decode_image(bytes(data)).pixels.squeeze(), pixels)
    data[data.index(b"colr") + 10] = space
    with pytest.raises(ImageError, match="headers of the JPEG 2000 contradict each other"):
        decode_image(bytes(data))


@pytest.mark.parametrize("colors", [1, 255, 257])
def test_a_palette_of_a_tiff_has_all_its_colors(colors: int) -> None:
    file = io.BytesIO()
    Image.fromarray(NOISY).quantize(200).save(file, "TIFF")
    data = bytearray(file.getvalue())
    place = data.index(struct.pack("<HHI", 320, 3, 768))
    data[place + 4 : place + 8] = struct.pack("<I", colors * 3)
    with pytest.raises(ImageError, match="its palette is not of 256 colors"):
        decode_image(bytes(data))


def _entry(data: bytes, tag: int) -> int:
    """Where the entry of a tag begins in a little-endian TIFF."""
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    places = range(directory + 2, directory + 2 + 12 * count, 12)
    return next(place for place in places if struct.unpack_from("<H", data, place) == (tag,))


def _tiff(mode: str) -> bytearray:
    file = io.BytesIO()
    Image.fromarray(NOISY).convert(mode).save(file, "TIFF")
    return bytearray(file.getvalue())


@pytest.mark.parametrize(("left", "twice"), [(279, 320), (259, 258), (278, 273)])
def test_a_tag_that_pixels_need_is_not_there_twice(left: int, twice: int) -> None:
    data = _tiff("P")
    struct.pack_into("<H", data, _entry(data, left), twice)
    with pytest.raises(ImageError, match=f"tag {twice} is there twice"):
        decode_image(bytes(data))


@pytest.mark.parametrize("tag", [256, 258, 259, 262, 273, 277, 279, 338])
@pytest.mark.parametrize("kind", [2, 7, 11])
def test_a_tag_that_pixels_need_holds_numbers(tag: int, kind: int) -> None:
    data = _tiff("RGBA")
    struct.pack_into("<H", data, _entry(data, tag) + 2, kind)
    with pytest.raises(ImageError, match=f"tag {tag} holds no numbers"):
        decode_image(bytes(data))


def test_a_palette_image_of_samples_too_large_for_any_palette() -> None:
    data = _tiff("P")
    struct.pack_into("<HII", data, _entry(data, 258) + 2, 4, 1, 1 << 31)
    with pytest.raises(ImageError, match="2147483648-bit integer samples is not supported"):
        decode_image(bytes(data))


def test_uncompressed_ycbcr_tells_its_subsampling() -> None:
    data = _tiff("RGB")
    struct.pack_into("<H", data, _entry(data, 262) + 8, 6)
    with pytest.raises(ImageError, match="does not tell its chroma subsampling"):
        decode_image(bytes(data))


def test_a_gif_that_claims_too_much() -> None:
    file = io.BytesIO()
    Image.fromarray(SMOOTH).quantize(60).save(file, "GIF")
    data = bytearray(file.getvalue())
    struct.pack_into("<HH", data, 6, 15144, 26467)
    with pytest.raises(ImageError, match="claims 15144x26467 pixels"):
        decode_image(bytes(data))


def test_the_flattest_gif_is_no_claim() -> None:
    file = io.BytesIO()
    Image.new("P", (2000, 2000)).save(file, "GIF")
    assert decode_image(file.getvalue()).pixels.shape[:2] == (2000, 2000)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "gif", "bmp", "avif", "jp2", "ppm"])
def test_the_first_bytes_of_a_picture_do_not_move(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"head.{suffix}"
    Image.fromarray(NOISY).convert("RGBA" if suffix == "webp" else "RGB").save(path)
    data = path.read_bytes()
    for count in range(64):
        path.write_bytes(data[:count])
        assert not is_animated(path)
