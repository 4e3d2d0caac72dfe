"""Repositories for other servers: their files, and pictures that come back through the client."""

from __future__ import annotations

import json
import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from sr_deploy import Upscaler
from sr_deploy.bundle import Bundle
from sr_deploy.device.gpu import GPU
from sr_deploy.engines.open import open_bundle
from sr_deploy.engines.openvino import _runtime
from sr_deploy.engines.repository import make_repository
from sr_deploy.engines.tensorrt.build import build_engine
from sr_deploy.engines.tensorrt.library import TENSORRT, TENSORRT_RTX, Library
from sr_deploy.engines.tensorrt.target import BuildSettings
from sr_deploy.errors import BundleError, EngineError, UsageError
from sr_deploy.pictures.image import Picture, read_image, write_image
from tests.engines.repository.conftest import MakeBundle, Serve, not_a_number
from tests.engines.tensorrt.fake_tensorrt import fake_module
from tests.graphs import masked_bundle

L4 = GPU("NVIDIA L4", "8.9")
DYNAMIC = BuildSettings(min="8x8", opt="16x16", max="64x32", batch=4)
STATIC = BuildSettings(static="48x32", batch=2)


def fields(text: str) -> list[tuple[str, Any]]:
    """A message of protobuf's text format, as far as it is used here: names with values, lists and messages."""
    tokens = re.findall(r'"(?:[^"\\]|\\.)*"|[\w.-]+|[{}\[\]:,]', text)

    def value() -> Any:
        token = tokens.pop(0)
        if token == "[":
            items = []
            while tokens[0] != "]":
                items.append(value())
                if tokens[0] == ",":
                    tokens.pop(0)
            tokens.pop(0)
            return items
        return json.loads(token) if token[0] in '"-0123456789' else token

    def message() -> list[tuple[str, Any]]:
        found = []
        while tokens and tokens[0] != "}":
            name = tokens.pop(0)
            if tokens.pop(0) == "{":
                found.append((name, message()))
                assert tokens.pop(0) == "}"
            else:
                found.append((name, value()))
        return found

    return message()


def config(repository: Path, name: str = "net") -> list[tuple[str, Any]]:
    return fields((repository / name / "config.pbtxt").read_text(encoding="utf-8"))


TYPES = {TensorProto.UINT8: "TYPE_UINT8", TensorProto.FLOAT: "TYPE_FP32", TensorProto.FLOAT16: "TYPE_FP16"}


def declared(path: Path) -> list[tuple[str, Any]]:
    """What Triton has to be told of the graph in a file, by ONNX's own account of it: sizes beside the number of images."""
    graph = onnx.load(path).graph
    ports = []
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for port in values:
            sizes = [dim.dim_value or -1 for dim in port.type.tensor_type.shape.dim][1:]
            shape = [] if sizes else [("reshape", [("shape", [])])]
            facts = [("name", port.name), ("data_type", TYPES[port.type.tensor_type.elem_type]), ("dims", sizes or [1]), *shape]
            ports.append((kind, facts))
    return ports


@pytest.mark.parametrize("form", ["pixels", "float"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_triton_is_told_what_the_graph_takes_and_gives(
    make_bundle: MakeBundle, tmp_path: Path, form: Any, precision: Any
) -> None:
    bundle = make_bundle(precisions=("fp32", "fp16"))
    make_repository([bundle], tmp_path / "served", "triton", form=form, precision=precision, instances=2, gpus=(0, 1))
    path = tmp_path / "served" / "net" / "1" / "model.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    assert config(tmp_path / "served") == [
        ("name", "net"),
        ("backend", "onnxruntime"),
        ("default_model_filename", "model.onnx"),
        ("max_batch_size", 8),
        *declared(path),
        ("dynamic_batching", []),
        ("instance_group", [("count", 2), ("kind", "KIND_GPU"), ("gpus", [0, 1])]),
    ]
    if form == "float":
        assert path.read_bytes() == bundle.graph(precision).read_bytes(), "as it was certified"


def test_one_image_at_a_time_is_not_gathered(make_bundle: MakeBundle, tmp_path: Path) -> None:
    make_repository([make_bundle()], tmp_path / "served", "triton", most=1)
    told = dict(config(tmp_path / "served"))
    assert (told["max_batch_size"], "dynamic_batching" in told) == (1, False)
    assert told["instance_group"] == [("count", 1), ("kind", "KIND_AUTO")]


def built(bundle: Bundle, flavour: Any, settings: BuildSettings, folder: Path, precision: Any = "fp32") -> Path:
    library = Library(flavour, fake_module(rtx=flavour.builds_ahead))
    return build_engine(bundle, library, settings, folder=folder, precision=precision, gpu=L4).path


def test_triton_gets_the_plan_that_tensorrt_built(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle, other = make_bundle(precisions=("fp32", "fp16")), make_bundle("other", depth=1)
    plan = built(bundle, TENSORRT, DYNAMIC, tmp_path / "engines", "fp16")
    said: list[str] = []
    networks = make_repository([bundle, other], tmp_path / "served", "triton", engines=tmp_path / "engines", say=said.append)
    assert [(network.file, network.precision) for network in networks] == [("model.plan", "fp16"), ("model.onnx", "fp32")]
    assert (tmp_path / "served" / "net" / "1" / "model.plan").read_bytes() == plan.read_bytes()
    assert said == [f"net: {plan}, a plan of TensorRT 1.2.3 for {L4}"]
    assert "`net` is a plan of tensorrt 1.2.3" in (tmp_path / "served" / "README.md").read_text()
    pixels, planned = config(tmp_path / "served", "other"), config(tmp_path / "served")
    assert [(name, value) for name, value in planned if name in ("input", "output")] == [
        (name, value) for name, value in pixels if name in ("input", "output")
    ]
    told = dict(planned)
    assert (told["backend"], told["max_batch_size"]) == ("tensorrt", 4)
    assert told["instance_group"] == [("count", 1), ("kind", "KIND_GPU")]


def test_a_plan_of_one_size_takes_as_many_images_as_it_was_built_for(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle()
    built(bundle, TENSORRT, STATIC, tmp_path / "engines")
    make_repository([bundle], tmp_path / "served", "triton", engines=tmp_path / "engines")
    told = config(tmp_path / "served")
    assert dict(told)["max_batch_size"] == 0 and "dynamic_batching" not in dict(told)
    dims = {dict(port)["name"]: dict(port)["dims"] for name, port in told if name in ("input", "output")}
    assert dims["pixels"] == [2, 32, 48, 3]
    assert (len(dims["upscaled"]), len(dims["health"])) == (4, 1), "with the number of images, and as the library told them"


@pytest.mark.parametrize("reason", ["rtx", "another form", "another precision", "damaged", "another network"])
def test_an_engine_that_triton_would_not_run_is_left_out(make_bundle: MakeBundle, tmp_path: Path, reason: str) -> None:
    bundle = make_bundle()
    settings = replace(DYNAMIC, compute_capabilities=("8.9",)) if reason == "rtx" else DYNAMIC
    source = make_bundle("other", depth=1) if reason == "another network" else bundle
    path = built(source, TENSORRT_RTX if reason == "rtx" else TENSORRT, settings, tmp_path / "engines")
    if reason == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    form: Any = "float" if reason == "another form" else "pixels"
    precision: Any = "fp16" if reason == "another precision" else None
    if reason == "another precision":
        bundle = make_bundle("half", precisions=("fp32", "fp16"))
    (network,) = make_repository(
        [bundle], tmp_path / "served", "triton", form=form, precision=precision, engines=tmp_path / "engines"
    )
    assert network.file == "model.onnx"


def test_openvino_finds_networks_beside_its_file_and_computes_in_fp32(make_bundle: MakeBundle, tmp_path: Path) -> None:
    make_repository([make_bundle("a"), make_bundle("b b", depth=1)], tmp_path / "served", "openvino", instances=3)
    openvino = _runtime()
    entries = [entry["config"] for entry in json.loads((tmp_path / "served" / "config.json").read_text())["model_config_list"]]
    assert [(entry["name"], entry["nireq"]) for entry in entries] == [("a", 3), ("b b", 3)]
    for entry in entries:
        (path,) = (tmp_path / "served" / entry["base_path"]).glob("[1-9]/*.onnx")
        compiled = openvino.Core().compile_model(path, "CPU", entry["plugin_config"])
        assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
        assert 1 <= compiled.get_property("NUM_STREAMS") <= 3, "as many as there are cores"
        assert [port.get_partial_shape().is_dynamic for port in compiled.inputs] == [True]


@pytest.mark.parametrize("server", ["triton", "openvino"])
@pytest.mark.parametrize(
    ("form", "precision", "channels"),
    [("pixels", "fp32", 3), ("float", "fp32", 3), ("float", "fp16", 1), ("pixels", "fp32", 1)],
)
def test_the_client_brings_the_pixels_of_the_upscaler(
    make_bundle: MakeBundle,
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: Any,
    form: Any,
    precision: Any,
    channels: int,
) -> None:
    bundle = make_bundle("a b", channels=channels, precisions=(precision,))
    make_repository([bundle], tmp_path / "served", server, form=form)
    gray = np.random.default_rng(1).integers(0, 256, (9, 14, 1), dtype=np.uint8)
    pixels = gray.repeat(3, 2) if channels == 1 else np.random.default_rng(1).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    write_image(tmp_path / "small.png", Picture(pixels))
    arguments = ["client.py", "a b", str(tmp_path / "small.png"), str(tmp_path / "large.png"), serve(tmp_path / "served")]
    monkeypatch.setattr("sys.argv", arguments)
    runpy.run_path(str(tmp_path / "served" / "client.py"))
    large = read_image(tmp_path / "large.png").pixels
    if channels == 3:
        with Upscaler(bundle.folder, backend="onnxruntime", precision=precision) as upscale:
            np.testing.assert_array_equal(large, upscale(pixels))
    else:
        graph = ReferenceEvaluator(str(bundle.graph(precision)))
        given = (gray[None].transpose(0, 3, 1, 2) / 255).astype(np.float16 if precision == "fp16" else np.float32)
        (expected,) = graph.run(None, {"input": given})
        np.testing.assert_allclose(large[..., 0], np.rint(expected[0, 0].astype(float) * 255), atol=1)


@pytest.mark.parametrize("form", ["pixels", "float"])
def test_the_client_refuses_what_is_no_number(
    make_bundle: MakeBundle, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    make_repository([not_a_number(make_bundle())], tmp_path / "served", "triton", form=form)
    write_image(tmp_path / "small.png", Picture(np.zeros((4, 4, 3), np.uint8)))
    monkeypatch.setattr(
        "sys.argv", ["", "net", str(tmp_path / "small.png"), str(tmp_path / "l.png"), serve(tmp_path / "served")]
    )
    with pytest.raises(AssertionError, match="NaN or Inf"):
        runpy.run_path(str(tmp_path / "served" / "client.py"))
    assert not (tmp_path / "l.png").exists()


@pytest.mark.parametrize("form", ["pixels", "float"])
def test_the_client_is_short_and_the_readme_says_what_is_lost(make_bundle: MakeBundle, tmp_path: Path, form: Any) -> None:
    make_repository([make_bundle(), make_bundle("gray", channels=1)], tmp_path / "served", "triton", form=form)
    code = (tmp_path / "served" / "client.py").read_text()
    assert len([line for line in code.splitlines() if line and not line.startswith('"""')]) <= 22
    assert max(map(len, code.splitlines())) <= 128
    readme = (tmp_path / "served" / "README.md").read_text()
    assert all(f"- **{word}" in readme for word in ("Tiles", "Color", "The sentinel", "What was measured"))
    assert "$" not in readme.replace('"$PWD"', "")
    assert re.search(r"^\| net \| 2 times as large \| model.onnx, fp32 \|.*\| from 1 \| 120 \| unknown \|$", readme, re.M)


def test_networks_in_the_box_have_the_names_that_everybody_uses(tmp_path: Path) -> None:
    (network,) = make_repository([open_bundle("fast-x2")], tmp_path / "served", "triton")
    assert network.name == "fast-x2" and (tmp_path / "served" / "fast-x2" / "config.pbtxt").is_file()
    assert "| Apache-2.0 |" in (tmp_path / "served" / "README.md").read_text()


def test_what_cannot_be_served_is_refused_and_nothing_is_left(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle()
    (tmp_path / "masked").mkdir()
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "mine.txt").touch()
    file.touch()
    half = make_bundle("half", precisions=("fp16",))
    for bundles, target, options, words in (
        ([masked_bundle(tmp_path / "masked")], "served", {}, "masked: a mask-guided network, in two graphs"),
        ([bundle, bundle], "served", {}, "net: the name of 2 bundles"),
        ([], "served", {}, "no bundle"),
        ([bundle, half], "served", {"form": "float"}, "net has input float32.*half has input float16.*give --precision"),
        ([bundle], "full", {}, "full: already there, expected a new or an empty folder"),
        ([bundle], "file", {}, "file: already there"),
    ):
        with pytest.raises(UsageError, match=words):
            make_repository(bundles, tmp_path / target, "triton", **options)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="has no fp16 graph"):
        make_repository([bundle], tmp_path / "served", "triton", precision="fp16")
    with pytest.raises(EngineError, match="cannot be written"):
        make_repository([bundle], file / "served", "triton")
    assert {path.name for path in tmp_path.iterdir()} == {"bundles", "masked", "full", "file"}
    assert [path.name for path in full.iterdir()] == ["mine.txt"]


def test_triton_reads_the_configuration(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """By its own message, which knows every field and type."""
    try:
        from tritonclient.grpc import model_config_pb2 as module
    except (ImportError, RuntimeError) as exc:
        pytest.skip(f"no tritonclient[grpc], which has Triton's message: {exc}")
    from google.protobuf import text_format

    bundle = make_bundle('a "b" é', precisions=("fp32", "fp16"))
    built(bundle, TENSORRT, STATIC, tmp_path / "engines", "fp16")
    cases: dict[str, dict[str, Any]] = {
        "pixels": {"gpus": (1,), "instances": 2},
        "float": {"form": "float", "precision": "fp16"},
        "plan": {"engines": tmp_path / "engines"},
    }
    read = {}
    for name, options in cases.items():
        make_repository([bundle], tmp_path / name, "triton", **options)
        text = (tmp_path / name / bundle.card.name / "config.pbtxt").read_text(encoding="utf-8")
        read[name] = text_format.Parse(text, module.ModelConfig())
        assert read[name].name == bundle.card.name
    assert [list(tensor.dims) for tensor in (*read["pixels"].input, *read["pixels"].output)] == [[-1, -1, 3]] * 2 + [[1]]
    assert read["pixels"].output[1].HasField("reshape") and not read["pixels"].output[0].HasField("reshape")
    assert read["pixels"].HasField("dynamic_batching") and read["pixels"].max_batch_size == 8
    assert (read["pixels"].instance_group[0].kind, list(read["pixels"].instance_group[0].gpus)) == (1, [1])
    assert {tensor.data_type for tensor in (*read["float"].input, *read["float"].output)} == {module.TYPE_FP16}
    assert (read["plan"].backend, read["plan"].max_batch_size) == ("tensorrt", 0)
    with pytest.raises(text_format.ParseError):
        text_format.Parse("max_batch_sizes: 8", module.ModelConfig())
