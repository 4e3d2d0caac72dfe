"""How sample values become light, where a file says it by numbers and not by an ICC profile.

Source: ITU-T H.273 for the code points of cICP and nclx; PNG, third edition (W3C), for gAMA and cHRM.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_UNSPECIFIED, _BT709, _SRGB = 2, 1, 13
_GAMMA_OF_SRGB = 45455
_CORNERS_OF_SRGB = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_NEAR = 1000
_NCLX = b"colrnclx"


@dataclass(frozen=True)
class Colorimetry:
    """What a file says of its colors, as the numbers that it says it in.

    cicp: primaries, transfer, and 1 for full range, as in ITU-T H.273; or None.
    gamma: of PNG's gAMA, in 1/100000; or None.
    corners: of PNG's cHRM, x and y of white, red, green and blue, in 1/100000; or None.
    """

    cicp: tuple[int, int, int] | None = None
    gamma: int | None = None
    corners: tuple[int, ...] | None = None

    @property
    def is_usual(self) -> bool:
        """Whether a reader that knows nothing of it shows the same, or nearly."""
        if self.cicp is not None:
            primaries, transfer, full = self.cicp
            return primaries in (_BT709, _UNSPECIFIED) and transfer in (_SRGB, _UNSPECIFIED) and full == 1
        numbers = (self.gamma or _GAMMA_OF_SRGB, *(self.corners or _CORNERS_OF_SRGB))
        usual = (_GAMMA_OF_SRGB, *_CORNERS_OF_SRGB)
        return all(abs(number - known) <= _NEAR for number, known in zip(numbers, usual, strict=True))

    @property
    def words(self) -> str:
        """What is lost where it cannot be kept."""
        if self.cicp is not None:
            return f"color space (primaries {self.cicp[0]}, transfer {self.cicp[1]} of H.273)"
        return f"color space (gamma {self.gamma / 100_000:g})" if self.gamma else "color space (chromaticities)"

    def chunks(self) -> list[tuple[bytes, bytes]]:
        """Kind and body of each chunk of a PNG that says it."""
        chunks = []
        if self.cicp is not None:
            primaries, transfer, full = self.cicp
            chunks.append((b"cICP", bytes((primaries, transfer, 0, full))))
        if self.gamma is not None:
            chunks.append((b"gAMA", struct.pack(">I", self.gamma)))
        if self.corners is not None:
            chunks.append((b"cHRM", struct.pack(">8I", *self.corners)))
        return chunks


def of_chunks(chunks: dict[bytes, bytes]) -> Colorimetry | None:
    """What the chunks of a PNG say, by kind; None for nothing, and for damaged ones."""
    cicp = chunks.get(b"cICP", b"")
    gamma, corners = chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b"")
    found = Colorimetry(
        (cicp[0], cicp[1], cicp[3]) if len(cicp) == 4 else None,
        int.from_bytes(gamma, "big") or None if len(gamma) == 4 else None,
        struct.unpack(">8I", corners) if len(corners) == 32 else None,
    )
    return found if found != Colorimetry() else None


def of_nclx(body: bytes) -> Colorimetry | None:
    """What the body of an nclx box says, from its primaries on, None for sRGB; its matrix and range end with the decoder."""
    primaries, transfer = struct.unpack_from(">HH", body)
    found = Colorimetry((primaries & 0xFF, transfer & 0xFF, 1))
    return None if found.is_usual else found


def put_into_avif(encoded: bytearray, colorimetry: Colorimetry) -> bool:
    """Whether the nclx box of an AVIF now says it; the matrix stays that of the encoder."""
    place = encoded.find(_NCLX, 0, 1 << 16)
    if place < 0 or colorimetry.cicp is None or colorimetry.cicp[2] != 1:
        return False
    struct.pack_into(">HH", encoded, place + len(_NCLX), *colorimetry.cicp[:2])
    return True
