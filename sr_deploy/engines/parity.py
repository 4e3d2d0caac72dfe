"""Whether a bundle still computes here what its checkpoint computed."""

from __future__ import annotations

import dataclasses
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.bundle import PROBE_FILE, Bundle
from sr_deploy.card import Link, Masked
from sr_deploy.engines import Arithmetic, available_backends, open_engine, select_backend
from sr_deploy.engines.difference import MAX_LSB, compare
from sr_deploy.engines.engine import Engine
from sr_deploy.engines.int8_loss import measure_loss
from sr_deploy.engines.patches import best, crops, paste
from sr_deploy.engines.pixels import (
    COARSE,
    FEATURES,
    HEALTH,
    INPUT,
    OUTPUT,
    PATCHES,
    REFINED,
    SCORES,
    load_pixel_form,
)
from sr_deploy.engines.planes import WHITE, load_planes_form
from sr_deploy.errors import BundleError

_LARGEST_PROBES = 256 << 20


def verify(bundle: Bundle, *, backend: str | None = None) -> tuple[Link, ...]:
    """Run every graph of `bundle` on this machine's backends, against the original module's outputs in its probe.

    Without `backend`, all that load here. Each backend runs the portable graphs and their pixel forms, and planes forms where
    frames take them, in every precision that it computes natively.

    Raises: BackendUnavailableError, BundleError when the bundle carries no probe, or nothing of it runs here.
    """
    names = [select_backend(backend).name] if backend else list(available_backends())
    check = _verify_parts if bundle.card.masked else _verify_backend
    try:
        links = tuple(link for name in names for link in check(bundle, name))
    except (ValueError, IndexError, TypeError) as exc:
        raise BundleError(f"{bundle.folder}: its probe does not fit its graphs ({exc}); export the bundle again") from exc
    if not links:
        raise BundleError(f"{bundle.folder}: nothing to compare, no graph of it runs on {', '.join(names)}; export it again")
    return links


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
        graph = load_pixel_form(bundle, precision, cast_last=select_backend(backend).cast_last)
        with open_engine(graph, backend=backend, precision=precision) as engine:
            for probe, (image, expected) in probes.items():
                yield _compare_pixels(engine.run({INPUT: _to_bytes(image)}), expected, target, probe, precision, scale)
        stored = bundle.graphs.get(precision)
        if stored is not None and stored.loss is not None and bundle.runs("fp32"):
            graphs = bundle.graph("fp32"), bundle.graph(precision)
            yield measure_loss(bundle.card, *graphs, precision=stored.precision, backend=backend, loss=stored.loss)
        if select_backend(backend).planes:
            with open_engine(load_planes_form(bundle, precision), backend=backend, precision=precision) as engine:
                for probe, (image, expected) in probes.items():
                    found = _shuffled(engine, image)
                    label = f"{target} planes"
                    yield compare(
                        expected, found, scale=scale, source="original", target=label, probe=probe, precision=precision
                    )


def _shuffled(engine: Engine, image: Array) -> Array:
    """The image that an engine in planes form gives, (N,C,sH,sW) float32 in about [0,1]."""
    (spec,), (output,) = engine.inputs, engine.outputs
    planes = engine.run({spec.name: image.astype(spec.dtype)})[output.name].astype(np.float32)
    count, channels, height, width = planes.shape
    block = math.isqrt(channels // image.shape[1])
    blocks = planes.reshape(count, image.shape[1], block, block, height, width).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(count, image.shape[1], height * block, width * block) / np.float32(WHITE[output.name])


def _compare_pixels(
    results: dict[str, Array], expected: Array, target: str, probe: str, precision: Arithmetic, scale: int
) -> Link:
    """The pixel form against the original; fp32 may round the other way at a half, so its floor is 1 LSB."""
    pixels = results[OUTPUT].transpose(0, 3, 1, 2).astype(np.float32) / 255.0
    if not np.isfinite(results[HEALTH]).all():
        pixels = np.full_like(pixels, np.nan)
    rounded = np.round(np.clip(expected, 0, 1) * 255.0) / 255.0
    link = compare(rounded, pixels, scale=scale, source="original", target=f"{target} pixels", probe=probe, precision=precision)
    return _judge_pixels(link, precision)


def _judge_pixels(link: Link, precision: Arithmetic) -> Link:
    if precision != "fp32":
        return link
    return dataclasses.replace(link, floor=f"max <= {MAX_LSB['pixels']} LSB", passed=link.max_lsb <= MAX_LSB["pixels"] + 1e-3)


def read_probes(bundle: Bundle) -> dict[str, tuple[Array, Array]]:
    """Inputs (N,C,H,W) in [0,1], multiples of 1/255, and the original module's outputs, by probe name.

    Raises: BundleError.
    """
    probes = {name: (arrays["input"], arrays["output"]) for name, arrays in _stored(bundle, ("input", "output")).items()}
    for name, (image, output) in probes.items():
        _check_probe(bundle, name, image, output)
    return probes


def _check_probe(bundle: Bundle, name: str, image: Array, output: Array) -> None:
    """Raises: BundleError for arrays that are no image and its upscaled one."""
    card = bundle.card
    fits = image.ndim == 4 and image.shape[1] == card.channels and image.size > 0
    wanted = (*image.shape[:2], *(side * card.scale for side in image.shape[2:]))
    sane = all(array.dtype == np.float32 and bool(np.isfinite(array).all()) for array in (image, output))
    if not (fits and sane and output.shape == wanted and image.min() >= 0 and image.max() <= 1):
        raise BundleError(
            f"{bundle.folder / PROBE_FILE}: '{name}' is {list(image.shape)} {image.dtype} with {list(output.shape)}, expected "
            f"an image in [0, 1] of {card.channels} channels and what x{card.scale} makes of it; export the bundle again"
        )


def _stored(bundle: Bundle, kinds: tuple[str, ...]) -> dict[str, dict[str, Array]]:
    path = bundle.folder / PROBE_FILE
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > _LARGEST_PROBES:
                raise ValueError("far larger than what an export writes")
        with np.load(path) as arrays:
            names = sorted({key.rsplit(".", 1)[0] for key in arrays.files})
            stored = {name: {kind: arrays[f"{name}.{kind}"] for kind in kinds} for name in names}
    except Exception as exc:  # a damaged archive makes zipfile and numpy raise anything
        raise BundleError(
            f"{path}: cannot be read ({exc}); only a bundle made by `sr-deploy export` can verify itself"
        ) from exc
    if not stored:
        raise BundleError(f"{path}: holds no probe, so there is nothing to compare; export the bundle again")
    return stored


def _to_bytes(image: Array) -> Array:
    return np.ascontiguousarray(np.round(image * 255.0).astype(np.uint8).transpose(0, 2, 3, 1))


# Mask-guided networks.

Look = Callable[[Array], tuple[Array, Array, Array]]
"""(1,C,H,W) in [0,1] -> coarse, features, scores, as a bundle's base gives them, in float32."""

Refine = Callable[[Array], Array]
"""(K,F,side,side) -> (K,C,sP,sP), about in [0,1], in float32."""


@dataclass(frozen=True)
class MaskedProbe:
    """What the original of a mask-guided network gave for `input`, images in [0,1], all in float32.

    `chosen` are the patches with the highest of its `scores`, `pixels` (K,C,sP,sP) what its refine network made of them, and
    `patches` (S,F,side,side) what that saw of some: those at the places `sample` among the chosen.
    """

    input: Array
    coarse: Array
    scores: Array
    chosen: Array
    pixels: Array
    sample: Array
    patches: Array

    @property
    def output(self) -> Array:
        """The image with the chosen patches refined."""
        return paste(self.coarse, self.pixels, self.chosen)


def read_masked_probes(bundle: Bundle) -> dict[str, MaskedProbe]:
    """What the original gave, by probe name.

    Raises: BundleError.
    """
    kinds = tuple(field.name for field in dataclasses.fields(MaskedProbe))
    return {name: MaskedProbe(**arrays) for name, arrays in _stored(bundle, kinds).items()}


def compare_parts(
    probe: MaskedProbe,
    look: Look,
    refine: Refine,
    *,
    masked: Masked,
    scale: int,
    target: str,
    name: str,
    precision: Arithmetic,
    in_pixels: bool = False,
) -> list[Link]:
    """Measure the parts of a mask-guided network, and the image that they make, against the original; `name` is the probe's.

    The image has the original's choice of patches; the link says how many others the scores given here would have chosen.
    `in_pixels` is for images that were rounded to 8 bits.
    """
    coarse, features, scores = look(probe.input)
    patches = crops(features, probe.chosen, patch=masked.patch, padding=masked.padding)
    whole = paste(coarse, refine(patches), probe.chosen)

    def image(kind: str, reference: Array, array: Array) -> Link:
        reference = np.round(reference * 255) / np.float32(255) if in_pixels else reference
        link = compare(
            reference, array, scale=scale, source="original", target=f"{target}: {kind}", probe=name, precision=precision
        )
        return _judge_pixels(link, precision) if in_pixels else link

    def values(kind: str, reference: Array, array: Array, floor: Arithmetic) -> Link:
        span = 2 * float(np.abs(reference).max()) or 1.0
        pair = (reference / span + 0.5, array / span + 0.5)
        return compare(*pair, scale=1, source="original", target=f"{target}: {kind}", probe=name, precision=floor)

    moved = len(np.setdiff1d(best(scores, len(probe.chosen)), probe.chosen))
    return [
        image("coarse", probe.coarse, coarse),
        values("features", probe.patches, patches[probe.sample], precision),
        # Scores only order patches: rounding changes no pixel but which of two near ones is refined.
        values("scores", probe.scores, scores, "fp32" if precision == "fp32" else "bf16"),
        image("patches", probe.pixels[probe.sample], refine(probe.patches)),
        dataclasses.replace(image("image", probe.output, whole), selected=len(probe.chosen), moved=moved),
    ]


def parts_of(base: Engine, refine: Engine) -> tuple[Look, Refine]:
    """The portable graphs of a mask-guided network as functions."""
    dtype = base.inputs[0].dtype

    def look(image: Array) -> tuple[Array, Array, Array]:
        results = base.run({base.inputs[0].name: image.astype(dtype)})
        coarse, features, scores = (results[name].astype(np.float32) for name in (COARSE, FEATURES, SCORES))
        return coarse, features, scores

    return look, lambda patches: refine.run({PATCHES: patches.astype(dtype)})[REFINED].astype(np.float32)


def _pixel_parts_of(base: Engine, refine: Engine) -> tuple[Look, Refine]:
    """The pixel forms of both graphs as functions; an image whose health is not finite is NaN."""

    def planar(results: dict[str, Array]) -> Array:
        image = results[OUTPUT].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        image[~np.isfinite(results[HEALTH])] = np.nan
        return image

    def look(image: Array) -> tuple[Array, Array, Array]:
        results = base.run({INPUT: _to_bytes(image)})
        return planar(results), results[FEATURES].astype(np.float32), results[SCORES]

    return look, lambda patches: planar(refine.run({PATCHES: patches.astype(refine.inputs[0].dtype)}))


def _verify_parts(bundle: Bundle, backend: str) -> Iterator[Link]:
    masked, probes = bundle.card.masked, read_masked_probes(bundle)
    assert masked is not None
    for precision in available_backends()[backend]:
        if not bundle.runs(precision):
            continue
        for in_pixels in (False, True):
            with _open_parts(bundle, backend, precision, in_pixels=in_pixels) as (look, refine):
                for name, probe in probes.items():
                    yield from compare_parts(
                        probe,
                        look,
                        refine,
                        masked=masked,
                        scale=bundle.card.scale,
                        target=f"{backend} {precision}" + " pixels" * in_pixels,
                        name=name,
                        precision=precision,
                        in_pixels=in_pixels,
                    )


@contextmanager
def _open_parts(bundle: Bundle, backend: str, precision: Arithmetic, *, in_pixels: bool) -> Iterator[tuple[Look, Refine]]:
    cast_last = select_backend(backend).cast_last
    base, refine = (
        load_pixel_form(bundle, precision, part, cast_last=cast_last) if in_pixels else bundle.graph(precision, part)
        for part in bundle.card.parts
    )
    with (
        open_engine(base, backend=backend, precision=precision) as looking,
        open_engine(refine, backend=backend, precision=precision) as refining,
    ):
        yield (_pixel_parts_of if in_pixels else parts_of)(looking, refining)
