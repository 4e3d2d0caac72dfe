"""Weights to 8 bits: each rounded so that those after it make up for its error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.export.int8.calibration import Moments

LARGEST_CODE = 63
"""CPUs without VNNI add two products of 8 bits in 16: 2 * 255 * 63 fits, and larger codes are cut off there in silence. Errors
of activations are far larger than what the eighth bit of weights would gain."""

_DAMPING = 0.01
"""Of the mean square, added to each: inputs that are always 0 would let others grow without bound."""


@dataclass(frozen=True)
class QuantizedWeights:
    """codes: (O, C, kh, kw) int8; scales: (O,) float32, value = scale * code; bias: (O,) float32, corrected."""

    codes: Array
    scales: Array
    bias: Array

    def values(self) -> Array:
        """(O, C, kh, kw) float32."""
        return (self.codes * self.scales[:, None, None, None]).astype(np.float32)


def quantize_weights(weight: Array, bias: Array, moments: Moments) -> QuantizedWeights:
    """Weights of a conv for inputs of those moments, and the bias that keeps the mean of each output.

    weight: (O, C, kh, kw); bias: (O,).

    Source: Frantar et al., GPTQ, 2023, section 3; Nagel et al., Data-Free Quantization, 2019, section 4.2 (bias).
    """
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    scales = np.abs(rows).max(axis=1) / LARGEST_CODE
    scales[scales == 0] = 1.0
    codes = _rounded(rows.copy(), scales, moments.hessian)
    values = codes * scales[:, None]
    correction = (rows @ moments.exact - values @ moments.quantized) / max(moments.count, 1)
    return QuantizedWeights(
        codes.reshape(weight.shape).astype(np.int8), scales.astype(np.float32), (bias + correction).astype(np.float32)
    )


def _rounded(rows: Array, scales: Array, hessian: Array) -> Array:
    """Codes column by column; `rows` is used up."""
    damped = hessian + np.eye(len(hessian)) * (_DAMPING * np.mean(np.diag(hessian)) + 1e-12)
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    codes = np.empty_like(rows)
    for column in range(rows.shape[1]):
        codes[:, column] = np.rint(rows[:, column] / scales).clip(-LARGEST_CODE, LARGEST_CODE)
        error = (rows[:, column] - codes[:, column] * scales) / upper[column, column]
        rows[:, column + 1 :] -= error[:, None] * upper[column, column + 1 :]
    return codes
