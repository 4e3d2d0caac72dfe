"""Dots per inch: a number that printers ask for, kept as it is when pixels are added."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction

from sr_deploy.pictures.formats import ContainerError
from sr_deploy.pictures.formats import exif as tags
from sr_deploy.pictures.formats.exif import Field

_X, _Y, _UNIT = 282, 283, 296
_NONE, _INCH, _CENTIMETER = 1, 2, 3
_METER = Fraction(254, 10_000)
_BMP_PLACE = 38
_JFIF = b"JFIF\0"


@dataclass(frozen=True)
class Density:
    """Dots per inch across and down; without `is_per_inch` only their ratio means something, that of a pixel's sides."""

    across: Fraction
    down: Fraction
    is_per_inch: bool = True

    def turned(self) -> Density:
        """With rows and columns exchanged."""
        return Density(self.down, self.across, self.is_per_inch)

    @property
    def phys(self) -> bytes:
        """The body of PNG's pHYs."""
        across, down = (side / _METER if self.is_per_inch else side for side in (self.across, self.down))
        return struct.pack(">IIB", round(across), round(down), self.is_per_inch)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The tags of TIFF and EXIF."""
        rationals = [side.limit_denominator(10_000) for side in (self.across, self.down)]
        packed = [struct.pack("<II", side.numerator, side.denominator) for side in rationals]
        unit = struct.pack("<H", _INCH if self.is_per_inch else _NONE)
        return Field(_X, 5, 1, packed[0]), Field(_Y, 5, 1, packed[1]), Field(_UNIT, 3, 1, unit)

    def put_into_jpeg(self, head: bytearray) -> bool:
        """Whether the JFIF segment that a JPEG begins with now says it."""
        sides = round(self.across), round(self.down)
        if bytes(head[6:11]) != _JFIF or not all(0 < side < 1 << 16 for side in sides):
            return False
        struct.pack_into(">BHH", head, 13, self.is_per_inch, *sides)
        return True

    def put_into_bmp(self, head: bytearray) -> bool:
        """Whether the header of a BMP now says it."""
        if not self.is_per_inch:
            return False
        struct.pack_into("<ii", head, _BMP_PLACE, round(self.across / _METER), round(self.down / _METER))
        return True


def of_phys(body: bytes) -> Density | None:
    """What the body of PNG's pHYs says; None for nothing of use."""
    if len(body) != 9:
        return None
    across, down, unit = struct.unpack(">IIB", body)
    return _density(Fraction(across), Fraction(down), _METER if unit == 1 else None)


def of_jfif(body: bytes) -> Density | None:
    """What a JPEG's JFIF segment says; None for nothing of use."""
    if not body.startswith(_JFIF) or len(body) < 12:
        return None
    unit, across, down = struct.unpack_from(">BHH", body, 7)
    inches = {1: Fraction(1), 2: Fraction(254, 100)}.get(unit)
    return _density(Fraction(across), Fraction(down), inches)


def of_bmp(data: memoryview) -> Density | None:
    """What the header of a BMP says; None for nothing of use."""
    across, down = struct.unpack_from("<ii", data, _BMP_PLACE)
    return _density(Fraction(across), Fraction(down), _METER)


def of_exif(exif: bytes | None) -> Density | None:
    """What a block of EXIF says; None for nothing of use."""
    if not exif:
        return None
    try:
        order = tags.byte_order(exif)
        entries, _ = tags.read_ifd(exif, struct.unpack_from(order + "I", exif, 4)[0], order)
        across, down = (Fraction(*struct.unpack_from(order + "II", exif, entries[tag].position)) for tag in (_X, _Y))
        unit = (tags.integers(exif, entries.get(_UNIT), order) or [_INCH])[0]
    except (ContainerError, KeyError, struct.error, ZeroDivisionError):
        return None
    inches = {_INCH: Fraction(1), _CENTIMETER: Fraction(254, 100)}.get(unit)
    return _density(across, down, inches)


def _density(across: Fraction, down: Fraction, inches: Fraction | None) -> Density | None:
    if across <= 0 or down <= 0 or (inches is None and across == down):
        return None
    return Density(across * (inches or 1), down * (inches or 1), inches is not None)
