"""What convs in 8 bits cost: the error of Y against fp32, as dB that a network loses on photographs."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
from onnx import ModelProto

from sr_deploy.arrays import Array
from sr_deploy.card import Link, ModelCard, Precision
from sr_deploy.engines import open_engine
from sr_deploy.engines.difference import compare
from sr_deploy.metrics import BT601
from sr_deploy.probe_picture import as_input, drawn_pictures

_USUAL_PSNR = {1: 38.0, 2: 38.0, 3: 34.3, 4: 32.2}
"""dB of Y that networks reach on Set5 at that scale; an error costs less where more is wrong already."""

_SIDE = 128


def quality_input(card: ModelCard) -> Array:
    """Two pictures that no calibration sees, (2, C, 128, 128) or a little more: INT8 errs on them as much as on Set5's."""
    side = math.ceil(max(_SIDE, card.min_size) / card.size_multiple) * card.size_multiple
    return np.concatenate([as_input(picture[-side:, :side], card.channels) for picture in drawn_pictures("quality")])


def luma_error(exact: Array, found: Array) -> float:
    """Mean square of the difference in Y, in steps of 8 bits; both (N, C, H, W) in about [0, 1], clamped here."""
    difference = 255 * (found.clip(0, 1) - exact.clip(0, 1))
    if exact.shape[1] == 3:
        difference = np.tensordot(np.array(BT601, np.float32) / 255, difference, (0, 1))
    return float(np.mean(np.square(difference, dtype=np.float64)))


def allowed_error(scale: int, loss: float) -> float:
    """The mean square of errors of Y that costs a network of that scale so many dB on photographs."""
    return _usual_error(scale) * (10 ** (loss / 10) - 1)


def loss_of(scale: int, error: float) -> float:
    """dB on photographs that an error of Y costs a network of that scale."""
    return 10 * math.log10(1 + error / _usual_error(scale))


def psnr_of(error: float) -> float:
    """In dB, infinite for none."""
    return 10 * math.log10(255**2 / error) if error else math.inf


def measure_loss(
    card: ModelCard, fp32: Path | ModelProto, int8: Path | ModelProto, *, precision: Precision, backend: str, loss: float
) -> Link:
    """How far the INT8 graph of a network is from its fp32 graph on one backend; the floor follows from the loss, in dB.

    Raises: as `open_engine`, and EngineError.
    """
    image = quality_input(card)
    exact, found = _run(fp32, image, backend, "fp32"), _run(int8, image, backend, precision)
    link = compare(exact, found, scale=card.scale, source="fp32.onnx", target=f"{precision}.onnx on {backend}", probe="quality")
    floor = psnr_of(allowed_error(card.scale, loss))
    error = luma_error(exact, found) if np.isfinite(found).all() else 255.0**2
    psnr = psnr_of(error)
    return dataclasses.replace(link, psnr=round(psnr, 3), floor=f"PSNR of Y >= {floor:.1f} dB", passed=psnr >= floor - _SLACK)


_SLACK = 0.3
"""dB by which runtimes may differ, which round their sums in other places."""


def _run(graph: Path | ModelProto, image: Array, backend: str, precision: Precision) -> Array:
    with open_engine(graph, backend=backend, precision=precision) as engine:
        return np.asarray(engine.run({engine.inputs[0].name: image})[engine.outputs[0].name])


def _usual_error(scale: int) -> float:
    return float(255**2 / 10 ** (_USUAL_PSNR[min(scale, max(_USUAL_PSNR))] / 10))
