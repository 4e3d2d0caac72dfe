"""What an Upscaler may be asked for, checked before anything is opened."""

from __future__ import annotations

from numbers import Integral
from typing import get_args

from sr_deploy.bundle import PrecisionChoice
from sr_deploy.errors import UsageError
from sr_deploy.upscaling.sentinel import OnFailure

SMALLEST_TILE = 32


def check_options(
    *, precision: object, tile: object, on_failure: object, memory: float | None = None, threads: int | None = None
) -> None:
    """Make sure that each of an Upscaler's options is one that there is.

    Raises: UsageError naming the option and what it may be.
    """
    for name, value, kind in (("precision", precision, PrecisionChoice), ("on_failure", on_failure, OnFailure)):
        allowed = get_args(kind)
        if not isinstance(value, str) or value not in allowed:
            raise UsageError(f"{name} {value!r} is unknown; expected one of {', '.join(map(repr, allowed))}")
    _check_tile(tile)
    for name, number in (("memory", memory), ("threads", threads)):
        if number is not None and number <= 0:
            raise UsageError(f"{name} of {number} is too little; expected 1 or more, or None for the usual")


def _check_tile(tile: object) -> None:
    expected = f"use 0 (whole image), 'auto', or {SMALLEST_TILE} and more"
    if isinstance(tile, str) and tile == "auto":
        return
    if not isinstance(tile, Integral) or isinstance(tile, bool):
        raise UsageError(f"tile {tile!r} is no side of a tile; {expected}")
    if tile != 0 and int(tile) < SMALLEST_TILE:
        raise UsageError(f"a tile of {tile} pixels is too small; {expected}")
