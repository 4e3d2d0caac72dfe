"""What files say beside their pixels is carried over, or told; Pillow is the judge."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageOps

from sr_deploy.pictures.formats import geotiff, xmp
from sr_deploy.pictures.formats.exif import Field
from sr_deploy.pictures.image import Metadata, Picture, decode_image, encode_image, read_image, write_image

SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[:40, :60], np.uint8(90)), axis=2).astype(np.uint8) * np.uint8(4)
FORMATS = ("png", "tiff", "jpeg", "webp", "avif", "bmp")


def opened(picture: Picture, format: str) -> Image.Image:
    return Image.open(io.BytesIO(encode_image(picture, format)))


def chunks(png: bytes) -> dict[bytes, bytes]:
    found, position = {}, 8
    while position < len(png):
        length, kind = struct.unpack_from(">I4s", png, position)
        found[kind] = png[position + 8 : position + 8 + length]
        assert zlib.crc32(kind + found[kind]) == int.from_bytes(png[position + 8 + length : position + 12 + length], "big")
        position += 12 + length
    return found


def notes(picture: Picture, format: str, tmp_path: Path) -> tuple[str, ...]:
    return write_image(tmp_path / f"a.{format}", picture)


# ---- colors by numbers


def test_pq_of_an_avif_is_kept_or_told(shared: Path, tmp_path: Path) -> None:
    path = shared / "faults" / "pq.avif"
    picture = read_image(path)
    avif, png = encode_image(picture, "avif"), encode_image(picture, "png")
    place, original = avif.index(b"colrnclx"), path.read_bytes()
    assert avif[place : place + 12] == original[original.index(b"colrnclx") :][:12]
    assert chunks(png)[b"cICP"] == bytes((9, 16, 0, 1))
    for data in (avif, png):
        assert decode_image(data).metadata.colorimetry == picture.metadata.colorimetry
    with Image.open(io.BytesIO(avif)) as again, Image.open(path) as first:
        assert np.abs(np.asarray(again).astype(int) - np.asarray(first)).mean() < 2
    told = "color space (primaries 9, transfer 16 of H.273)"
    assert notes(picture, "avif", tmp_path) == notes(picture, "png", tmp_path) == ()
    assert notes(picture, "tiff", tmp_path) == (told,)
    for format in ("jpeg", "webp", "bmp"):
        assert notes(picture, format, tmp_path) == (told, "10-bit depth")


def test_gamma_and_corners_of_a_png_are_kept_or_told(shared: Path, tmp_path: Path) -> None:
    path = shared / "faults" / "gama_linear.png"
    picture = read_image(path)
    with Image.open(path) as first, opened(picture, "png") as again:
        assert {name: again.info[name] for name in ("gamma", "chromaticity")} == first.info
    for format in ("jpeg", "webp", "tiff", "bmp", "avif"):
        assert "color space (gamma 1)" in notes(picture, format, tmp_path)


@pytest.mark.parametrize(("gamma", "usual"), [(45455, True), (45454, True), (100_000, False), (55_556, False)])
def test_what_srgb_means_anyway_is_no_loss(tmp_path: Path, gamma: int, usual: bool) -> None:
    png = encode_image(Picture(SMOOTH), "png")
    body = struct.pack(">I", gamma)
    chunk = struct.pack(">I4s", 4, b"gAMA") + body + struct.pack(">I", zlib.crc32(b"gAMA" + body))
    picture = decode_image(png[:33] + chunk + png[33:])
    assert chunks(encode_image(picture, "png"))[b"gAMA"] == body
    assert (notes(picture, "jpeg", tmp_path) == ()) == usual


def test_plain_avif_says_nothing_unusual(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(SMOOTH).save(file, "AVIF")
    assert notes(decode_image(file.getvalue()), "jpeg", tmp_path) == ()


# ---- dots per inch


@pytest.mark.parametrize("format", FORMATS)
def test_dots_per_inch_stay(shared: Path, tmp_path: Path, format: str) -> None:
    picture = read_image(shared / "faults" / "dpi300.png")
    assert notes(picture, format, tmp_path) == ()
    with opened(picture, format) as image:
        exif = image.getexif()
        dots = image.info.get("dpi") or (exif[282], exif[283])
    assert [round(float(side)) for side in dots] == [300, 300]
    assert decode_image(encode_image(picture, format)).metadata.density is not None


@pytest.mark.parametrize("source", ["PNG", "JPEG", "TIFF", "BMP"])
@pytest.mark.parametrize("target", ["png", "jpeg", "tiff", "bmp"])
def test_dots_per_inch_pass_from_format_to_format(source: str, target: str) -> None:
    file = io.BytesIO()
    Image.fromarray(SMOOTH).save(file, source, dpi=(150, 72))
    with opened(decode_image(file.getvalue()), target) as image:
        assert [round(float(side)) for side in image.info["dpi"]] == [150, 72]


def test_dots_per_inch_turn_with_the_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(SMOOTH).save(tmp_path / "a.jpg", dpi=(150, 72), exif=exif)
    with opened(read_image(tmp_path / "a.jpg"), "png") as image:
        assert [round(float(side)) for side in image.info["dpi"]] == [72, 150]


# ---- thumbnails


def thumbnail_of(data: bytes) -> bytes:
    """The JPEG inside of the EXIF."""
    with Image.open(io.BytesIO(data)) as image:
        block = image.info.get("exif", b"")
    return block[block.find(b"\xff\xd8\xff") :] if b"\xff\xd8\xff" in block else b""


@pytest.mark.parametrize("format", FORMATS[:5])
def test_a_thumbnail_that_lies_on_its_side_is_dropped(shared: Path, format: str) -> None:
    path = shared / "faults" / "exif6_thumb.jpg"
    assert thumbnail_of(path.read_bytes()).startswith(b"\xff\xd8")
    picture = read_image(path)
    data = encode_image(picture, format)
    assert thumbnail_of(data) == b""
    assert picture.metadata.exif is not None and b"\xff\xd8" not in picture.metadata.exif
    with Image.open(io.BytesIO(data)) as image, Image.open(path) as first:
        assert image.size == ImageOps.exif_transpose(first).size
        assert image.getexif().get(274, 1) == 1


def test_a_thumbnail_that_is_upright_stays(shared: Path) -> None:
    data = (shared / "faults" / "exif6_thumb.jpg").read_bytes()
    upright = data.replace(struct.pack("<HHIHH", 274, 3, 1, 6, 0), struct.pack("<HHIHH", 274, 3, 1, 1, 0))
    assert upright != data
    assert thumbnail_of(encode_image(decode_image(upright), "jpeg")) == thumbnail_of(data) != b""


# ---- promises of XMP


def test_a_gain_map_is_promised_no_more(shared: Path) -> None:
    picture = read_image(shared / "faults" / "ultrahdr.jpg")
    assert picture.lost == ("gain map",)
    with opened(picture, "jpeg") as image:
        packet = image.info["xmp"]
    assert b"hdrgm" not in packet and b"GainMap" not in packet and b"Container" not in packet
    (described,) = ElementTree.fromstring(packet)[0]
    assert (described.attrib, len(described)) == ({}, 0)


@pytest.mark.parametrize(
    ("attribute", "what"),
    [
        ('xmlns:C="http://ns.google.com/photos/1.0/camera/" C:MotionPhoto="1" C:MotionPhotoVersion="1"', "motion video"),
        ("xmlns:G='http://ns.google.com/photos/1.0/camera/' G:MicroVideo='1' G:MicroVideoOffset = '99'", "motion video"),
        ('xmlns:n="http://ns.adobe.com/xmp/note/" n:HasExtendedXMP="ABC"', "extended XMP"),
        ('xmlns:d="http://ns.google.com/photos/1.0/depthmap/" d:Near="1"', "depth map"),
    ],
)
def test_promises_go_and_the_rest_stays(attribute: str, what: str) -> None:
    packet = (
        f'<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" {attribute} dc:format="image/jpeg">'
        "<dc:title>Motion &amp; Photo</dc:title></rdf:Description>"
    )
    plain = packet.replace(f" {attribute}", "")
    assert xmp.without_promises(packet.encode()) == (plain.encode(), (what,))
    assert xmp.without_promises(plain.encode()) == (plain.encode(), ())


def test_motion_video_behind_a_jpeg_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(SMOOTH).save(path)
    path.write_bytes(path.read_bytes() + struct.pack(">I8s", 24, b"ftypmp42") + bytes(40))
    assert read_image(path).lost == ("motion video",)


def test_iptc_and_content_credentials_are_told(tmp_path: Path) -> None:
    plain = encode_image(Picture(SMOOTH), "jpeg")
    for marker, body, what in (
        (0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x05\x1c\x02\x78\0\x01x\0", "IPTC"),
        (0xEB, b"JP\0\x01\0\0\0\x01\0\0\0\x20jumb\0\0\0\x18jumdc2pa" + bytes(12), "content credentials"),
    ):
        segment = bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body
        assert decode_image(plain[:2] + segment + plain[2:]).lost == (what,)
    Image.fromarray(SMOOTH).save(tmp_path / "a.tif", tiffinfo={33723: b"\x1c\x02x\0\x01x"})
    assert read_image(tmp_path / "a.tif").lost == ("IPTC",)


# ---- GeoTIFF


def geo_tags(point: bool, matrix: bool) -> dict[int, Any]:
    keys = (1, 1, 0, 2, 1024, 0, 1, 2, 1025, 0, 1, 2 if point else 1)
    if matrix:
        return {34264: (2.0, 0.1, 0.0, 100.0, 0.2, -3.0, 0.0, 200.0, *[0.0] * 7, 1.0), 34735: keys}
    return {33550: (2.0, 3.0, 0.0), 33922: (5.0, 6.0, 0.0, 100.0, 200.0, 0.0), 34735: keys, 42113: "7"}


def place(tags: Any, x: float, y: float) -> tuple[float, float]:
    """Where on earth a corner of the pixel grid lies."""
    if tags[34735][-1] == 2:
        x, y = x - 0.5, y - 0.5
    if 34264 in tags:
        m = tags[34264]
        return m[0] * x + m[1] * y + m[3], m[4] * x + m[5] * y + m[7]
    (across, down, _), tie = tags[33550], tags[33922]
    return tie[3] + (x - tie[0]) * across, tie[4] - (y - tie[1]) * down


@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("matrix", [False, True])
def test_a_geotiff_stays_where_it_is_on_earth(tmp_path: Path, point: bool, matrix: bool) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(SMOOTH).save(path, tiffinfo=geo_tags(point, matrix))
    picture = read_image(path)
    large = Picture(SMOOTH.repeat(2, 0).repeat(3, 1), metadata=picture.metadata.scaled(2, 3))
    assert write_image(tmp_path / "b.tif", large) == ()
    with Image.open(path) as first, Image.open(tmp_path / "b.tif") as again:
        before, after = dict(first.tag_v2), dict(again.tag_v2)  # type: ignore[attr-defined]
    for x, y in ((0, 0), (60, 0), (0, 40), (7, 9)):
        assert place(after, 3 * x, 2 * y) == pytest.approx(place(before, x, y))
    if not matrix:
        assert after[33550][:2] == (pytest.approx(2 / 3), 1.5)
        assert after[42113] == "7"
    assert write_image(tmp_path / "b.png", large) == ("GeoTIFF tags",)


def test_a_turned_geotiff_loses_its_tags_and_says_so(tmp_path: Path) -> None:
    Image.fromarray(SMOOTH).save(tmp_path / "a.tif", tiffinfo={**geo_tags(False, False), 274: 6})
    picture = read_image(tmp_path / "a.tif")
    assert picture.lost == ("GeoTIFF tags",) and picture.metadata.geo == ()


def test_stripping_strips_all_of_it(shared: Path, tmp_path: Path) -> None:
    for name in ("pq.avif", "gama_linear.png", "dpi300.png"):
        picture = read_image(shared / "faults" / name)
        assert picture.metadata != Metadata()
        write_image(tmp_path / "a.png", picture, strip_metadata=True)
        assert read_image(tmp_path / "a.png").metadata == Metadata()


@pytest.mark.parametrize("text", [b"-9999\0", b" nan \0", b"none\0", b""])
def test_the_value_for_no_data(text: bytes) -> None:
    expected = {b"-9999\0": -9999.0}.get(text)
    found = geotiff.nodata((Field(42113, 2, len(text), text),))
    assert found == expected or (text == b" nan \0" and found is not None and np.isnan(found))


@pytest.mark.parametrize("unit", [b"<h:a>", b"<h:a ", b'<h:a "', b"<a '\"", b' h:a="', b'<a h:b="" '])
def test_a_packet_that_is_made_to_be_slow_is_walked_once(unit: bytes) -> None:
    """A search from each of its tags would take minutes."""
    packet = b'<x xmlns:h="http://ns.adobe.com/hdr-gain-map/1.0/">' + unit * 50_000
    left, promised = xmp.without_promises(packet)
    assert len(left) <= len(packet)
    assert set(promised) <= {"gain map", "XMP"}
