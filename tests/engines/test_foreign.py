"""Graphs from elsewhere: run against ONNX Runtime on the file itself, as its author would run it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from sr_deploy import Upscaler, open_bundle
from sr_deploy.errors import BundleError
from sr_deploy.probe_picture import probe_picture
from tests.graphs import image_graph, save

PIXELS = probe_picture()[60:97, 80:121]


def doubled(
    *,
    source: list[int | str],
    target: list[int | str] | None = None,
    kind: int = TensorProto.FLOAT,
    white: float = 1.0,
    valid: int = 0,
    interleaved: bool = False,
    multiple: int = 1,
    reshape: bool = False,
    scale: int = 2,
) -> ModelProto:
    """About a nearest-neighbor upscale, a bit darker by a bias of 2 %, in whatever dress is asked for."""
    nodes, tensor = [], "x"
    constants: dict[str, np.ndarray] = {}
    if interleaved:
        nodes.append(helper.make_node("Transpose", [tensor], ["planar"], perm=[0, 3, 1, 2]))
        tensor = "planar"
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [tensor], ["float"], to=TensorProto.FLOAT))
        tensor = "float"
    if reshape:
        constants["fixed"] = np.array([1, 3, 64, 64], np.int64)
        nodes.append(helper.make_node("Reshape", [tensor, "fixed"], ["shaped"]))
        tensor = "shaped"
    if multiple > 1:
        nodes.append(helper.make_node("SpaceToDepth", [tensor], ["deep"], blocksize=multiple))
        nodes.append(helper.make_node("DepthToSpace", ["deep"], ["flat"], blocksize=multiple, mode="DCR"))
        tensor = "flat"
    for index in range(valid + 1):
        kernel = np.zeros((3 * scale**2 if index == valid else 3, 3, 3, 3), np.float32)
        for row in range(len(kernel)):
            kernel[row, row // scale**2 if index == valid else row, 1, 1] = 1
        constants[f"w{index}"] = kernel
        pads = [1, 1, 1, 1] if index == valid else [0, 0, 0, 0]
        nodes.append(helper.make_node("Conv", [tensor, f"w{index}"], [f"c{index}"], pads=pads))
        tensor = f"c{index}"
    nodes.append(helper.make_node("DepthToSpace", [tensor], ["large"], blocksize=scale, mode="CRD"))
    constants |= {"bias": np.float32(-0.02 * white), "low": np.float32(0), "high": np.float32(white)}
    nodes.append(helper.make_node("Add", ["large", "bias"], ["darker"]))
    nodes.append(helper.make_node("Clip", ["darker", "low", "high"], ["clipped"]))
    tensor = "clipped"
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [tensor], ["cast"], to=kind))
        tensor = "cast"
    if interleaved:
        nodes.append(helper.make_node("Transpose", [tensor], ["y"], perm=[0, 2, 3, 1]))
    else:
        nodes.append(helper.make_node("Identity", [tensor], ["y"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, source)],
        [helper.make_tensor_value_info("y", kind, target or ["n", "a", "b", "c"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def upscaled(path: Path) -> np.ndarray:
    with Upscaler(path, backend="onnxruntime", precision="fp32") as upscale:
        return upscale(PIXELS)


def nearest(bias: float = -0.02, scale: int = 2) -> np.ndarray:
    """What all of these graphs mean."""
    darker = np.clip(PIXELS / 255 + bias, 0, 1).repeat(scale, 0).repeat(scale, 1)
    return np.round(darker * 255)


NCHW, NHWC = ["n", 3, "h", "w"], ["n", "h", "w", 3]
DRESSES: dict[str, ModelProto] = {
    "as we have it": doubled(source=NCHW),
    "white is 255": doubled(source=NCHW, white=255),
    "interleaved": doubled(source=NHWC, interleaved=True),
    "interleaved, white is 255": doubled(source=NHWC, interleaved=True, white=255),
    "8-bit ports": doubled(source=NHWC, interleaved=True, kind=TensorProto.UINT8, white=255),
    "half ports": doubled(source=NCHW, kind=TensorProto.FLOAT16),
    "half ports, white is 255": doubled(source=NCHW, kind=TensorProto.FLOAT16, white=255),
    "64x64 declared": doubled(source=[1, 3, 64, 64], target=[1, 3, 128, 128]),
    "nothing declared": doubled(source=["a", "b", "c", "d"]),
    "interleaved, nothing declared": doubled(source=["a", "b", "c", "d"], interleaved=True),
    "a border of two cut off": doubled(source=NCHW, valid=2),
    "multiples of 4": doubled(source=NCHW, multiple=4),
    "x3": doubled(source=NCHW, scale=3),
}


@pytest.mark.parametrize("dress", DRESSES)
def test_a_graph_is_right_in_any_dress(tmp_path: Path, dress: str) -> None:
    path = save(DRESSES[dress], tmp_path, "theirs.onnx")
    card = open_bundle(path).card
    scale = 3 if dress == "x3" else 2
    assert (card.name, card.scale, card.channels) == ("theirs", scale, 3)
    assert card.value_range == (255 if dress.endswith("255") else 1)
    assert card.size_multiple == (4 if "multiples" in dress else 1)
    assert np.abs(upscaled(path).astype(int) - nearest(scale=scale)).max() <= 1


@pytest.mark.parametrize("name", ["on_255.onnx", "on_cropped.onnx", "on_fixed.onnx", "on_nhwc.onnx"])
def test_graphs_that_came_out_wrong(shared: Path, name: str) -> None:
    bias = -0.4 / 255 if name == "on_255.onnx" else 0.0
    assert np.abs(upscaled(shared / "faults" / name).astype(int) - nearest(bias)).max() <= 1


def test_an_output_that_declares_nothing(tmp_path: Path) -> None:
    model = image_graph(noise=0)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("output", TensorProto.FLOAT, [None] * 4))
    assert np.abs(upscaled(save(model, tmp_path)).astype(int) - nearest(0.0)).max() <= 1


def test_a_restorer_keeps_the_size(tmp_path: Path) -> None:
    path = save(doubled(source=NCHW, scale=1), tmp_path)
    assert open_bundle(path).card.scale == 1
    assert np.abs(upscaled(path).astype(int) - nearest(scale=1)).max() <= 1


def artcnn(filters: int = 16, layers: int = 4) -> ModelProto:
    """Luma x2 as ArtCNN C4F16 has it: a conv, four with ReLU, one without, the sum of both ends, a conv, depth to space."""
    random = np.random.default_rng(3)
    nodes, constants = [], {"low": np.float32(0), "high": np.float32(1)}

    def conv(source: str, name: str, inside: int, outside: int) -> str:
        kernel = random.normal(0, 0.03, (outside, inside, 3, 3)).astype(np.float32)
        kernel[:, :, 1, 1] += 0.25 if 1 in (inside, outside // 4) else 0
        constants.update({f"{name}.kernel": kernel, f"{name}.bias": random.normal(0, 0.01, outside).astype(np.float32)})
        nodes.append(helper.make_node("Conv", [source, f"{name}.kernel", f"{name}.bias"], [name], pads=[1, 1, 1, 1]))
        return name

    first = tensor = conv("x", "first", 1, filters)
    for layer in range(layers):
        nodes.append(helper.make_node("Relu", [conv(tensor, f"conv{layer}", filters, filters)], [f"relu{layer}"]))
        tensor = f"relu{layer}"
    nodes.append(helper.make_node("Add", [first, conv(tensor, "last", filters, filters)], ["sum"]))
    nodes.append(helper.make_node("DepthToSpace", [conv("sum", "wide", filters, 4)], ["large"], blocksize=2, mode="DCR"))
    nodes.append(helper.make_node("Clip", ["large", "low", "high"], ["y"]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, name, f"{name}'"]) for name in ("x", "y")]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "artcnn", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_luma_doubler_as_artcnn_is(tmp_path: Path) -> None:
    path = save(artcnn(), tmp_path)
    card = open_bundle(path).card
    assert (card.scale, card.channels, card.value_range, card.tiling, card.halo) == (2, 1, 1, "exact", 7)
    gray = PIXELS[..., 1]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    luma = (16 + gray[None, None] * np.float32(219 / 255)) / 255
    wanted = (session.run(None, {"x": luma})[0][0, 0] * 255 - 16) * 255 / 219
    with Upscaler(path, backend="onnxruntime", precision="fp32") as upscale:
        assert np.abs(upscale(gray) - wanted.clip(0, 255)).max() <= 1
        assert upscale(PIXELS).shape == (2 * PIXELS.shape[0], 2 * PIXELS.shape[1], 3)


def test_what_was_measured_is_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = save(DRESSES["white is 255"], tmp_path, "a.onnx")
    first = open_bundle(path)
    monkeypatch.setattr("sr_deploy.engines.foreign_cache.to_portable", None)
    again = open_bundle(path.rename(tmp_path / "b.onnx"))
    assert (again.card.name, again.graph("fp32")) == ("b", first.graph("fp32"))
    assert again.card.detection == first.card.detection
    (entry,) = (tmp_path / "cache" / "sr-deploy" / "graphs").glob("*.json")
    entry.write_text(json.dumps({"format": 0}), encoding="utf-8")
    with pytest.raises(BundleError, match="not callable"):
        open_bundle(tmp_path / "b.onnx")


def test_without_a_cache_a_graph_runs_from_its_file_or_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = save(image_graph(), tmp_path, "a.onnx")
    assert open_bundle(path).graph("fp32") == path
    with pytest.raises(BundleError, match=r"cannot be written .*XDG_CACHE_HOME"):
        open_bundle(save(DRESSES["interleaved"], tmp_path, "b.onnx"))


def _with(change: Callable[[ModelProto], object]) -> ModelProto:
    model = image_graph()
    change(model)
    return model


def _expects_minus_one_to_one(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.float32(-0.9), "shift"))
    model.graph.node[0].input[0] = "shifted"
    model.graph.node.insert(0, helper.make_node("Add", ["input", "shift"], ["shifted"]))


def _fills(*sizes: int) -> Callable[[ModelProto], object]:
    def change(model: ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), "sizes"))
        model.graph.node.append(helper.make_node("ConstantOfShape", ["sizes"], ["filled"]))

    return change


def _grows(model: ModelProto) -> None:
    scales = np.array([1, 1, 1000, 1000], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(scales, "scales"))
    model.graph.node[-1].input[0] = "grown"
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Resize", ["shuffled", "", "scales"], ["grown"]))


def _keeps_a_constant_elsewhere(model: ModelProto) -> None:
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def _is_long(model: ModelProto) -> None:
    model.graph.node.extend(helper.make_node("Relu", ["output"], [f"r{index}"]) for index in range(50_001))


def _loops(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["looped"], body=helper.make_graph([], "body", [], [])))


def _claims(model: ModelProto) -> None:
    model.graph.initializer.append(TensorProto(name="claim", data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 20]))


def _reads_itself(model: ModelProto) -> None:
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]


def _reads_nothing(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "nowhere"


def _makes_no_output(model: ModelProto) -> None:
    model.graph.output[0].name = "nowhere"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (_with(_reads_itself), "reads 'output', which no node before it makes"),
        (_with(_reads_nothing), "reads 'nowhere', which no node before it makes"),
        (_with(_makes_no_output), "no node makes its output 'nowhere'"),
        (_with(_expects_minus_one_to_one), "does not upscale: with white as 1 and 255"),
        (_with(_fills(100_000, 100_000)), r"'filled' \(ConstantOfShape\) takes \d+ MiB for a small image"),
        (_with(_grows), r"'grown' \(Resize\) takes \d+ MiB"),
        (_with(_keeps_a_constant_elsewhere), "keeps its weights in other files"),
        (_with(_is_long), "nodes, expected at most 50000"),
        (_with(_loops), "nodes of Loop, expected a graph without control flow"),
        (_with(_claims), "'claim' claims"),
        (doubled(source=[1, 3, 64, 64], reshape=True), "takes 64x64 pixels only; export it again with dynamic"),
        (doubled(source=["n", "h", "w", 4], interleaved=True), "takes 4 channels"),
    ],
)
def test_what_cannot_be_right_is_one_line(tmp_path: Path, model: ModelProto, words: str) -> None:
    with pytest.raises(BundleError, match=words) as raised:
        open_bundle(save(model, tmp_path, "theirs.onnx"))
    assert str(tmp_path / "theirs.onnx") in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("seconds", [60, 1])
def test_a_graph_of_many_nodes_is_measured_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sr_deploy.engines.foreign_cache._SECONDS", seconds)
    if seconds > 1:
        monkeypatch.setattr("sr_deploy.engines.foreign_cache.to_portable", None)
    model = image_graph(noise=0)
    length = 1000 if seconds > 1 else 4000
    names = ["shuffled", *(f"r{index}" for index in range(length))]
    chain = [helper.make_node("Relu" if seconds == 1 else "Identity", [a], [b]) for a, b in itertools.pairwise(names)]
    last = model.graph.node.pop()
    last.input[0] = names[-1]
    model.graph.node.extend([*chain, last])
    path = save(model, tmp_path)
    if seconds == 1:
        with pytest.raises(BundleError, match=r"network\.onnx: it takes far too long; simplify the graph first"):
            open_bundle(path)
    else:
        assert open_bundle(path).card.scale == 2


def test_the_scale_of_a_card_is_the_scale_of_its_graph(tmp_path: Path) -> None:
    from sr_deploy.card import GRAPH_METADATA_KEY, ModelCard

    model = image_graph(scale=2)
    helper.set_model_props(model, {GRAPH_METADATA_KEY: ModelCard("net", "rlfn", 4, 3).to_json()})
    with pytest.raises(BundleError, match="its card says x4 with 3 colors"):
        open_bundle(save(model, tmp_path))


def test_the_portable_form_is_the_file_as_its_author_runs_it(tmp_path: Path) -> None:
    path = save(DRESSES["interleaved, white is 255"], tmp_path)
    image = PIXELS[None].astype(np.float32)
    theirs = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": image})[0]
    ours = onnx.load(open_bundle(path).graph("fp32"))
    session = onnxruntime.InferenceSession(ours.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": image.transpose(0, 3, 1, 2) / np.float32(255)})[0]
    np.testing.assert_allclose(found.transpose(0, 2, 3, 1) * 255, theirs, atol=1e-3)
