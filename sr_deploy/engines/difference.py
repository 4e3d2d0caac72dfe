"""How far two outputs are apart, in numbers with their floors."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.card import Link
from sr_deploy.engines import Arithmetic
from sr_deploy.errors import BundleError

MAX_LSB: dict[str, float] = {"fp32": 0.5, "pixels": 1.0}
MIN_PSNR: dict[str, float] = {"fp32": 90.0, "fp16": 50.0, "bf16": 40.0, "int8": 35.0, "int8-symmetric": 35.0}
"""Half a step alone lets TF32 pass for fp32: measured networks are above 120 dB in fp32, and at 54 to 84 dB in TF32."""

_BORDER = 4
"""Width of the border ring in LR pixels."""


def compare(
    reference: Array, array: Array, *, scale: int, source: str, target: str, probe: str, precision: Arithmetic | None = None
) -> Link:
    """Measure `array` against `reference`, both (N,C,sH,sW) float in about [0,1], clamped here.

    With a `precision`, the link has its floor: fp32 at most 0.5 LSB and at least 90 dB, fp16 at least 50 dB, bf16 at least
    40 dB. A non-finite pixel fails any floor.
    """
    if reference.shape != array.shape:
        raise BundleError(f"{source} gives {list(reference.shape)} and {target} {list(array.shape)} for probe '{probe}'")
    wanted, found = (np.clip(np.nan_to_num(a.astype(np.float64), nan=1e9), 0.0, 1.0) for a in (reference, array))
    error = np.abs(wanted - found) * 255.0
    if not np.isfinite(array).all():
        error = np.where(np.isfinite(array), error, 255.0)
    ring = np.ones(error.shape[2:], dtype=bool)
    ring[_BORDER * scale : -_BORDER * scale, _BORDER * scale : -_BORDER * scale] = False
    mse = float(np.mean((error / 255.0) ** 2))
    link = Link(
        source=source,
        target=target,
        probe=probe,
        max_lsb=round(float(error.max()), 6),
        mean_lsb=round(float(error.mean()), 6),
        border_max_lsb=round(float(error[..., ring].max()), 6),
        psnr=round(-10 * float(np.log10(mse)), 3) if mse > 0 else float("inf"),
    )
    return link if precision is None else _judge(link, precision)


def _judge(link: Link, precision: Arithmetic) -> Link:
    most, least = MAX_LSB.get(precision, math.inf), MIN_PSNR[precision]
    floor = (f"max <= {most} LSB, " if precision in MAX_LSB else "") + f"PSNR >= {least:.0f} dB"
    return dataclasses.replace(link, floor=floor, passed=link.max_lsb <= most and link.psnr >= least)
