"""Damage that keeps a file's structure: fields, chunks, boxes and packets, with the checksums around them repaired."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from random import Random

Chunk = tuple[int, int]
"""First byte, and first byte behind."""

PNG = b"\x89PNG\r\n\x1a\n"
ODD_NUMBERS = (0, 1, 2, 3, 7, 8, 16, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
TS_PACKET = 188
EBML_IDS = re.compile(
    rb"\x1f\x43\xb6\x75|\x1c\x53\xbb\x6b|\x44\x89|\x2a\xd7\xb1|\x16\x54\xae\x6b|\xa3|\xa0|\xe7|\xb0|\xba|\x86", re.S
)


def damage_structure(random: Random, data: bytearray) -> str | None:
    """What was done, or None where the format is not known or the file is too broken for it."""
    for begins, damage in FORMATS:
        if re.match(begins, data, re.S):
            try:
                return damage(random, data)
            except (struct.error, zlib.error, IndexError, ValueError):
                return None
    return None


def _shuffle(random: Random, data: bytearray, chunks: list[Chunk]) -> str:
    """Remove, double or swap chunks."""
    one, two = sorted(random.sample(range(len(chunks)), 2)) if len(chunks) > 1 else (0, 0)
    (first, behind), (second, end) = chunks[one], chunks[two]
    what = random.choice(("removed", "doubled", "swapped"))
    if what == "removed":
        del data[first:behind]
    elif what == "doubled" or one == two:
        data[second:second] = data[first:behind]
    else:
        data[first:end] = data[second:end] + data[behind:second] + data[first:behind]
    return f"chunks {one} and {two} of {len(chunks)} {what}"


def png_chunks(data: bytes | bytearray) -> list[Chunk]:
    """Every chunk from its length to its CRC; ends where the file does."""
    chunks, place = [], len(PNG)
    while place + 12 <= len(data):
        behind = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if behind > len(data):
            break
        chunks.append((place, behind))
        place = behind
    return chunks


def _put_png_chunk(data: bytearray, chunk: Chunk, name: bytes, body: bytes) -> None:
    checksum = struct.pack(">I", zlib.crc32(name + body))
    data[chunk[0] : chunk[1]] = struct.pack(">I", len(body)) + name + body + checksum


def _png(random: Random, data: bytearray) -> str:
    chunks = png_chunks(data)
    chosen = random.choice(chunks)
    name, body = bytes(data[chosen[0] + 4 : chosen[0] + 8]), bytearray(data[chosen[0] + 8 : chosen[1] - 4])
    if random.random() < 0.25:
        return _shuffle(random, data, chunks)
    if name == b"IHDR":
        place, size = random.choice(((0, 4), (4, 4), (8, 1), (9, 1), (10, 1), (11, 1), (12, 1)))
        body[place : place + size] = (random.choice(ODD_NUMBERS) % 256**size).to_bytes(size, "big")
    elif name == b"IDAT" and random.random() < 0.6:
        return _png_stream(random, data, chunks)
    elif body:
        body[random.randrange(len(body))] = random.randrange(256)
    else:
        body += random.randbytes(3)
    _put_png_chunk(data, chosen, name, bytes(body))
    return f"{name.decode('latin-1')} changed, its CRC repaired"


def _png_stream(random: Random, data: bytearray, chunks: list[Chunk]) -> str:
    """The compressed pixels as one chunk: changed and packed again, cut, or with a wrong checksum of zlib's."""
    parts = [chunk for chunk in chunks if data[chunk[0] + 4 : chunk[0] + 8] == b"IDAT"]
    stream = b"".join(data[first + 8 : behind - 4] for first, behind in parts)
    rows = bytearray(zlib.decompress(stream))
    what = random.choice(("a byte of the rows changed", "rows cut", "rows added", "zlib's checksum changed"))
    if what == "a byte of the rows changed":
        rows[random.randrange(len(rows))] = random.randrange(256)
    elif what == "rows cut":
        del rows[random.randrange(len(rows)) :]
    elif what == "rows added":
        rows += random.randbytes(random.choice((1, 100)))
    else:
        stream = stream[:-4] + bytes(byte ^ 1 for byte in stream[-4:])
    if not what.startswith("zlib"):
        stream = zlib.compress(bytes(rows))
    for chunk in parts[:0:-1]:
        del data[chunk[0] : chunk[1]]
    _put_png_chunk(data, parts[0], b"IDAT", stream)
    return what


def _tiff(random: Random, data: bytearray) -> str:
    order = "<" if data[:2] == b"II" else ">"
    (place,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, place)
    entry = place + 2 + 12 * random.randrange(count)
    tag, kind, length, value = struct.unpack_from(f"{order}HHII", data, entry)
    number = random.choice((*ODD_NUMBERS, value + 1, value - 1, value ^ 1 << random.randrange(16))) % 2**32
    what = random.choice(("value", "value", "value", "type", "length", "tag"))
    if what == "value" and kind == 3 and length == 1:
        struct.pack_into(f"{order}H", data, entry + 8, number % 2**16)
    elif what == "value":
        struct.pack_into(f"{order}I", data, entry + 8, number)
    elif what == "type":
        struct.pack_into(f"{order}H", data, entry + 2, random.randrange(20))
    elif what == "length":
        struct.pack_into(f"{order}I", data, entry + 4, number)
    else:
        struct.pack_into(f"{order}H", data, entry, random.randrange(254, 340))
    return f"{what} of tag {tag} changed"


BOXES = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"meta", b"iprp", b"ipco", b"edts", b"dinf", b"jp2h", b"moof", b"traf"}


def boxes(data: bytes | bytearray, first: int = 0, end: int | None = None) -> list[Chunk]:
    """Every box of an ISO media file, those within others too."""
    found, end = [], len(data) if end is None else end
    while first + 8 <= end:
        size, name = int.from_bytes(data[first : first + 4], "big"), bytes(data[first + 4 : first + 8])
        size = end - first if size == 0 else size
        if size < 8 or first + size > end:
            break
        found.append((first, first + size))
        if name in BOXES:
            found += boxes(data, first + 8 + 4 * (name == b"meta"), first + size)
        first += size
    return found


def _boxes(random: Random, data: bytearray) -> str:
    found = boxes(data)
    first, behind = random.choice(found)
    name = bytes(data[first + 4 : first + 8]).decode("latin-1")
    what = random.choice(("size", "type", "field", "field", "field", "chunks"))
    if what == "size":
        size = random.choice((0, 1, 7, 8, behind - first - 1, behind - first + 1, 2**31, 2**32 - 1))
        data[first : first + 4] = size.to_bytes(4, "big")
    elif what == "type":
        data[first + 4 : first + 8] = random.choice((b"free", b"skip", b"\0\0\0\0", random.randbytes(4)))
    elif what == "field" and behind - first > 8:
        place = random.randrange(first + 8, min(behind, first + 200))
        size = random.choice((1, 1, 4))
        number = random.choice((*ODD_NUMBERS, random.randrange(256))) % 256**size
        data[place : place + size] = number.to_bytes(size, "big")
    else:
        return _shuffle(random, data, [chunk for chunk in found if bytes(data[chunk[0] + 4 : chunk[0] + 8]) not in BOXES])
    return f"{what} of box {name} changed"


def _riff(random: Random, data: bytearray) -> str:
    chunks, place = [], 12
    while place + 8 <= len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        inside = data[place : place + 4] == b"LIST"
        behind = place + 12 if inside else place + 8 + size + size % 2
        chunks.append((place, min(behind, len(data))))
        place = behind
    if random.random() < 0.3:
        return _shuffle(random, data, chunks)
    first, behind = random.choice(chunks)
    place = random.choice((4, first + 4, random.randrange(first + 8, behind + 1)))
    data[place : place + 4] = random.choice((*ODD_NUMBERS, behind - first)).to_bytes(4, "little")
    return f"a number of chunk {bytes(data[first : first + 4])!r} changed at {place}"


def _jpeg(random: Random, data: bytearray) -> str:
    segments, place = [], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        behind = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        segments.append((place, behind))
        place = behind
    segments.append((place, place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")))
    if random.random() < 0.3:
        return _shuffle(random, data, segments)
    first, behind = random.choice(segments)
    at = random.randrange(first + 2, behind)
    data[at] = random.choice((0, 1, 255, data[at] ^ 1 << random.randrange(8)))
    return f"byte {at - first} of segment {data[first + 1]:02X} changed"


def _ts(random: Random, data: bytearray) -> str:
    packet = random.randrange(len(data) // TS_PACKET)
    chunks = [(at, at + TS_PACKET) for at in range(0, len(data) - TS_PACKET + 1, TS_PACKET)]
    if random.random() < 0.5:
        return _shuffle(random, data, chunks)
    place = TS_PACKET * packet + random.randrange(24)
    data[place] = random.randrange(256)
    return f"byte {place % TS_PACKET} of packet {packet} changed"


def _ebml(random: Random, data: bytearray) -> str:
    places = [found.end() for found in EBML_IDS.finditer(data)]
    place = random.choice(places[: random.choice((40, len(places)))])
    place += random.randrange(8)
    data[place] = random.choice((0, 0x80, 0xFF, data[place] ^ 1 << random.randrange(8)))
    return f"a byte near an element changed at {place}"


def _zip(random: Random, data: bytearray) -> str:
    places = [found.start() for found in re.finditer(rb"PK(?:\x01\x02|\x03\x04|\x05\x06|\x06\x06|\x06\x07)", data)]
    place = random.choice(places) + random.randrange(4, 46)
    data[place] = random.choice((0, 1, 255, data[place] ^ 1 << random.randrange(8)))
    return f"a byte of the archive's directory changed at {place}"


FORMATS: tuple[tuple[bytes, Callable[[Random, bytearray], str]], ...] = (
    (re.escape(PNG), _png),
    (rb"II\*\0|MM\0\*", _tiff),
    (rb"\xff\xd8", _jpeg),
    (rb"RIFF", _riff),
    (rb"....(?:ftyp|jP  )", _boxes),
    (rb"\x1a\x45\xdf\xa3", _ebml),
    (rb"G.{187}G", _ts),
    (rb"PK\x03\x04", _zip),
)
