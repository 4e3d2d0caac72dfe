"""Bundle -> engine file: the graph in its pixel form, the key, and a build only where the cache has none."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from onnx import ModelProto

from sr_deploy.bundle import Bundle
from sr_deploy.card import Masked, ModelCard, Part, Precision
from sr_deploy.device.gpu import GPU, find_gpus
from sr_deploy.engines.pixels import INPUT, PATCHES, load_float_form, load_pixel_form
from sr_deploy.engines.tensorrt.cache import EngineCache, EngineFile, EngineKey, EngineRecord, ShapeRange
from sr_deploy.engines.tensorrt.compile import BuildProgress, compile_engine, flags_of, require_listed, why_stale
from sr_deploy.engines.tensorrt.library import FLAVOURS, TENSORRT_RTX, Flavour, Library, load_library
from sr_deploy.engines.tensorrt.target import BuildSettings
from sr_deploy.errors import BackendUnavailableError, EngineError, MissingDependencyError, UsageError

Say = Callable[[str], None]

TURING = "7.5"
"""TensorRT for RTX 1.7 stores tables of the size of the image for it where shapes are static: 1 kB per pixel for BSRN."""

USUAL_SHARE, LARGEST_SHARE = 0.2, 0.25
"""Of an image's patches, what a refine network takes in one run. An engine keeps memory for its largest run; more patches go in
several runs, which are large enough to lose nothing by it."""


@dataclass(frozen=True)
class BuiltEngine:
    """An engine file with its record; `compiled` is False when it was there already."""

    path: Path
    record: EngineRecord
    compiled: bool


def build_engine(
    bundle: Bundle,
    library: Library,
    settings: BuildSettings,
    *,
    folder: Path,
    precision: Precision = "fp16",
    pixels: bool = True,
    part: Part = "",
    gpu: GPU | None = None,
    say: Say | None = None,
    progress: BuildProgress | None = None,
) -> BuiltEngine:
    """The engine of a bundle in `folder`, compiled unless one with the same key is there and whole.

    A mask-guided network is compiled `part` by part, those that its card names.

    `pixels` compiles the pixel form (uint8 in and out, with a health output), else the graph as it is. `gpu` is the one that
    TensorRT builds on (default: the first of this machine); TensorRT for RTX needs none. `say` is told why an engine is built
    again. However a build ends, no half-written file stays.

    Raises: UsageError, BundleError, BackendUnavailableError, OutOfMemoryError, EngineError.
    """
    _check_sizes(bundle.card, settings)
    if library.flavour.builds_ahead:
        require_listed(library, settings.compute_capabilities)
    graph = engine_graph(bundle, precision=precision, pixels=pixels, part=part)
    card = replace(bundle.card, name=f"{bundle.card.name} {part}".rstrip())
    return build_graph(graph, card, library, settings, folder=folder, precision=precision, gpu=gpu, say=say, progress=progress)


def build_graph(
    graph: ModelProto,
    card: ModelCard,
    library: Library,
    settings: BuildSettings,
    *,
    folder: Path,
    precision: Precision,
    gpu: GPU | None = None,
    say: Say | None = None,
    notice: str = "",
    progress: BuildProgress | None = None,
) -> BuiltEngine:
    """As `build_engine`, of a graph in the form that `engine_graph` returns, or of any other image graph.

    `notice` is said when there is something to compile.

    Raises: UsageError, BackendUnavailableError, OutOfMemoryError, EngineError.
    """
    say = say or (lambda _: None)
    gpu = _gpu_of_engine(library, settings, gpu)
    contents = graph_bytes(graph)
    key = EngineKey(
        graph=hashlib.sha256(contents).hexdigest(),
        form="pixels" if _is_pixel_form(graph) else "plain",
        precision=precision,
        shapes=engine_shapes(graph, settings, card.masked),
        library=library.flavour.name,
        version=library.version,
        flags=flags_of(library.flavour),
        capabilities=settings.compute_capabilities,
        workspace=settings.workspace,
        optimization_level=settings.optimization_level,
        gpu="" if gpu is None else str(gpu),
    )
    cache = EngineCache(folder)
    if (found := _usable(cache, key, library, lambda _: None)) is not None:
        return found
    with cache.locked():
        if (found := _usable(cache, key, library, say)) is not None:
            return found
        if settings.static is not None and TURING in settings.compute_capabilities:
            say(f"static shapes make engines for {TURING} many times larger; leave it out, or give --min, --opt and --max")
        if notice:
            say(notice)
        return _compile(contents, key, card, library, cache, progress)


def _compile(
    graph: bytes, key: EngineKey, card: ModelCard, library: Library, cache: EngineCache, progress: BuildProgress | None
) -> BuiltEngine:
    start = time.monotonic()
    compiled = compile_engine(
        graph,
        library,
        shapes=key.shapes,
        capabilities=key.capabilities,
        workspace=key.workspace,
        optimization_level=key.optimization_level,
        timing_cache=cache.timings(key),
        progress=progress,
    )
    seconds = round(time.monotonic() - start, 3)
    if compiled.timing_cache:
        cache.store_timings(key, compiled.timing_cache)
    inputs, outputs = tuple(map(str, compiled.inputs)), tuple(map(str, compiled.outputs))
    record = cache.store(EngineRecord(card.name, card.scale, key, inputs, outputs, seconds), compiled.engine)
    return BuiltEngine(cache.path(key), record, compiled=True)


def engine_graph(bundle: Bundle, *, precision: Precision, pixels: bool, part: Part = "") -> ModelProto:
    """The graph that is compiled, which is the one that `Upscaler` runs.

    Raises: BundleError, EngineError.
    """
    return load_pixel_form(bundle, precision, part, cast_last=True) if pixels else load_float_form(bundle, precision, part)


def graph_bytes(graph: ModelProto) -> bytes:
    """What engines are built from, and known by."""
    contents: bytes = graph.SerializeToString(deterministic=True)
    return contents


def engine_shapes(graph: ModelProto, settings: BuildSettings, masked: Masked | None = None) -> dict[str, ShapeRange]:
    """Smallest, usual and largest shape of the graph's input; a side that the graph fixes stays as it is.

    A refine network takes from 1 patch to `LARGEST_SHARE` of those of the largest image at once. Where no card says how large a
    patch is (`masked`), it is taken to be as large as its crop.

    Raises: UsageError.
    """
    source = graph.graph.input[0]
    fixed = [dim.dim_value for dim in source.type.tensor_type.shape.dim]
    if len(fixed) != 4:
        raise UsageError(f"'{source.name}' has {len(fixed)} dimensions; expected images, (N,C,H,W), or their pixel form")
    if source.name == PATCHES:
        area = masked.patch**2 if masked else fixed[2] * fixed[3]
        _, usual_patches, most_patches = (width * height // area for width, height in settings.sizes())
        counts = 1, math.ceil(USUAL_SHARE * usual_patches), math.ceil(LARGEST_SHARE * most_patches)
        least, usual, largest = ((count, *fixed[1:]) for count in counts)
        return {source.name: (least, usual, largest)}
    batches = (settings.batch if settings.static is not None else 1, settings.batch, settings.batch)
    wanted = [
        (batch, height, width, 0) if _is_pixel_form(graph) else (batch, 0, height, width)
        for batch, (width, height) in zip(batches, settings.sizes(), strict=True)
    ]
    least, usual, largest = (tuple(own or side for own, side in zip(fixed, sides, strict=True)) for sides in wanted)
    return {source.name: (least, usual, largest)}


def fitting_engines(graph: bytes, library: Library, gpu: GPU, folders: Iterable[Path]) -> Iterator[BuiltEngine]:
    """Engines of that graph, for any sizes, that this library runs on this GPU: folder by folder, the newest first."""
    digest = hashlib.sha256(graph).hexdigest()

    def fits(record: EngineRecord) -> bool:
        key = record.key
        is_ours = (key.graph, key.library, key.version) == (digest, library.flavour.name, library.version)
        runs = gpu.capability in key.capabilities or key.gpu == str(gpu)
        return is_ours and runs and key.flags == flags_of(library.flavour)

    for folder in folders:
        for entry in EngineCache(folder).fitting(fits):
            if entry.record is not None and not entry.problem:
                yield BuiltEngine(entry.path, entry.record, compiled=False)


def problem_of(entry: EngineFile) -> str:
    """Why an engine of a folder is of no use any more, '' when nothing speaks against it.

    It is damaged, or the library that built it is installed here in another version.
    """
    if entry.problem or entry.record is None:
        return entry.problem
    key = entry.record.key
    flavour = next((flavour for flavour in FLAVOURS if flavour.name == key.library), None)
    if flavour is None:
        return f"built by {key.library}, which this sr-deploy does not know"
    try:
        installed = load_library(flavour).version
    except MissingDependencyError:
        return ""
    return "" if installed == key.version else f"built by {flavour.name} {key.version}, installed is {installed}"


def _is_pixel_form(graph: ModelProto) -> bool:
    return bool(graph.graph.input[0].name == INPUT)


def _usable(cache: EngineCache, key: EngineKey, library: Library, say: Say) -> BuiltEngine | None:
    """What the cache has under that key, if it is good."""
    entry = cache.find(key)
    if entry is None:
        return None
    problem = entry.problem or _stale(entry.path, library)
    if problem or entry.record is None:
        say(f"{entry.path.name} cannot be used ({problem}); building it again")
        return None
    return BuiltEngine(entry.path, entry.record, compiled=False)


def _stale(path: Path, library: Library) -> str:
    try:
        return why_stale(path.read_bytes(), library)
    except (EngineError, OSError) as exc:
        return str(exc)


def _gpu_of_engine(library: Library, settings: BuildSettings, gpu: GPU | None) -> GPU | None:
    """The GPU that an engine is of; none where it is of compute capabilities that TensorRT for RTX lists."""
    if not library.flavour.builds_ahead:
        return gpu or _gpu_of_this_machine(library.flavour)
    return None if set(settings.compute_capabilities) & set(library.capabilities()) else gpu


def _gpu_of_this_machine(flavour: Flavour) -> GPU:
    try:
        return find_gpus()[0]
    except BackendUnavailableError as exc:
        raise BackendUnavailableError(
            f"{flavour.title} builds on the GPU that runs the engine: {exc}; or build for RTX GPUs on this machine with "
            f"{TENSORRT_RTX.title} (`--target rtx`)"
        ) from exc


def _check_sizes(card: ModelCard, settings: BuildSettings) -> None:
    sizes = settings.sizes()
    if settings.batch < 1:
        raise UsageError(f"batch {settings.batch}: expected 1 or more")
    least = min(sizes[0])
    if least < card.min_size:
        raise UsageError(f"{card.name} takes no side below {card.min_size} pixels, the smallest size has {least}")
    odd = [f"{width}x{height}" for width, height in sizes if width % card.size_multiple or height % card.size_multiple]
    if odd:
        raise UsageError(f"{card.name} takes sides that are multiples of {card.size_multiple}, not {odd[0]}")
