"""Every network, compiled for real by TensorRT for RTX, which needs no GPU for that."""

from __future__ import annotations

import dataclasses
import functools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper

from sr_deploy.architectures import REGISTRY, reparameterize
from sr_deploy.architectures.mga import MaskGuided
from sr_deploy.card import ModelCard
from sr_deploy.device.device import Device
from sr_deploy.device.gpu import GPU, survey
from sr_deploy.engines.facts import graph_facts
from sr_deploy.engines.open import open_bundle
from sr_deploy.engines.pixels import (
    FEATURES,
    HEALTH,
    INPUT,
    OUTPUT,
    PATCHES,
    SCORES,
    to_pixel_form,
    to_refine_form,
    with_health,
)
from sr_deploy.engines.tensorrt.build import build_engine
from sr_deploy.engines.tensorrt.compile import CURRENT, Compiled, compile_engine, why_stale
from sr_deploy.engines.tensorrt.library import TENSORRT_RTX, Library, load_library
from sr_deploy.engines.tensorrt.open import open_graph
from sr_deploy.engines.tensorrt.support import targets_for
from sr_deploy.engines.tensorrt.target import BuildSettings
from sr_deploy.errors import BackendUnavailableError, EngineError, UsageError
from sr_deploy.export.activations import measure_activations
from sr_deploy.export.int8 import quantize
from sr_deploy.export.int8.speed import STORED
from sr_deploy.export.precision import to_fp16
from sr_deploy.export.trace import trace, trace_parts
from tests import short_and_long
from tests.graphs import image_graph, save

pytest.importorskip("tensorrt_rtx_bindings")

CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0")
NETWORKS = tuple(entry.name for entry in REGISTRY if not entry.mask_guided)
SHORT = ("ecbsr",)
"""Compiling the others is for the long tests."""


@pytest.fixture(scope="module")
def library() -> Library:
    return load_library(TENSORRT_RTX)


@functools.cache
def traced(name: str) -> ModelProto:
    """The fp32 graph of a network as wide as published and two blocks deep, with random weights."""
    entry: Any = next(entry for entry in REGISTRY if entry.name == name)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = entry.default
    if hasattr(config, "blocks"):
        config = dataclasses.replace(config, blocks=2)
    module = reparameterize(entry.build(config).eval(), 1.0).module
    model = trace(module, channels=config.colors)
    torch.set_num_threads(threads)
    return model


@pytest.fixture(scope="module")
def graph_of() -> Callable[[str], ModelProto]:
    """The fp16 graph of a network."""
    done: dict[str, ModelProto] = {}

    def make(name: str) -> ModelProto:
        if name not in done:
            model = traced(name)
            colors = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
            probe = np.random.default_rng(0).random((1, colors, 24, 24), dtype=np.float32)
            done[name] = to_fp16(model, measure_activations(model, {"x": probe})).model
        return done[name]

    return make


def compiled(graph: ModelProto, library: Library, *sizes: tuple[int, int], **options: Any) -> Compiled:
    """Sizes are (height, width)."""
    source = graph.graph.input[0]
    dims = [dim.dim_value for dim in source.type.tensor_type.shape.dim]
    pixels = source.name == INPUT
    shapes = [(1, *size, dims[3]) if pixels else (1, dims[1], *size) for size in sizes]
    return compile_engine(graph, library, shapes={source.name: tuple(shapes)}, **options)  # type: ignore[dict-item]


def capabilities_of(name: str, form: str) -> tuple[str, ...]:
    """All five generations for one network, and one for each of the others, another for each form: a build takes that long."""
    if name in (*SHORT, "rfdn_mga"):
        return CAPABILITIES
    number = [entry.name for entry in REGISTRY].index(name) + (form == "pixels")
    return (CAPABILITIES[number % len(CAPABILITIES)],)


@pytest.mark.parametrize("form", ["plain", "pixels"])
@pytest.mark.parametrize("name", short_and_long(NETWORKS, SHORT))
def test_every_network_compiles(name: str, form: str, graph_of: Callable[[str], ModelProto], library: Library) -> None:
    graph = graph_of(name) if form == "plain" else to_pixel_form(graph_of(name), cast_last=True)
    result = compiled(graph, library, (64, 64), (540, 960), (1920, 1920), capabilities=capabilities_of(name, form))
    assert len(result.engine) > 100_000
    assert [spec.name for spec in result.inputs] == [value.name for value in graph.graph.input]
    assert [spec.name for spec in result.outputs] == [value.name for value in graph.graph.output]
    if form == "plain":
        assert {spec.dtype for spec in (*result.inputs, *result.outputs)} == {np.dtype(np.float16)}
    else:
        upscaled, health = result.outputs
        assert (upscaled.name, upscaled.dtype, health.name, health.dtype) == (OUTPUT, np.uint8, HEALTH, np.float32)
        assert result.inputs[0].shape[1:3] == (-1, -1)
    assert why_stale(result.engine, library) == ""
    assert read_back(result.engine) == library.version.rsplit(".", 1)[0]
    assert all(spec.name.encode() in result.engine for spec in (*result.inputs, *result.outputs))


@pytest.mark.parametrize("name", short_and_long(NETWORKS, SHORT))
def test_every_network_compiles_in_8_bits(name: str, library: Library) -> None:
    """As many convs as pay, whatever they lose, in both forms."""
    model = traced(name)
    facts = graph_facts(model)
    card = ModelCard(name, name, facts.scale, facts.channels, min_size=facts.min_size)  # type: ignore[arg-type]
    made = quantize(model, card, loss=100.0, symmetric=True, speed=STORED)
    if made.model is None:
        pytest.skip(f"8 bits gain {made.factor:.2f} times: too little for this network")
    for graph, capabilities in ((made.model, CAPABILITIES), (to_pixel_form(made.model, cast_last=True), CAPABILITIES[:1])):
        result = compiled(graph, library, (64, 64), (540, 960), (1920, 1920), capabilities=capabilities)
        assert len(result.engine) > 100_000
        assert why_stale(result.engine, library) == ""


@functools.cache
def halved_parts(name: str) -> tuple[ModelProto, ModelProto]:
    """The fp16 graphs of base and refine network, small and with random weights."""
    entry = next(entry for entry in REGISTRY if entry.name == name)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = dataclasses.replace(entry.default, channels=16, blocks=2, refine_blocks=1)
    network = reparameterize(entry.build(config).eval(), 1.0).module
    assert isinstance(network, MaskGuided)
    base, refine = trace_parts(network, channels=3, size_multiple=4)
    torch.set_num_threads(threads)
    return to_fp16(base, {}).model, to_fp16(refine, {}).model


@pytest.mark.parametrize("form", ["plain", "pixels"])
@pytest.mark.parametrize("name", short_and_long(("rfdn_mga", "pan_mga"), SHORT))
def test_both_graphs_of_a_mask_guided_network_compile(name: str, form: str, library: Library) -> None:
    base, refine = halved_parts(name)
    _, features, *_ = (dim.dim_value for dim in refine.graph.input[0].type.tensor_type.shape.dim)
    if form == "plain":
        base, refine = with_health(base), with_health(refine)
    else:
        base, refine = to_pixel_form(base, cast_last=True), to_refine_form(refine, cast_last=True)
    generations = capabilities_of(name, form)
    looks = compiled(base, library, (64, 64), (540, 960), (1920, 1920), capabilities=generations)
    counts = ((1, features, 6, 6), (1024, features, 6, 6), (8192, features, 6, 6))
    refines = compile_engine(refine, library, shapes={PATCHES: counts}, capabilities=generations)
    for result, graph in ((looks, base), (refines, refine)):
        assert [spec.name for spec in result.outputs] == [value.name for value in graph.graph.output]
        assert why_stale(result.engine, library) == ""
    assert {spec.name: spec.dtype for spec in looks.outputs}[SCORES] == np.float32
    assert {spec.name: spec.dtype for spec in looks.outputs}[FEATURES] == refines.inputs[0].dtype == np.float16
    assert refines.inputs[0].shape == (-1, features, 6, 6)


def read_back(engine: bytes) -> str:
    """The version in an engine's header: three bytes before the second magic tag."""
    assert engine[:4] == b"vtrt"
    at = engine.index(b"tvtrt")
    return ".".join(str(number) for number in engine[at - 3 : at])


@pytest.mark.parametrize("form", ["plain", "pixels"])
def test_static_shapes_stand_in_the_engine(form: str, graph_of: Callable[[str], ModelProto], library: Library) -> None:
    graph = graph_of("rlfn") if form == "plain" else to_pixel_form(graph_of("rlfn"), cast_last=True)
    result = compiled(graph, library, *[(180, 320)] * 3, capabilities=("8.9",))
    sizes = {spec.name: spec.shape for spec in (*result.inputs, *result.outputs)}
    if form == "plain":
        assert sizes == {"input": (1, 3, 180, 320), "output": (1, 3, 720, 1280)}
    else:
        assert sizes == {INPUT: (1, 180, 320, 3), OUTPUT: (1, 720, 1280, 3), HEALTH: (1,)}


def test_an_fp32_graph_and_all_options(library: Library) -> None:
    graph = to_pixel_form(image_graph(pooled=True), cast_last=True)
    result = compiled(graph, library, *[(64, 64)] * 3, capabilities=("8.6",), workspace=64, optimization_level=0)
    assert result.outputs[0].shape == (1, 128, 128, 3)
    assert result.timing_cache == b""


def test_a_damaged_engine_is_found_without_a_gpu(library: Library) -> None:
    assert why_stale(b"x" * 2000, library) == "malformed engine"


@pytest.mark.parametrize("float_type", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_the_form_for_deeper_images(float_type: int, library: Library) -> None:
    graph = with_health(image_graph(pooled=True, float_type=float_type))
    result = compiled(graph, library, (16, 16), (540, 960), (1920, 1920), capabilities=("8.9",))
    assert [spec.name for spec in result.outputs] == ["output", HEALTH]


@pytest.mark.skipif(bool(survey().gpus), reason="there is a GPU")
def test_without_a_gpu_the_real_runtime_tells_why_in_one_line(library: Library, tmp_path: Path) -> None:
    pytest.importorskip("warp")
    graph = to_pixel_form(image_graph(), cast_last=True)
    said: list[str] = []
    for turn in range(2):
        with pytest.raises(EngineError, match=r"^tensorrt-rtx .* does not load the engine: .*CUDA driver") as info:
            open_graph(
                graph,
                library,
                Device("cpu"),
                GPU("NVIDIA L4", "8.9"),
                precision="fp32",
                search=[tmp_path],
                folder=tmp_path,
                say=said.append,
            )
        assert "\n" not in str(info.value)
        assert len(list(tmp_path.glob("*.engine"))) == 1 and len(said) == 1 + turn


def test_the_library_says_why_it_takes_no_graph(library: Library) -> None:
    graph = image_graph()
    graph.graph.node.append(helper.make_node("NonZero", ["conv0"], ["where"], name="nz"))
    graph.graph.output.append(helper.make_tensor_value_info("where", TensorProto.INT64, [4, None]))
    with pytest.raises(EngineError, match=r"^tensorrt-rtx .* does not take the graph: node 'nz' \(NonZero\): .*plugin") as info:
        compiled(graph, library, *[(64, 64)] * 3, capabilities=("8.6",))
    assert "\n" not in str(info.value)


def test_the_library_says_why_a_build_failed(library: Library) -> None:
    graph = image_graph()
    graph.graph.node.append(helper.make_node("TopK", ["input", "k"], ["values", "where"], name="top", axis=-1))
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array([4000], np.int64), "k"))
    graph.graph.output.append(helper.make_tensor_value_info("values", TensorProto.FLOAT, [None, 3, None, 4000]))
    with pytest.raises(EngineError, match="tensorrt-rtx") as info:
        compiled(graph, library, *[(8, 8000)] * 3, capabilities=("8.6",))
    assert "\n" not in str(info.value)
    assert "3840" in str(info.value) or "TopK" in str(info.value)


def test_shapes_that_shrink_are_refused(library: Library) -> None:
    with pytest.raises(EngineError, match="refuses the shapes"):
        compiled(image_graph(), library, (64, 64), (32, 32), (128, 128), capabilities=("8.6",))


def test_shapes_are_for_the_inputs_of_the_graph(library: Library) -> None:
    with pytest.raises(UsageError, match=r"shapes are given for \['x'\], the graph has the inputs \['input'\]"):
        compile_engine(image_graph(), library, shapes={"x": ((1,), (1,), (1,))}, capabilities=("8.6",))


def test_compute_capabilities_are_those_of_the_library(library: Library) -> None:
    with pytest.raises(UsageError, match=r"9\.0 is unknown") as info:
        compiled(image_graph(), library, *[(64, 64)] * 3, capabilities=("9.0",))
    assert "7.5, 8.0, 8.6, 8.9, 12.0" in str(info.value)


@pytest.mark.parametrize(("capabilities", "message"), [(("9.0",), "9.0 is unknown"), ((), "no compute capability is given")])
def test_who_builds_from_a_bundle_names_what_the_library_lists(
    capabilities: tuple[str, ...], message: str, library: Library, tmp_path: Path
) -> None:
    bundle = open_bundle(save(image_graph(), tmp_path))
    settings = BuildSettings(static="64x64", compute_capabilities=capabilities)
    with pytest.raises(UsageError, match=message) as info:
        build_engine(bundle, library, settings, folder=tmp_path / "engines", precision="fp32")
    assert "7.5, 8.0, 8.6, 8.9, 12.0" in str(info.value)


def test_without_targets_the_library_builds_what_runs_on_most_gpus(library: Library) -> None:
    graph = image_graph()
    portable = compiled(graph, library, *[(64, 64)] * 3)
    named = [compiled(graph, library, *[(64, 64)] * 3, capabilities=one) for one in (("8.9",), ("7.5",))]
    assert read_back(portable.engine) == library.version.rsplit(".", 1)[0]
    assert len({portable.engine, *(one.engine for one in named)}) == 3
    assert why_stale(portable.engine, library) == ""


@pytest.mark.skipif(bool(survey().gpus), reason="there is a GPU")
def test_for_the_current_gpu_the_library_needs_one(library: Library) -> None:
    with pytest.raises(EngineError, match="CUDA"):
        compiled(image_graph(), library, *[(64, 64)] * 3, capabilities=(CURRENT,))


@pytest.mark.skipif(bool(survey().gpus), reason="there is a GPU")
def test_a_gpu_that_is_not_listed_is_tried_before_it_is_refused(library: Library) -> None:
    with pytest.raises(BackendUnavailableError) as info:
        targets_for(library, GPU("NVIDIA H100", "9.0"))
    assert "lists 7.5, 8.0, 8.6, 8.9, 12.0" in str(info.value)
    assert "built without targets: the engine is not valid here" in str(info.value)
    assert "built for the current GPU: tensorrt-rtx" in str(info.value)


def test_progress_grows_to_the_whole(library: Library) -> None:
    seen: list[tuple[str, float]] = []
    compiled(
        image_graph(), library, *[(64, 64)] * 3, capabilities=("8.6",), progress=lambda name, done: seen.append((name, done))
    )
    fractions = [done for _, done in seen]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0 and 0.8 < fractions[-1] <= 1.0
    assert len({name for name, _ in seen}) > 3


@pytest.mark.long
def test_ctrl_c_ends_a_build(library: Library) -> None:
    def interrupt(phase: str, done: float) -> None:
        del phase
        if done > 0.1:
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        compiled(image_graph(), library, *[(64, 64)] * 3, capabilities=("8.6",), progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    compiled(image_graph(), library, *[(64, 64)] * 3, capabilities=("8.6",))


def test_an_error_of_the_observer_ends_a_build_and_comes_out(library: Library) -> None:
    def fail(phase: str, done: float) -> None:
        raise LookupError(f"{phase} {done}")

    with pytest.raises(LookupError, match="Building engine"):
        compiled(image_graph(), library, *[(64, 64)] * 3, capabilities=("8.6",), progress=fail)
