"""Damaged and odd ONNX graphs: the pixels that they give against ONNX Runtime's, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import onnx
import onnxruntime
from cards import differs, picture, upscale
from cases import Case, Kind, Run, Seed
from mutations import damage_bytes
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sr_deploy.models import resolve

OPERATORS = (
    "Relu",
    "Conv",
    "Resize",
    "ConstantOfShape",
    "Loop",
    "Expand",
    "Neg",
    "Exp",
    "NoSuch",
    "Reshape",
    "Transpose",
    "If",
)
ODD_SIZES = (0, 1, 2, 7, 2**20, 2**31, 2**40, -1)


class Graphs(Kind):
    name = "onnx"
    suffixes = frozenset({".onnx"})

    def make_seeds(self, folder: Path) -> None:
        box = onnx.load(resolve("fast-x2") / "fp32.onnx")
        onnx.save(box, folder / "box.onnx")
        del box.metadata_props[:]
        onnx.save(box, folder / "foreign.onnx")
        onnx.save(shuffled("hwc"), folder / "nhwc.onnx")
        onnx.save(shuffled("fixed"), folder / "fixed.onnx")
        onnx.save(shuffled("dynamic"), folder / "dynamic.onnx")
        onnx.save(shuffled("same"), folder / "same_size.onnx")

    def damage(self, random: Random, seed: Seed, other: Seed) -> tuple[bytes, str, str]:
        if random.random() < 0.3:
            data, how = damage_bytes(random, seed.data, other.data)
            return data, how, ".onnx"
        model = onnx.load_from_string(seed.data)
        changes = random.choices(CHANGES, k=random.choice((1, 1, 2)))
        changes.sort(key=lambda change: change is not _weights)  # which reads a tensor, so before one is broken
        done = [change(random, model) for change in changes]
        return model.SerializeToString(), ", then ".join(done), ".onnx"

    def run(self, path: Path, case: Case) -> Run:
        del case
        run = Run()
        run.call("inspect", path)
        run.accepted = upscale(path, path.parent, run)
        return run

    def judge(self, path: Path, case: Case, run: Run) -> str | None:
        del run
        wanted = by_onnxruntime(case.data)
        return differs(path.parent / "out" / "in.png", *wanted) if wanted else None


def by_onnxruntime(data: bytes) -> list[NDArray[np.int16]]:
    """(H,W,3) of `picture`, by every reading of the graph's range and layout that it takes; empty where it takes none."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        (taken,), (given, *_) = session.get_inputs(), session.get_outputs()
    except Exception:  # its errors have no root of their own
        return []
    dtype = np.float16 if "float16" in taken.type else np.float32
    pixels = picture().astype(np.float32)
    found = []
    for white in (1.0, 255.0):
        for layout in ("chw", "hwc"):
            feed = (pixels * (white / 255)).astype(dtype)[None]
            try:
                (result,) = session.run([given.name], {taken.name: feed if layout == "hwc" else feed.transpose(0, 3, 1, 2)})
            except Exception:
                continue
            rows = result[0] if layout == "hwc" else result[0].transpose(1, 2, 0)
            levels = np.nan_to_num(rows.astype(np.float32) * (255 / white), nan=0.0)
            found.append(np.round(levels.clip(0, 255)).astype(np.int16))
    return [one for one in found if one.ndim == 3 and one.shape[2] == 3]


def shuffled(form: str) -> ModelProto:
    """Pixels doubled by a 1x1 convolution and a pixel shuffle, in the layout and with the sizes of that form."""
    scale = 1 if form == "same" else 2
    weights = np.zeros((3 * scale**2, 3, 1, 1), np.float32)
    for channel in range(3):
        weights[scale**2 * channel : scale**2 * (channel + 1), channel] = 1
    nodes = [
        helper.make_node("Conv", ["input", "weights"], ["wide"]),
        helper.make_node("DepthToSpace", ["wide"], ["large"], blocksize=scale, mode="CRD"),
        helper.make_node("Clip", ["large", "low", "high"], ["output"]),
    ]
    sides: list[str | int] = [16, 16] if form == "fixed" else ["h", "w"]
    large: list[str | int] = [32, 32] if form == "fixed" else ["high", "wide"]
    taken, given = [1, 3, *sides], [1, 3, *large]
    if form == "hwc":
        nodes[0].input[0], nodes[2].output[0] = "planes", "clipped"
        nodes.insert(0, helper.make_node("Transpose", ["input"], ["planes"], perm=[0, 3, 1, 2]))
        nodes.append(helper.make_node("Transpose", ["clipped"], ["output"], perm=[0, 2, 3, 1]))
        taken, given = [1, *sides, 3], [1, *large, 3]
    constants = {"weights": weights, "low": np.float32(0), "high": np.float32(1)}
    graph = helper.make_graph(
        nodes,
        form,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, taken)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, given)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _weights(random: Random, model: ModelProto) -> str:
    tensor = random.choice(model.graph.initializer)
    array = np.array(numpy_helper.to_array(tensor), np.float32)
    value = random.choice((np.nan, np.inf, 0.0, 1e30, -1.0, 255.0))
    array.reshape(-1)[: random.choice((1, array.size))] = value
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return f"{value} in {tensor.name}"


def _tensor(random: Random, model: ModelProto) -> str:
    tensor = random.choice(model.graph.initializer)
    what = random.choice(("size", "type", "no data", "external", "name"))
    if what == "size":
        tensor.dims[:] = [random.choice(ODD_SIZES) for _ in range(random.randrange(5))]
    elif what == "type":
        tensor.data_type = random.randrange(24)
    elif what == "no data":
        tensor.ClearField("raw_data")
    elif what == "external":
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=random.choice(("weights.bin", "/etc/passwd", "../in.png", "")))
    else:
        tensor.name = random.choice(("", "input", "x" * 1000))
    return f"{what} of the tensor {tensor.name[:20]}"


def _node(random: Random, model: ModelProto) -> str:
    index = random.randrange(len(model.graph.node))
    node = model.graph.node[index]
    what = random.choice(("operator", "removed", "doubled", "input", "domain", "no attributes"))
    if what == "operator":
        node.op_type = random.choice(OPERATORS)
    elif what == "removed":
        del model.graph.node[index]
    elif what == "doubled":
        model.graph.node.insert(index, node)
    elif what == "input" and node.input:
        names = [name for other in model.graph.node for name in other.output]
        node.input[random.randrange(len(node.input))] = random.choice((*names, "", "nowhere"))
    elif what == "domain":
        node.domain = random.choice(("com.microsoft", "nowhere"))
    else:
        del node.attribute[:]
    return f"{what}, node {index}"


def _attribute(random: Random, model: ModelProto) -> str:
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes:
        return _node(random, model)
    node = random.choice(nodes)
    attribute = random.choice(node.attribute)
    if attribute.ints:
        attribute.ints[random.randrange(len(attribute.ints))] = random.choice(ODD_SIZES)
    else:
        attribute.i, attribute.f, attribute.s = random.choice(ODD_SIZES), random.choice((0.0, -1.0, 1e30)), b"odd"
    return f"{attribute.name} of {node.op_type}"


def _interface(random: Random, model: ModelProto) -> str:
    value = random.choice((*model.graph.input, *model.graph.output))
    what = random.choice(("dimension", "type", "rank", "another"))
    shape = value.type.tensor_type.shape
    if what == "dimension" and shape.dim:
        random.choice(shape.dim).dim_value = random.choice((0, 1, 3, 4, 17, 2**40, -1))
    elif what == "type":
        value.type.tensor_type.elem_type = random.randrange(24)
    elif what == "rank":
        shape.dim.add().dim_value = 1
    else:
        random.choice((model.graph.input, model.graph.output)).add().CopyFrom(value)
    return f"{what} of {value.name}"


def _version(random: Random, model: ModelProto) -> str:
    if random.random() < 0.5:
        model.ir_version = random.choice((0, 1, 3, 99, 2**40))
        return f"ir_version {model.ir_version}"
    model.opset_import[0].version = random.choice((0, 1, 6, 9, 12, 99))
    return f"opset {model.opset_import[0].version}"


def _behind(random: Random, model: ModelProto) -> str:
    """Put nodes between the last one and the output."""
    last = model.graph.node[-1]
    name = model.graph.output[0].name
    if name not in last.output:
        return _node(random, model)
    last.output[list(last.output).index(name)] = "before"
    what, nodes = random.choice(BEHIND)
    model.graph.node.extend(nodes("before", name))
    return what


def _chain(first: str, last: str) -> list[NodeProto]:
    names = [first, *(f"link{index}" for index in range(2000)), last]
    return [helper.make_node("Identity", [one], [other]) for one, other in pairwise(names)]


def _constant(name: str, values: list[int] | list[float]) -> NodeProto:
    kind = np.float32 if isinstance(values[0], float) else np.int64
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(values, kind)))


def _resize(first: str, last: str) -> list[NodeProto]:
    return [_constant("factors", [1.0, 1.0, 300.0, 300.0]), helper.make_node("Resize", [first, "", "factors"], [last])]


def _expand(first: str, last: str) -> list[NodeProto]:
    shape = _constant("huge", [2**16, 2**18])
    return [
        shape,
        helper.make_node("ConstantOfShape", ["huge"], ["many"]),
        helper.make_node("ReduceMax", ["many"], ["one"], keepdims=0),
        helper.make_node("Add", [first, "one"], [last]),
    ]


def _crop(first: str, last: str) -> list[NodeProto]:
    constants = [_constant("first", [2, 2]), _constant("end", [-2, -2]), _constant("axes", [2, 3])]
    return [*constants, helper.make_node("Slice", [first, "first", "end", "axes"], [last])]


BEHIND: tuple[tuple[str, Callable[[str, str], list[NodeProto]]], ...] = (
    ("a chain of 2000 nodes", _chain),
    ("300 times as large", _resize),
    ("a constant of 64 GB", _expand),
    ("two pixels cropped on each side", _crop),
)
CHANGES = (_weights, _tensor, _tensor, _node, _node, _attribute, _interface, _version, _behind)
