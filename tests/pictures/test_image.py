from __future__ import annotations

import errno
import functools
import io
import os
import struct
import threading
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from sr_deploy.errors import ImageError, UsageError
from sr_deploy.pictures import image as image_module
from sr_deploy.pictures.formats import jpeg
from sr_deploy.pictures.formats.exif import Field, exif_orientation, pack_ifd, xmp_orientation
from sr_deploy.pictures.image import (
    READABLE_SUFFIXES,
    WRITABLE_SUFFIXES,
    Metadata,
    Picture,
    file_lost_much,
    is_whole,
    read_image,
    write_image,
)
from sr_deploy.pictures.resample import resample

ODD = Path(__file__).parents[3] / "shared" / "images" / "odd"
ODD_FILES = sorted(str(path.relative_to(ODD)) for path in ODD.rglob("*") if path.is_file()) if ODD.is_dir() else []

REFUSED = {
    "10ct_32bit_128.tiff": "no stated color space",
    "hopper.Lab.tif": "CIELAB",
    "chi.gif": "31 frames",
    "dispose_bgnd_rgba.gif": "5 frames",
    "dispose_op_none.png": "3 frames",
    "iss634.webp": "42 frames",
    "newtonscradle.gif": "36 frames",
    "no_palette.gif": "2 frames",
    "multipage.tiff": "3 pages",
    "broken/bad_iCCP.png": "checksum in IHDR",
    "broken/badadler.png": "incorrect data check",
    "broken/badcrc.png": "checksum in IDAT",
    "broken/broken.png": "damaged at byte 8",
    "broken/broken_data_stream.png": "checksum in IDAT",
    "broken/cut_photo.jpg": "cut off",
    "broken/cut_photo.png": "cut off",
    "broken/decompression_bomb.gif": "cut off or damaged",
    "broken/empty.png": "empty",
    "broken/huge_IDAT.png": "cut off",
    "broken/huge_header_65000x65000.png": "65000x65000",
    "broken/seek_too_large.tif": "outside of the file",
    "broken/text_named.png": "no picture",
    "broken/truncated_end_chunk.png": "cut off",
    "broken/truncated_image.png": "cut off",
    "broken/truncated_jpeg.jpg": "cut off",
    "broken/unknown_compression_method.png": "checksum in iCCP",
    "broken/zero_width.gif": "0x32",
}
# Inks are multiplied with one rounding less; 5 bits are stretched to 8 with the other rounding.
TOLERANCE = {"pil_sample_cmyk.jpg": 2, "tiff_strip_cmyk_jpeg.tif": 1, "rgb16-565.bmp": 1}


def noise(dtype: Any, channels: int, height: int = 37, width: int = 53, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (height, width, channels) if channels else (height, width)
    if dtype == np.float32:
        return rng.normal(0.5, 1, shape).astype(np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (height + width)], axis=2).astype(np.uint8)


def save(path: Path, picture: Image.Image, **options: Any) -> Path:
    picture.save(path, **options)
    return path


@functools.cache
def srgb_profile() -> bytes:
    """It holds the second in which it was made."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def sample_metadata(orientation: int = 1) -> Metadata:
    exif = Image.Exif()
    exif[271] = "Maker"
    exif[274] = orientation
    exif.get_ifd(34665).update({36867: "2020:01:02 03:04:05", 40962: 11, 40963: 12, 33434: (1, 250)})
    exif.get_ifd(34853).update({1: "N", 2: (48.0, 8.0, 15.0)})
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="%d"/></x:xmpmeta>' % orientation
    return Metadata(exif.tobytes()[6:], srgb_profile(), xmp)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


# ---- the odd pictures, with Pillow as the judge


@pytest.mark.parametrize("name", ODD_FILES or [pytest.param("", marks=pytest.mark.skip(reason="no test data"))])
def test_odd_picture_is_right_or_refused(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = ODD / name
    if name in REFUSED:
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert str(path) in str(caught.value)
        assert REFUSED[name] in str(caught.value)
        assert "\n" not in str(caught.value)
    else:
        picture = read_image(path)
        assert is_whole(path)
        assert picture.pixels.flags.c_contiguous
        if name != "broken/png_decompression_dos.png":
            compare_with_pillow(picture, path, TOLERANCE.get(name, 0))
    assert capfd.readouterr().err == ""


def compare_with_pillow(picture: Picture, path: Path, tolerance: int) -> None:
    with Image.open(path) as opened:
        reference = ImageOps.exif_transpose(opened)
        reference.load()
    pixels, alpha = picture.pixels.astype(int), picture.alpha
    if reference.mode.startswith("I;16"):
        expected = np.asarray(reference).astype(int)[..., None]
        opacity = np.where(expected[..., 0] == reference.info.get("transparency"), 0, 65535)
    else:
        rgba = np.asarray(reference.convert("RGBA")).astype(int)
        expected, opacity = rgba[..., :3], rgba[..., 3]
        if picture.pixels.dtype == np.uint16:
            pixels, alpha = pixels >> 8, None if alpha is None else alpha >> 8
    assert pixels.shape[:2] == expected.shape[:2]
    assert ((alpha if alpha is not None else opacity.max()) == opacity).all()
    difference = np.abs(pixels - expected)
    if path.name == "tiff_16bit_RGBa.tiff":  # Pillow divides the high bytes only: right where alpha is large.
        difference, tolerance = difference * (opacity > 128)[..., None], 3
    assert (difference * (opacity > 0)[..., None]).max() <= tolerance


@pytest.mark.parametrize("orientation", range(3, 9))
def test_exif_orientations_show_the_same_picture(shared: Path, orientation: int) -> None:
    folder = shared / "images" / "odd" / "exif"
    first = read_image(folder / "hopper_orientation_2.jpg")
    other = read_image(folder / f"hopper_orientation_{orientation}.jpg")
    assert np.abs(first.pixels.astype(int) - other.pixels).mean() < 6
    assert exif_orientation(other.metadata.exif) == 1


def test_gray_jpeg_stays_gray_with_its_profile(shared: Path) -> None:
    picture = read_image(shared / "images/odd/wolf_gray.jpg")
    assert picture.pixels.shape[2] == 1
    assert picture.metadata.icc is not None
    assert picture.metadata.icc[16:20] == b"GRAY"


def test_cmyk_profile_does_not_stay_with_rgb_pixels(shared: Path, tmp_path: Path) -> None:
    for name in ("pil_sample_cmyk.jpg", "tiff_strip_cmyk_jpeg.tif"):
        assert read_image(shared / "images/odd" / name).metadata.icc is None
    picture = Picture(noise(np.uint8, 3), metadata=Metadata(icc=srgb_profile()[:16] + b"CMYK" + srgb_profile()[20:]))
    assert write_image(tmp_path / "a.png", picture) == ("ICC profile",)
    assert read_image(tmp_path / "a.png").metadata.icc is None


def test_content_decides_the_format(shared: Path) -> None:
    assert read_image(shared / "images/odd/jpeg_named.png").format == "jpeg"


def test_a_large_profile_is_joined(shared: Path) -> None:
    path = shared / "images/odd/icc_profile_big.jpg"
    with Image.open(path) as opened:
        assert read_image(path).metadata.icc == opened.info["icc_profile"]


# ---- kinds of files made here


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16", "F", "CMYK"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_tiff_kinds(tmp_path: Path, mode: str, compression: str | None) -> None:
    rgba = Image.fromarray(noise(np.uint8, 4))
    if mode == "I;16":
        source = Image.fromarray(noise(np.uint16, 0))
    elif mode == "F":
        source = Image.fromarray(noise(np.float32, 0) * 9)
    else:
        source = rgba.convert("RGB").convert(mode) if mode != "RGBA" else rgba
    path = save(tmp_path / "a.tif", source, compression=compression)
    picture = read_image(path)
    expected = np.asarray(source if mode in ("L", "RGBA", "I;16", "F") else source.convert("RGB"))
    expected = expected if expected.ndim == 3 else expected[..., None]
    found = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    assert np.abs(found.astype(float) - expected).max() <= (1 if mode == "CMYK" else 0)
    assert found.dtype == (expected.dtype if expected.dtype != bool else np.uint8)


def make_tiff(path: Path, planes: list[bytes], bits: int, photometric: int, samples: int, planar: int) -> None:
    offsets = [8 + sum(map(len, planes[:index])) for index in range(len(planes))]
    shorts = {258: [bits] * samples, 259: [1], 262: [photometric], 277: [samples], 284: [planar]}
    if bits == 32:
        shorts[339] = [3] * samples
    longs = {256: [16], 257: [12], 273: offsets, 278: [12], 279: [len(plane) for plane in planes]}
    fields = [Field(tag, 3, len(v), struct.pack(f"<{len(v)}H", *v)) for tag, v in shorts.items()]
    fields += [Field(tag, 4, len(v), struct.pack(f"<{len(v)}I", *v)) for tag, v in longs.items()]
    end = offsets[-1] + len(planes[-1])
    path.write_bytes(b"II*\0" + struct.pack("<I", end) + b"".join(planes) + pack_ifd(tuple(fields), end))


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<f4"])
@pytest.mark.parametrize(
    ("photometric", "samples", "planar"), [(0, 1, 1), (1, 1, 1), (2, 3, 1), (2, 3, 2), (2, 4, 1), (2, 4, 2)]
)
def test_tiff_layouts_are_right_or_refused(tmp_path: Path, dtype: str, photometric: int, samples: int, planar: int) -> None:
    pixels = noise(np.dtype(dtype).newbyteorder("=").type, samples, 12, 16).astype(dtype)
    planes = [pixels[..., channel].tobytes() for channel in range(samples)] if planar == 2 else [pixels.tobytes()]
    bits = 8 * pixels.itemsize
    make_tiff(tmp_path / "a.tif", planes, bits, photometric, samples, planar)
    if bits > 8 and (photometric == 0 or planar == 2):
        with pytest.raises(ImageError, match=r"white stored as 0|separate color planes"):
            read_image(tmp_path / "a.tif")
        return
    found = read_image(tmp_path / "a.tif")
    expected = 255 - pixels if photometric == 0 else pixels
    assert (found.pixels == expected[..., :3]).all()
    assert (found.alpha is not None) == (samples == 4)
    if found.alpha is not None:
        assert (found.alpha == pixels[..., 3]).all()


def test_tiff_of_gray_with_alpha_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.fromarray(noise(np.uint8, 2)))
    with pytest.raises(ImageError, match="gray with alpha"):
        read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".tif", ".jpg", ".png", ".webp"])
def test_every_orientation_in_every_format(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    tags = {"tiffinfo": {274: orientation}} if suffix == ".tif" else {"exif": exif, "quality": 95}
    path = save(tmp_path / f"a{suffix}", Image.fromarray(smooth(24, 40)), **tags)
    picture = read_image(path)
    with Image.open(path) as opened:
        assert (picture.pixels == np.asarray(ImageOps.exif_transpose(opened))).all()
    assert exif_orientation(picture.metadata.exif) == (None if suffix == ".tif" else 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_orientation_is_applied_once(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation  # Pillow turns this into irot and imir boxes.
    path = save(tmp_path / "a.avif", Image.fromarray(smooth(24, 40)), exif=exif, quality=100)
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    assert (read_image(path).pixels == expected).all()


def test_premultiplied_tiff_is_divided(tmp_path: Path) -> None:
    alpha = np.array([[0, 1, 51, 128, 255]], np.uint8)
    straight = np.array([[[9, 9, 9], [255, 0, 0], [100, 200, 50], [10, 250, 128], [1, 2, 3]]], np.float64)
    premultiplied = np.rint(straight * alpha[..., None] / 255).astype(np.uint8)
    path = tmp_path / "a.tif"
    Image.fromarray(np.dstack([premultiplied, alpha])).save(path)
    path.write_bytes(path.read_bytes().replace(struct.pack("<HHIHH", 338, 3, 1, 2, 0), struct.pack("<HHIHH", 338, 3, 1, 1, 0)))
    picture = read_image(path)
    assert picture.alpha is not None
    assert (picture.alpha == alpha).all()
    assert picture.pixels[0, 0].tolist() == [0, 0, 0]
    assert np.abs(picture.pixels[0, 2:] - straight[0, 2:]).max() <= 2


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("suffix", [".jp2", ".bmp", ".avif", ".webp", ".gif", ".png"])
def test_modes_of_other_formats(tmp_path: Path, mode: str, suffix: str) -> None:
    source = Image.fromarray(noise(np.uint8, 4)).convert(mode)
    options = {".avif": {"quality": 100}, ".webp": {"lossless": True, "exact": True}}.get(suffix, {})
    path = save(tmp_path / f"a{suffix}", source, **options)
    picture = read_image(path)
    with Image.open(path) as opened:
        rgba = np.asarray(opened.convert("RGBA"))
    assert (picture.pixels == rgba[..., :3])[rgba[..., 3] > 0].all()
    assert ((255 if picture.alpha is None else picture.alpha) == rgba[..., 3]).all()


def test_sixteen_bit_color_key(tmp_path: Path) -> None:
    pixels = noise(np.uint16, 3)
    pixels[3, 4] = (1000, 2000, 3001)
    pixels[5, 6] = (1000, 2000, 3000)
    path = tmp_path / "a.png"
    write_image(path, Picture(pixels))
    data = path.read_bytes()
    path.write_bytes(data[:33] + chunk(b"tRNS", struct.pack(">3H", 1000, 2000, 3000)) + data[33:])
    picture = read_image(path)
    assert picture.alpha is not None
    assert (picture.pixels == pixels).all()
    assert picture.alpha[5, 6] == 0
    assert (picture.alpha == 0).sum() == 1
    assert picture.alpha.max() == 65535


def test_ten_bit_avif_is_stretched(tmp_path: Path) -> None:
    pixels = smooth(32, 48).astype(np.uint16) * 257
    assert write_image(tmp_path / "a.avif", Picture(pixels), quality=100) == ("16-bit depth",)
    found = read_image(tmp_path / "a.avif").pixels
    assert found.dtype == np.uint16
    assert np.abs(found.astype(int) - pixels).max() <= 65535 // 1023 // 2 + 1


def test_pnm(tmp_path: Path) -> None:
    for mode, suffix in (("L", ".pgm"), ("RGB", ".ppm")):
        source = Image.fromarray(noise(np.uint8, 3)).convert(mode)
        path = save(tmp_path / f"a{suffix}", source)
        assert (read_image(path).pixels.squeeze() == np.asarray(source)).all()
        path.write_bytes(path.read_bytes()[:-1])
        assert not is_whole(path)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("quality", [1, 30, 60, 85, 92, 96, 100])
def test_what_jpeg_took_is_read_from_the_steps_of_luma(tmp_path: Path, mode: str, quality: int, progressive: bool) -> None:
    path = tmp_path / "a.png"
    picture = Image.fromarray(noise(np.uint8, 3)).convert(mode)
    picture.save(path, "JPEG", quality=quality, progressive=progressive, exif=bytes(30000))
    with Image.open(path) as found:
        mean = np.mean(found.quantization[0])  # type: ignore[attr-defined]
    head = memoryview(path.read_bytes())
    assert jpeg.mean_step(head) == mean
    assert file_lost_much(path) == (mean >= 11)
    for size in (2, 4, 20, 30000):
        path.write_bytes(head[:size])
        assert not file_lost_much(path)


def test_what_is_no_jpeg_lost_nothing_to_it(tmp_path: Path) -> None:
    picture = Image.fromarray(noise(np.uint8, 3))
    for format in ("PNG", "WEBP", "TIFF"):
        picture.save(tmp_path / "a.jpg", format)
        assert not file_lost_much(tmp_path / "a.jpg")
    assert not file_lost_much(tmp_path) and not file_lost_much(tmp_path / "none")


def test_a_comment_of_a_pnm_ends_no_number(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.pgm", bytes(range(6))
    path.write_bytes(b"P5\n# made by hand\n3 # wide\n2\n255\n" + rows)
    assert (read_image(path).pixels.squeeze() == np.asarray(Image.open(path))).all()
    path.write_bytes(b"P5\n3 2#\n255\n" + rows)
    with pytest.raises(ImageError, match="no picture"):
        read_image(path)


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x18ftypisom", "video"),
        (b"8BPS", "Photoshop"),
        (b"GARBAGE", "no picture"),
    ],
)
def test_foreign_files_say_what_to_do(tmp_path: Path, start: bytes, says: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(start + bytes(64))
    with pytest.raises(ImageError, match=says):
        read_image(path)
    assert not is_whole(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(ImageError, match="cannot be read"):
            read_image(path)
        assert not is_whole(path)


# ---- damage


def test_jpeg_with_scan_data_missing_before_its_end_marker(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(noise(np.uint8, 3)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3] + b"\xff\xd9")
    with pytest.raises(ImageError, match=r"a\.jpg.*damaged"):
        read_image(path)
    assert capfd.readouterr().err == ""


def test_what_others_write_to_stderr_meanwhile_is_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(noise(np.uint8, 3, 900, 900)))
    done = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        while not done.wait(0.0005):
            written += os.write(2, b"x")

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(5):
        read_image(path)
    done.set()
    thread.join()
    assert capfd.readouterr().err.count("x") == written


@pytest.mark.parametrize("suffix", sorted(WRITABLE_SUFFIXES - {".jpeg", ".tiff"}))
def test_cut_off_outputs_are_not_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, Picture(smooth(90, 120)))
    assert is_whole(path)
    data = path.read_bytes()
    for length in {0, 1, 5, 11, 40, len(data) // 3, len(data) // 2, len(data) - 4, len(data) - 2}:
        path.write_bytes(data[:length])
        assert not is_whole(path), length
        with pytest.raises(ImageError):
            read_image(path)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(WRITABLE_SUFFIXES)), st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 40))
def test_damage_never_escapes_as_a_foreign_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, place: int, value: int, removed: int
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    write_image(path, Picture(smooth(20, 30), metadata=sample_metadata()))
    data = bytearray(path.read_bytes())
    place %= len(data)
    data[place] = value
    del data[place + 1 : place + 1 + removed]
    path.write_bytes(data)
    try:
        read_image(path)
    except ImageError as exc:
        assert "\n" not in str(exc)


@pytest.mark.parametrize("size", [(65000, 65000), (40000, 30000)])
def test_a_header_without_data_is_refused_before_memory_is_taken(tmp_path: Path, size: tuple[int, int]) -> None:
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    path = tmp_path / "a.png"
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    path.write_bytes(png)
    with pytest.raises(ImageError, match=f"{size[0]}x{size[1]}"):
        read_image(path)


# ---- writing


LOSSLESS = {".png": (np.uint8, np.uint16), ".tif": (np.uint8, np.uint16, np.float32), ".bmp": (np.uint8,), ".webp": (np.uint8,)}
ROUND_TRIPS = [
    (suffix, dtype, channels, alpha)
    for suffix, dtypes in LOSSLESS.items()
    for dtype in dtypes
    for channels in (1, 3)
    for alpha in (False, True)
]


@pytest.mark.parametrize(("suffix", "dtype", "channels", "alpha"), ROUND_TRIPS)
def test_lossless_round_trip(tmp_path: Path, suffix: str, dtype: Any, channels: int, alpha: bool) -> None:
    picture = Picture(noise(dtype, channels), noise(dtype, 0, seed=1) if alpha else None)
    path = tmp_path / f"a{suffix}"
    assert write_image(path, picture) == ()
    found = read_image(path)
    assert (found.pixels == picture.pixels).all()
    assert found.pixels.dtype == dtype
    assert (found.alpha is None) == (not alpha)
    if alpha:
        assert (found.alpha == picture.alpha).all()


@pytest.mark.parametrize(("suffix", "dtype", "channels", "alpha"), ROUND_TRIPS)
def test_pillow_reads_what_we_write(tmp_path: Path, suffix: str, dtype: Any, channels: int, alpha: bool) -> None:
    picture = Picture(noise(dtype, channels), noise(dtype, 0, seed=1) if alpha else None)
    path = tmp_path / f"a{suffix}"
    write_image(path, picture)
    if dtype != np.uint8 and (channels == 3 or alpha) and not (dtype == np.uint16 and (channels == 3 or suffix == ".tif")):
        pytest.skip("Pillow cannot hold these samples")
    with Image.open(path) as opened:
        found = np.asarray(opened.convert("RGBA")) if dtype == np.uint8 else np.asarray(opened)
    expected = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    if dtype == np.uint8:
        assert (found[..., :3] == picture.pixels).all()
        assert (found[..., 3] == (255 if picture.alpha is None else picture.alpha)).all()
    elif dtype == np.uint16 and found.ndim == 3:
        gray = [0] * (expected.shape[2] == 2) * 2
        assert (found == expected[..., [*gray, *range(expected.shape[2])]] >> 8).all()
    else:
        assert (found == expected.squeeze()).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (700, 1000), (3, 200_000)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_strips_join(tmp_path: Path, suffix: str, shape: tuple[int, int]) -> None:
    pixels = noise(np.uint16, 3, *shape)
    write_image(tmp_path / f"a{suffix}", Picture(pixels))
    assert (read_image(tmp_path / f"a{suffix}").pixels == pixels).all()


@pytest.mark.parametrize(("suffix", "limit"), [(".jpg", 1.5), (".avif", 3.0), (".webp", 3.0)])
def test_lossy_formats_stay_close(tmp_path: Path, suffix: str, limit: float) -> None:
    pixels = smooth(64, 96)
    quality = 90 if suffix == ".webp" else None
    assert write_image(tmp_path / f"a{suffix}", Picture(pixels), quality=quality) == ()
    assert np.abs(read_image(tmp_path / f"a{suffix}").pixels.astype(int) - pixels).mean() < limit


def test_quality_changes_the_size(tmp_path: Path) -> None:
    for suffix in (".jpg", ".avif", ".webp"):
        sizes = []
        for quality in (30, 90):
            write_image(tmp_path / f"a{suffix}", Picture(noise(np.uint8, 3)), quality=quality)
            sizes.append((tmp_path / f"a{suffix}").stat().st_size)
        assert sizes[0] < sizes[1]
    with pytest.raises(UsageError, match="101"):
        write_image(tmp_path / "a.jpg", Picture(noise(np.uint8, 3)), quality=101)


@pytest.mark.parametrize("suffix", sorted(WRITABLE_SUFFIXES))
def test_metadata_is_kept_where_the_format_can(tmp_path: Path, suffix: str) -> None:
    metadata = sample_metadata()
    path = tmp_path / f"a{suffix}"
    notes = write_image(path, Picture(smooth(37, 53), metadata=metadata))
    if suffix == ".bmp":
        assert notes == ("EXIF", "ICC profile", "XMP")
        return
    assert notes == ()
    with Image.open(path) as opened:
        exif = opened.getexif()
        assert exif[271] == "Maker"
        assert exif.get(274, 1) == 1
        details = exif.get_ifd(34665)
        assert details[36867] == "2020:01:02 03:04:05"
        assert (details[40962], details[40963]) == (53, 37)
        assert tuple(float(value) for value in exif.get_ifd(34853)[2]) == (48, 8, 15)
        assert opened.info["icc_profile"] == metadata.icc
        assert opened.info.get("xmp", b"").rstrip(b"\0") == metadata.xmp
    again = read_image(path).metadata
    assert again.icc == metadata.icc
    assert again.xmp == metadata.xmp
    assert again.exif is not None
    assert write_image(path, read_image(path), strip_metadata=True) == ()
    assert read_image(path).metadata in (Metadata(), Metadata(exif=read_image(path).metadata.exif))
    with Image.open(path) as opened:
        assert not {"icc_profile", "xmp"} & opened.info.keys()
        assert 271 not in opened.getexif()


def test_metadata_passes_from_format_to_format(tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", Picture(smooth(20, 30), metadata=sample_metadata()))
    previous = tmp_path / "a.tif"
    for suffix in (".jpg", ".webp", ".avif", ".png", ".tiff"):
        write_image(tmp_path / f"b{suffix}", read_image(previous))
        previous = tmp_path / f"b{suffix}"
    with Image.open(previous) as opened:
        assert opened.getexif()[271] == "Maker"
        assert opened.getexif().get_ifd(34665)[36867] == "2020:01:02 03:04:05"
        assert opened.info["icc_profile"] == srgb_profile()


def test_written_pictures_are_upright_for_everyone(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", Picture(smooth(20, 30), metadata=sample_metadata(orientation=6)))
    with Image.open(tmp_path / "a.jpg") as opened:
        assert ImageOps.exif_transpose(opened).size == (30, 20)
    assert xmp_orientation(read_image(tmp_path / "a.jpg").metadata.xmp) == 1


def test_too_large_metadata_is_noted(tmp_path: Path) -> None:
    metadata = Metadata(exif=sample_metadata().exif, icc=srgb_profile(), xmp=b"<x:xmpmeta>" + b" " * 70_000)
    assert write_image(tmp_path / "a.jpg", Picture(smooth(9, 9), metadata=metadata)) == ("XMP",)
    profile = srgb_profile() + bytes(200_000)
    write_image(tmp_path / "a.jpg", Picture(smooth(9, 9), metadata=Metadata(icc=profile)))
    assert read_image(tmp_path / "a.jpg").metadata.icc == profile


def test_a_gray_profile_does_not_follow_into_rgb(tmp_path: Path) -> None:
    gray_profile = srgb_profile()[:16] + b"GRAY" + srgb_profile()[20:]
    gray = Picture(noise(np.uint8, 1), metadata=Metadata(icc=gray_profile))
    assert write_image(tmp_path / "a.png", gray) == ()
    assert write_image(tmp_path / "a.webp", gray) == ("ICC profile",)


@pytest.mark.parametrize(
    ("suffix", "dtype", "notes"),
    [
        (".png", np.float32, ("32-bit float",)),
        (".jpg", np.uint16, ("16-bit depth",)),
        (".webp", np.float32, ("32-bit float",)),
        (".bmp", np.uint16, ("16-bit depth",)),
        (".tif", np.float32, ()),
    ],
)
def test_lost_depth_is_noted_and_rounded(tmp_path: Path, suffix: str, dtype: Any, notes: tuple[str, ...]) -> None:
    pixels = np.full((16, 16, 3), 0.502, np.float32)
    pixels[0] = 2.0
    scaled = pixels if dtype == np.float32 else np.rint(np.minimum(pixels, 1) * 65535).astype(np.uint16)
    assert write_image(tmp_path / f"a{suffix}", Picture(scaled), quality=100 if suffix == ".jpg" else None) == notes
    found = read_image(tmp_path / f"a{suffix}").pixels
    expected = {".png": 32899, ".tif": np.float32(0.502)}.get(suffix, 128)
    assert (found[8:] == expected).all()
    assert found[0].max() == (2.0 if suffix == ".tif" else np.iinfo(found.dtype).max)


def test_alpha_never_vanishes_into_jpeg(tmp_path: Path) -> None:
    pixels = smooth(20, 30)
    opaque = np.full((20, 30), 255, np.uint8)
    assert write_image(tmp_path / "a.jpg", Picture(pixels, opaque)) == ()
    opaque[3, 3] = 254
    with pytest.raises(ImageError, match=r"b\.jpg.*alpha.*png"):
        write_image(tmp_path / "b.jpg", Picture(pixels, opaque))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_too_large_for_the_format(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="16383"):
        write_image(tmp_path / "a.webp", Picture(np.zeros((2, 16384, 3), np.uint8)))
    with pytest.raises(ImageError, match="65535"):
        write_image(tmp_path / "a.jpg", Picture(np.zeros((2, 65536, 3), np.uint8)))


def test_unknown_suffix_lists_the_known(tmp_path: Path) -> None:
    for name in ("a.exr", "a", "a.gif"):
        with pytest.raises(ImageError, match=r"\.png"):
            write_image(tmp_path / name, Picture(smooth(4, 4)))
    assert WRITABLE_SUFFIXES <= READABLE_SUFFIXES


@pytest.mark.parametrize("name", ["é 漢字 [x] 'q'.png", "UPPER.PNG", "%d%s.tif", "x" * 251 + ".png", "-o.jpg", "a.b.webp"])
def test_awkward_names(tmp_path: Path, name: str) -> None:
    pixels = smooth(12, 15)
    write_image(tmp_path / name, Picture(pixels))
    assert np.abs(read_image(tmp_path / name).pixels.astype(int) - pixels).mean() < 3
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_nothing_is_left_behind_by_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    path = tmp_path / "a.png"
    write_image(path, Picture(smooth(4, 4)))
    before = path.read_bytes()

    def fail(file: BinaryIO, suffix: str, source: Any) -> None:  # noqa: ARG001
        file.write(b"half")
        raise error

    monkeypatch.setattr(image_module, "encode", fail)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ImageError
    with pytest.raises(expected) as caught:
        write_image(path, Picture(smooth(9, 9)))
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.png"]
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value)


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be written"):
        write_image(tmp_path / "none" / "a.png", Picture(smooth(4, 4)))


def test_writers_of_one_target_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    pictures = [np.full((200, 300, 3), value, np.uint8) for value in range(4)]
    threads = [threading.Thread(target=lambda p=p: [write_image(path, Picture(p)) for _ in range(8)]) for p in pictures]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_image(path).pixels
    assert found.min() == found.max()
    assert [item.name for item in tmp_path.iterdir()] == ["a.png"]


def test_writing_leaves_the_callers_arrays_alone(tmp_path: Path) -> None:
    pixels, alpha = noise(np.uint16, 3), np.full((37, 53), 65535, np.uint16)
    before = pixels.copy()
    for suffix in sorted(WRITABLE_SUFFIXES):
        write_image(tmp_path / f"a{suffix}", Picture(pixels, alpha))
    assert (pixels == before).all()
    assert (alpha == 65535).all()


# ---- resample


@pytest.mark.parametrize("size", [(20, 30), (37, 53), (74, 106), (111, 20), (5, 300), (1, 1)])
@pytest.mark.parametrize("channels", [0, 1, 3])
def test_resample_agrees_with_pillow(size: tuple[int, int], channels: int) -> None:
    pixels = noise(np.uint8, channels)
    ours = resample(pixels, size)
    assert ours.dtype == np.uint8
    assert ours.shape == (*size, *pixels.shape[2:])
    planes = pixels.reshape(37, 53, -1)
    for channel in range(planes.shape[2]):
        plane = Image.fromarray(planes[..., channel].astype(np.float32))
        expected = np.asarray(plane.resize((size[1], size[0]), Image.Resampling.LANCZOS))
        assert np.abs(ours.reshape(*size, -1)[..., channel] - np.clip(expected, 0, 255)).max() <= 0.51


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_resample_keeps_flat_and_does_not_overflow(dtype: Any) -> None:
    top = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    flat = np.full((40, 50, 3), top, dtype)
    assert np.abs(resample(flat, (300, 21)).astype(float) - top).max() <= 1e-5 * (dtype == np.float32)
    edge = np.zeros((32, 32), dtype)
    edge[:, 16:] = top
    larger = resample(edge, (200, 200))
    assert larger.min() == 0
    assert larger.max() == top
    assert (np.diff(larger[0].astype(float)[95:105]) >= 0).all()


def test_pixels_of_memory_files_survive(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(np.uint8, 3)).save(buffer, "PNG")
    (tmp_path / "a.webp").write_bytes(buffer.getvalue())
    picture = read_image(tmp_path / "a.webp")
    assert picture.format == "png"
    assert picture.pixels.flags.writeable
