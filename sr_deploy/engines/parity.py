"""How far two outputs are apart, and whether a bundle still computes here what its checkpoint computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from sr_deploy.bundle import PROBE_FILE, Bundle, Link
from sr_deploy.engines import Arithmetic, available_backends, open_engine, select_backend
from sr_deploy.engines.engine import Array
from sr_deploy.engines.pixels import HEALTH, INPUT, OUTPUT, load_pixel_form
from sr_deploy.errors import BundleError

MAX_LSB: dict[str, float] = {"fp32": 0.5, "pixels": 1.0}
MIN_PSNR: dict[str, float] = {"fp16": 50.0, "bf16": 40.0}
_BORDER = 4
"""Width of the border ring in LR pixels."""


def compare(
    reference: Array, array: Array, *, scale: int, source: str, target: str, probe: str, precision: Arithmetic | None = None
) -> Link:
    """Measure `array` against `reference`, both (N,C,sH,sW) float in about [0,1], clamped here.

    With a `precision`, the link has its floor: fp32 at most 0.5 LSB, fp16 at least 50 dB, bf16 at least 40 dB. A non-finite
    pixel fails any floor.
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
    if precision in MAX_LSB:
        floor, passed = f"max <= {MAX_LSB[precision]} LSB", link.max_lsb <= MAX_LSB[precision]
    else:
        floor, passed = f"PSNR >= {MIN_PSNR[precision]:.0f} dB", link.psnr >= MIN_PSNR[precision]
    return dataclasses.replace(link, floor=floor, passed=passed)


def verify(bundle: Bundle, *, backend: str | None = None) -> tuple[Link, ...]:
    """Run every graph of `bundle` on this machine's backends, against the original module's outputs in its probe.

    Without `backend`, all that load here. Each backend runs the portable graphs and their pixel forms in every precision that
    it computes natively.

    Raises: BackendUnavailableError, BundleError when the bundle carries no probe.
    """
    names = [select_backend(backend).name] if backend else list(available_backends())
    return tuple(link for name in names for link in _verify_backend(bundle, name))


def _verify_backend(bundle: Bundle, backend: str) -> Iterator[Link]:
    probes = read_probes(bundle)
    scale = bundle.card.scale
    for precision in available_backends()[backend]:
        if not bundle.runs(precision):
            continue
        target = f"{backend} {precision}"
        with open_engine(bundle.graph(precision), backend=backend, precision=precision) as engine:
            (spec,) = engine.inputs
            for probe, (image, expected) in probes.items():
                found = engine.run({spec.name: image.astype(spec.dtype)})[engine.outputs[0].name]
                yield compare(expected, found, scale=scale, source="original", target=target, probe=probe, precision=precision)
        with open_engine(load_pixel_form(bundle, precision), backend=backend, precision=precision) as engine:
            for probe, (image, expected) in probes.items():
                yield _compare_pixels(engine.run({INPUT: _to_bytes(image)}), expected, target, probe, precision, scale)


def _compare_pixels(
    results: dict[str, Array], expected: Array, target: str, probe: str, precision: Arithmetic, scale: int
) -> Link:
    """The pixel form against the original; fp32 may round the other way at a half, so its floor is 1 LSB."""
    pixels = results[OUTPUT].transpose(0, 3, 1, 2).astype(np.float32) / 255.0
    if not np.isfinite(results[HEALTH]).all():
        pixels = np.full_like(pixels, np.nan)
    rounded = np.round(np.clip(expected, 0, 1) * 255.0) / 255.0
    link = compare(rounded, pixels, scale=scale, source="original", target=f"{target} pixels", probe=probe, precision=precision)
    if precision != "fp32":
        return link
    return dataclasses.replace(link, floor=f"max <= {MAX_LSB['pixels']} LSB", passed=link.max_lsb <= MAX_LSB["pixels"] + 1e-3)


def read_probes(bundle: Bundle) -> dict[str, tuple[Array, Array]]:
    """Inputs (N,C,H,W) in [0,1], multiples of 1/255, and the original module's outputs, by probe name.

    Raises: BundleError.
    """
    path = bundle.folder / PROBE_FILE
    try:
        with np.load(path) as arrays:
            names = sorted({key.rsplit(".", 1)[0] for key in arrays.files})
            return {name: (arrays[f"{name}.input"], arrays[f"{name}.output"]) for name in names}
    except (OSError, KeyError, ValueError) as exc:
        raise BundleError(
            f"{path}: cannot be read ({exc}); only a bundle made by `sr-deploy export` can verify itself"
        ) from exc


def _to_bytes(image: Array) -> Array:
    return np.ascontiguousarray(np.round(image * 255.0).astype(np.uint8).transpose(0, 2, 3, 1))
