"""One window through the network, watched: opens engines as they are needed, checks health, recomputes, replaces."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import DTypeLike

from sr_deploy.bundle import Bundle
from sr_deploy.card import Part, PrecisionChoice
from sr_deploy.device.health import is_healthy
from sr_deploy.engines import Arithmetic, Backend
from sr_deploy.engines.engine import DeviceEngine, Engine
from sr_deploy.engines.pixels import HEALTH, INPUT, OUTPUT, load_float_form, load_pixel_form
from sr_deploy.errors import UnhealthyOutputError, UsageError

if TYPE_CHECKING:
    from sr_deploy.arrays import Array

OnFailure = Literal["raise", "bicubic"]
TileOutcome = Literal["good", "recomputed", "replaced"]
Form = Literal["pixels", "float", "planes"]

CHROMA_REACH = 3
"""How far an upscaled chroma pixel sees, in LR pixels, rounded up."""


class WindowRunner:
    """Runs windows (h,w,C) of any depth through a bundle's network; the sentinel sits here.

    8-bit RGB goes through the graph's pixel form. Everything else goes through the float form: deeper images and luma networks.
    `precision` is what 8-bit images are computed in.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: Backend,
        precision: PrecisionChoice,
        on_failure: OnFailure,
        threads: int | None,
        gpu: int = 0,
    ) -> None:
        self._bundle = bundle
        self._backend = backend
        self._on_failure = on_failure
        self._threads = threads
        self._gpu = gpu
        self._precision = self._choose(precision)
        self._deep_precision: Arithmetic = self._precision if precision != "auto" else self._fallback()
        self._engines: dict[tuple[Form, Arithmetic, int, tuple[str, ...]], Engine] = {}
        self._lock = threading.Lock()
        self._sizes: set[tuple[int, int]] = set()
        self._is_closed = False
        self.precision = self._precision if bundle.card.channels == 3 else self._deep_precision
        self.description = f"{self._backend.name} {self.precision}"

    def settle(self, height: int, width: int) -> None:
        """Be told that many windows of this size will come."""
        self._sizes.add((height, width))

    def run(self, window: Array, *, top: int, left: int) -> tuple[Array, TileOutcome]:
        """(h,w,C) -> (sh,sw,C) of the same dtype, C 3 (RGB) or 1 (gray); `top`, `left`: where in the image, for the message.

        Raises: UnhealthyOutputError, EngineError.
        """
        form: Form = "pixels" if window.dtype == np.uint8 and self._bundle.card.channels == 3 else "float"
        first = self._precision if form == "pixels" else self._deep_precision
        brightness = _brightness(window)
        precisions = dict.fromkeys((first, self._fallback()))
        for precision in precisions:
            large, health = self._attempt(window, form, precision)
            if is_healthy(health, brightness) or (np.isfinite(health) and _is_true_to(window, large)):
                return large, "good" if precision == first else "recomputed"
        if self._on_failure == "bicubic":
            return _bicubic(window, self._bundle.card.scale), "replaced"
        height, width = window.shape[:2]
        raise UnhealthyOutputError(
            f"{self._bundle.card.name} gives unusable pixels (mean {health:.3g} for an input of mean {brightness:.3g}) in "
            f"{' and '.join(precisions)} for the tile x={left} y={top} {width}x{height}; "
            "the network diverges on this content: take bicubic there (on_failure='bicubic', no --strict) or another network"
        )

    def device_engine(self, dtype: DTypeLike, gpu: int, options: tuple[str, ...] = ()) -> DeviceEngine:
        """The engine on that GPU that RGB frames of that dtype go to first; for backends that have one, and these options.

        8-bit frames go through the planes form where the backend wants it, but for mask-guided networks, whose refined patches
        are bytes. Frames of fp16 are computed as 8-bit frames are, those of fp32 as deep ones.

        Raises: BundleError, BackendUnavailableError, OutOfMemoryError, EngineError.
        """
        bytes_as: Form = "planes" if self._backend.planes and not self._bundle.card.masked else "pixels"
        form: Form = bytes_as if np.dtype(dtype) == np.uint8 else "float"
        precision = self._deep_precision if np.dtype(dtype) == np.float32 else self._precision
        return cast("DeviceEngine", self._engine(form, precision, gpu, options))

    def _engine(self, form: Form, precision: Arithmetic, gpu: int, options: tuple[str, ...] = ()) -> Engine:
        key = (form, precision, gpu, options)
        with self._lock:
            if self._is_closed:
                raise UsageError(f"this Upscaler of {self._bundle.card.name} is closed; open a new one")
            if key not in self._engines:
                self._engines[key] = self._open(form, precision, gpu, options=options)
            return self._engines[key]

    def _open(self, form: Form, precision: Arithmetic, gpu: int, part: Part = "", options: tuple[str, ...] = ()) -> Engine:
        if form == "pixels":
            graph = load_pixel_form(self._bundle, precision, part, cast_last=self._backend.cast_last)
        elif form == "planes":
            from sr_deploy.engines.planes import load_planes_form

            graph = load_planes_form(self._bundle, precision)
        else:
            graph = load_float_form(self._bundle, precision, part)
        contents = graph.SerializeToString(deterministic=True)
        return self._backend.with_options(options).open(contents, precision=precision, threads=self._threads, gpu=gpu)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()

    def _choose(self, precision: PrecisionChoice) -> Arithmetic:
        chosen = self._fastest() if precision == "auto" else precision
        if chosen not in (named := self._backend.precisions()):
            raise UsageError(
                f"{self._backend.name} does not compute {chosen} here, only {', '.join(named)}; "
                "choose one of these with --precision, or another --backend"
            )
        self._bundle.graph(chosen, self._bundle.card.parts[0])
        return chosen

    def _fastest(self) -> Arithmetic:
        order: tuple[Arithmetic, ...] = ("bf16", "int8") if self._backend.device == "cpu" else ("fp16",)
        native = self._backend.usable_precisions()
        return next((fast for fast in order if fast in native and self._bundle.runs(fast)), self._fallback())

    def _fallback(self) -> Arithmetic:
        """The highest precision that the bundle has a graph for."""
        return "fp32" if self._bundle.runs("fp32") else "fp16"

    def _attempt(self, window: Array, form: Form, precision: Arithmetic) -> tuple[Array, float]:
        engine = self._engine(form, precision, self._gpu)
        height, width = window.shape[:2]
        if (height, width) in self._sizes:
            engine.settle((1, height, width, 3) if form == "pixels" else (1, self._bundle.card.channels, height, width))
        if form == "pixels":
            rgb = window if window.shape[2] == 3 else np.repeat(window, 3, axis=2)
            results = engine.run({INPUT: np.ascontiguousarray(rgb)[None]})
            large = results[OUTPUT][0]
            return large if window.shape[2] == 3 else _gray_of(large), float(results[HEALTH][0])
        return self._attempt_floats(engine, window)

    def _attempt_floats(self, engine: Engine, window: Array) -> tuple[Array, float]:
        from sr_deploy.pictures.color import from_float, to_float

        floats = to_float(window)
        if self._bundle.card.channels == 3:
            rgb = floats if window.shape[2] == 3 else np.repeat(floats, 3, axis=2)
            result, health = _run_planar(engine, rgb)
            return from_float(result if window.shape[2] == 3 else result.mean(axis=2, keepdims=True), window.dtype), health
        result, health = self._luma(engine, floats)
        return from_float(result, window.dtype), health

    def _luma(self, engine: Engine, floats: Array) -> tuple[Array, float]:
        """A luma network upscales Y; Cb and Cr are upscaled by bicubic."""
        from sr_deploy.pictures.color import gray_to_luma, luma_to_gray, rgb_to_ycbcr, ycbcr_to_rgb

        if floats.shape[2] == 1:
            luma, health = _run_planar(engine, gray_to_luma(floats))
            return luma_to_gray(luma), health
        ycbcr = rgb_to_ycbcr(floats)
        luma, health = _run_planar(engine, ycbcr[..., :1])
        chroma = _bicubic(np.ascontiguousarray(ycbcr[..., 1:]), self._bundle.card.scale)
        return np.clip(ycbcr_to_rgb(np.concatenate([luma, chroma], axis=2)), 0.0, 1.0), health


def _run_planar(engine: Engine, image: Array) -> tuple[Array, float]:
    """(h,w,C) float32 through the float form."""
    (spec,) = engine.inputs
    results = engine.run({spec.name: np.ascontiguousarray(image.transpose(2, 0, 1)[None]).astype(spec.dtype)})
    name = next(output.name for output in engine.outputs if output.name != HEALTH)
    large = np.ascontiguousarray(results[name][0].transpose(1, 2, 0), dtype=np.float32)
    return large, float(results[HEALTH][0])


def _is_true_to(window: Array, large: Array) -> bool:
    """Whether `large`, shrunk, is at most half as far from the window as what bicubic makes of it.

    Where black and white alternate from pixel to pixel, a network may overshoot far beyond them, and be right once clamped.
    """
    bicubic = _bicubic(window, large.shape[0] // window.shape[0])
    return _error_of_shrunk(large, window) <= 0.5 * _error_of_shrunk(bicubic, window)


def _error_of_shrunk(large: Array, window: Array) -> float:
    """Mean absolute difference."""
    import cv2

    from sr_deploy.pictures.color import to_float

    height, width = window.shape[:2]
    shrunk = cv2.resize(to_float(large), (width, height), interpolation=cv2.INTER_AREA).reshape(window.shape)
    return float(np.abs(shrunk - to_float(window)).mean(dtype=np.float64))


def _bicubic(window: Array, scale: int) -> Array:
    """(h,w,C) -> (sh,sw,C)"""
    import cv2

    height, width = window.shape[:2]
    large: Array = np.empty((height * scale, width * scale, window.shape[2]), window.dtype)
    cv2.resize(window, (width * scale, height * scale), dst=large, interpolation=cv2.INTER_CUBIC)
    return large


def _gray_of(rgb: Array) -> Array:
    """Mean of three 8-bit channels, rounded."""
    total: Array = rgb.sum(axis=2, keepdims=True, dtype=np.uint16)
    return ((total + 1) // 3).astype(np.uint8)


def _brightness(window: Array) -> float:
    full_scale = 1.0 if window.dtype == np.float32 else float(np.iinfo(window.dtype).max)
    return float(window.mean(dtype=np.float64)) / full_scale
