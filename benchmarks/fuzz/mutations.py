"""Damage to the bytes of any file: what bad disks, cut downloads and broken writers do."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from structures import damage_structure

Mutation = Callable[[Random, bytearray, bytes], str]
"""Changes the bytes in place, some with the bytes of another file; says what it did."""


def _place(random: Random, data: bytearray) -> int:
    """Headers are more often hit than their share of the bytes."""
    size = len(data)
    return random.randrange(min(size, 256)) if random.random() < 0.3 else random.randrange(size)


def _flip(random: Random, data: bytearray, other: bytes) -> str:
    del other
    places = [_place(random, data) for _ in range(random.choice((1, 1, 1, 2, 8, 64)))]
    for place in places:
        data[place] ^= 1 << random.randrange(8)
    return f"{len(places)} bits flipped, the first at {places[0]}"


def _noise(random: Random, data: bytearray, other: bytes) -> str:
    del other
    place, length = _place(random, data), random.choice((1, 2, 4, 16, 256))
    data[place : place + length] = random.randbytes(len(data[place : place + length]))
    return f"{length} bytes of noise at {place}"


def _fill(random: Random, data: bytearray, other: bytes) -> str:
    del other
    place, length, value = _place(random, data), random.choice((1, 4, 16, 512, 4096)), random.choice((0, 0, 255))
    data[place : place + length] = bytes([value]) * len(data[place : place + length])
    return f"{length} bytes of {value} at {place}"


def _number(random: Random, data: bytearray, other: bytes) -> str:
    del other
    size = random.choice((1, 2, 4, 8))
    place = _place(random, data)
    value = random.choice((0, 1, 2**7, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1)) % 2 ** (8 * size)
    data[place : place + size] = value.to_bytes(size, random.choice(("big", "little")))
    return f"{value} in {size} bytes at {place}"


def _cut(random: Random, data: bytearray, other: bytes) -> str:
    del other
    length = random.choice((random.randrange(len(data)), len(data) - random.randrange(1, 17), len(data) - len(data) // 10))
    del data[max(length, 1) :]
    return f"cut to {len(data)} bytes"


def _remove(random: Random, data: bytearray, other: bytes) -> str:
    del other
    place, length = _place(random, data), random.choice((1, 2, 16, 188, 1024))
    del data[place : place + length]
    return f"{length} bytes removed at {place}"


def _insert(random: Random, data: bytearray, other: bytes) -> str:
    del other
    place, length = _place(random, data), random.choice((1, 2, 16, 188, 1024))
    data[place:place] = random.randbytes(length)
    return f"{length} bytes inserted at {place}"


def _repeat(random: Random, data: bytearray, other: bytes) -> str:
    del other
    place, length = _place(random, data), random.choice((1, 16, 188, 1024, 8192))
    data[place:place] = data[place : place + length]
    return f"{length} bytes at {place} twice"


def _splice(random: Random, data: bytearray, other: bytes) -> str:
    here, there = _place(random, data), random.randrange(len(other) or 1)
    data[here:] = other[there:]
    return f"from {here} on the bytes of another file from {there} on"


def _append(random: Random, data: bytearray, other: bytes) -> str:
    tail = random.choice((other, bytes(16), bytes(data)))
    data += tail
    return f"{len(tail)} bytes appended"


MUTATIONS: tuple[Mutation, ...] = (
    _flip,
    _flip,
    _flip,
    _noise,
    _fill,
    _number,
    _cut,
    _remove,
    _insert,
    _repeat,
    _splice,
    _append,
)


def damage_bytes(random: Random, data: bytes, other: bytes) -> tuple[bytes, str]:
    """The damaged bytes, never none, and what was done: to the structure of the format where it is known, else to any bytes."""
    changed, done = bytearray(data or b"\0"), []
    for _ in range(random.choice((1, 1, 1, 2))):
        said = damage_structure(random, changed) if random.random() < 0.4 else None
        done.append(said or random.choice(MUTATIONS)(random, changed, other))
        if not changed:
            changed += b"\0"
    return bytes(changed), ", then ".join(done)
