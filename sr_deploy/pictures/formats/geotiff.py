"""GeoTIFF: tags that tie pixels to places on earth, and their change when the pixels become smaller.

Source: OGC GeoTIFF 1.1 (OGC 19-008r4), and GDAL's tags of TIFF.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from sr_deploy.pictures.formats.exif import Field

_PIXEL_SCALE, _TIE_POINTS, _MATRIX, _KEYS = 33550, 33922, 34264, 34735
_GDAL_NODATA = 42113
TAGS = frozenset({_PIXEL_SCALE, _TIE_POINTS, _MATRIX, _KEYS, 34736, 34737, 42112, _GDAL_NODATA})
_RASTER_TYPE, _PIXEL_IS_POINT = 1025, 2
_DOUBLE = 12


def scaled(fields: tuple[Field, ...], down: float, across: float) -> tuple[Field, ...]:
    """The tags for a picture whose height is `down` and whose width is `across` times what it was."""
    corner = 0.5 if _is_point(fields) else 0.0
    return tuple(_scaled(field, down, across, corner) for field in fields)


def nodata(fields: tuple[Field, ...]) -> float | None:
    """The value that stands for no data, None where there is none."""
    for field in fields:
        if field.tag == _GDAL_NODATA:
            try:
                return float(field.raw.rstrip(b"\0 ").decode("ascii"))
            except ValueError:
                return None
    return None


def _is_point(fields: tuple[Field, ...]) -> bool:
    """Whether whole numbers name the centers of pixels, not their corners."""
    keys = next((field.raw for field in fields if field.tag == _KEYS), b"")
    entries = struct.iter_unpack("<4H", keys[8 : len(keys) // 8 * 8])
    return any(key == _RASTER_TYPE and value == _PIXEL_IS_POINT for key, _, _, value in entries)


def _scaled(field: Field, down: float, across: float, corner: float) -> Field:
    if field.type != _DOUBLE or field.tag not in (_PIXEL_SCALE, _TIE_POINTS, _MATRIX):
        return field
    values = list(struct.unpack(f"<{field.count}d", field.raw))
    if field.tag == _PIXEL_SCALE:
        values[:2] = [values[0] / across, values[1] / down]
    elif field.tag == _TIE_POINTS:
        values[0::6] = [(value + corner) * across - corner for value in values[0::6]]
        values[1::6] = [(value + corner) * down - corner for value in values[1::6]]
    else:
        # Rows of a 4x4 matrix: column 0 belongs to x, column 1 to y, column 3 is the place of (0, 0).
        for row in range(0, len(values) - 3, 4):
            x, y = values[row] / across, values[row + 1] / down
            values[row + 3] += corner * (x - values[row] + y - values[row + 1])
            values[row : row + 2] = [x, y]
    return replace(field, raw=struct.pack(f"<{len(values)}d", *values))
