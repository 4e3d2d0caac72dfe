"""Graph surgery: from a portable graph to its pixel form.

    portable    input (N,C,H,W) float in [0,1]   ->  output (N,C,sH,sW) float in [0,1]
    pixel form  pixels (N,H,W,C) uint8           ->  upscaled (N,sH,sW,C) uint8, health (N,) float32

The pixel form moves a quarter of the bytes and does clamping and rounding where the pixels are. `health` is the mean of
|output before the clamp|: one NaN or Inf anywhere makes it non-finite, in every runtime.

The two graphs of a mask-guided network have portable and pixel form:

    base     portable    input        ->  coarse, features, scores
             pixel form  pixels       ->  upscaled, features, scores, health
    refine   portable    patches (K,F,side,side) float  ->  pixels (K,C,sP,sP) float in [0,1], P the side of a patch
             pixel form  patches      ->  upscaled (K,sP,sP,C) uint8, health (K,)

In the forms made here, features and patches have the graph's precision, and scores are float32 always.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter

from sr_deploy.bundle import Bundle
from sr_deploy.card import Arithmetic, Part
from sr_deploy.errors import EngineError

if TYPE_CHECKING:
    from sr_deploy.arrays import Array

INPUT, OUTPUT, HEALTH = "pixels", "upscaled", "health"
COARSE, FEATURES, SCORES, PATCHES, REFINED = "coarse", "features", "scores", "patches", "pixels"
"""What the graphs of a mask-guided network take and give."""

_OPSET = 19


def to_pixel_form(model: ModelProto, *, cast_last: bool = False, split_head: bool = False) -> ModelProto:
    """The pixel form of a portable graph; `model` itself is left alone.

    Pixels are quantized before a final pixel shuffle, so that the shuffle moves bytes and not floats. TensorRT gives uint8 only
    where Cast is the last node, and its Cast truncates: `cast_last` rounds and clamps, shuffles floats, and casts at the end.

    `split_head` is for arithmetic in bf16, whose 8 bits of mantissa hold the whole numbers 0..255 exactly, but not their
    multiples of 1/255: the first convolutions then read whole numbers, with weights that are the sum of two bf16 parts.

    Outputs beside the image, those of a mask-guided network's base, go through.

    Raises: EngineError when the graph has not one float input and one output of four dimensions.
    """
    model = modern(model)
    source, _ = image_ports(model)
    form = _quantized(model, cast_last=cast_last)
    graph = form.graph
    float_type = source.type.tensor_type.elem_type
    batch, channels, height, width = (dim_of(dim) for dim in source.type.tensor_type.shape.dim)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [batch, height, width, channels]))
    for node in reversed(_to_float(source.name, float_type)):
        graph.node.insert(0, node)
    if split_head:
        _split_head(graph, source.name)
    return form


def to_refine_form(model: ModelProto, *, cast_last: bool = False) -> ModelProto:
    """The pixel form of a refine network: float patches in, pixels and their health out; `cast_last` as in `to_pixel_form`.

    Raises: EngineError, as `to_pixel_form`.
    """
    return _quantized(modern(model), cast_last=cast_last)


def load_pixel_form(bundle: Bundle, arithmetic: Arithmetic, part: Part = "", *, cast_last: bool = False) -> ModelProto:
    """The pixel form of a bundle's graph that `arithmetic` runs; `cast_last` as in `to_pixel_form`.

    Raises: BundleError, EngineError.
    """
    model = onnx.load(bundle.graph(arithmetic, part))
    if part == "refine":
        return to_refine_form(model, cast_last=cast_last)
    return to_pixel_form(model, cast_last=cast_last, split_head=arithmetic == "bf16")


def load_float_form(bundle: Bundle, arithmetic: Arithmetic, part: Part = "") -> ModelProto:
    """The portable graph of a bundle that `arithmetic` runs, with its health.

    Raises: BundleError, EngineError.
    """
    return with_health(onnx.load(bundle.graph(arithmetic, part)))


def with_health(model: ModelProto) -> ModelProto:
    """The portable graph with the output `health` beside its own; `model` itself is left alone.

    Raises: EngineError, as `to_pixel_form`.
    """
    model = modern(model)
    _, target = image_ports(model)
    tail = Tail.of(model)
    form = ModelProto()
    form.CopyFrom(model)
    form.graph.node.extend(_health(tail.result))
    form.graph.initializer.extend(_health_constants(int(target.type.tensor_type.shape.dim[1].dim_value) * tail.upscale**2))
    form.graph.output.append(helper.make_tensor_value_info(HEALTH, TensorProto.FLOAT, [None]))
    _widen_scores(form.graph)
    return form


def _quantized(model: ModelProto, *, cast_last: bool) -> ModelProto:
    """The graph with its image in bytes and the health of it; its input, and outputs beside the image, stay."""
    source, target = image_ports(model)
    tail = Tail.of(model)
    batch, channels, height, width = (dim_of(dim) for dim in target.type.tensor_type.shape.dim)
    form = ModelProto()
    form.CopyFrom(model)
    graph = form.graph
    beside = list(model.graph.output)[1:]
    del graph.node[:], graph.output[:]
    graph.node.extend(tail.body)
    graph.node.extend(_to_pixels(tail.result, tail.upscale > 1, cast_last=cast_last))
    graph.node.extend(_health(own_name("rounded")))
    graph.initializer.extend(_constants(source.type.tensor_type.elem_type, int(channels or 1), tail.upscale))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.UINT8, [batch, height, width, channels]))
    graph.output.extend(beside)
    graph.output.append(helper.make_tensor_value_info(HEALTH, TensorProto.FLOAT, [batch]))
    _widen_scores(graph)
    return form


def _widen_scores(graph: onnx.GraphProto) -> None:
    """Give the scores of an fp16 graph as float32: who selects by them need not know what they were computed in."""
    for value in graph.output:
        if value.name == SCORES and value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            maker = next(node for node in graph.node if SCORES in node.output)
            maker.output[list(maker.output).index(SCORES)] = own_name(SCORES)
            graph.node.append(new_node("Cast", [own_name(SCORES)], SCORES, to=TensorProto.FLOAT))
            value.type.tensor_type.elem_type = TensorProto.FLOAT


@dataclass(frozen=True)
class Tail:
    """The network without its final clamp and pixel shuffle: `result` is then (N, C*upscale^2, H', W')."""

    body: list[NodeProto]
    result: str
    upscale: int

    @staticmethod
    def of(model: ModelProto) -> Tail:
        body, result, upscale = list(model.graph.node), model.graph.output[0].name, 1
        if (clamp := last_node(body, result, "Clip")) is not None:
            body.remove(clamp)
            result = clamp.input[0]
        shuffle = last_node(body, result, "DepthToSpace")
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in shuffle.attribute} if shuffle else {}
        if shuffle is not None and attributes.get("mode") == b"CRD":
            body.remove(shuffle)
            result, upscale = shuffle.input[0], attributes.get("blocksize", 1)
        return Tail(body, result, upscale)


def last_node(body: list[NodeProto], result: str, kind: str) -> NodeProto | None:
    """The node that makes `result`, if it is of that kind and nobody else reads it."""
    maker = next((node for node in body if result in node.output), None)
    return maker if maker is not None and maker.op_type == kind and not any(result in node.input for node in body) else None


def _to_float(source: str, float_type: int) -> list[NodeProto]:
    return [
        new_node("Cast", [INPUT], own_name("interleaved_float"), to=float_type),
        new_node("Transpose", [own_name("interleaved_float")], own_name("planar_float"), perm=[0, 3, 1, 2]),
        new_node("Mul", [own_name("planar_float"), own_name("1/255")], source),
    ]


def _split_head(graph: onnx.GraphProto, source: str) -> None:
    """Let every convolution of the image read (pixels, pixels) with the weights (high, low) / 255."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    heads = [node for node in graph.node if node.op_type == "Conv" and node.input[0] == source and node.input[1] in weights]
    for node in heads:
        exact = numpy_helper.to_array(weights[node.input[1]]).astype(np.float64) / 255
        high = _rounded_to_bf16(exact)
        split = np.concatenate([high, _rounded_to_bf16(exact - high)], axis=1)
        name = own_name(f"{node.input[1]}.split")
        if name not in weights:
            weights[name] = numpy_helper.from_array(split, name)
            graph.initializer.append(weights[name])
        node.input[0], node.input[1] = own_name("doubled"), name
    if heads:
        doubled = new_node("Concat", [own_name("planar_float")] * 2, own_name("doubled"), axis=1)
        graph.node.insert(next(index for index, node in enumerate(graph.node) if node is heads[0]), doubled)


def _rounded_to_bf16(array: Array) -> Array:
    bits = array.astype(np.float32).view(np.uint32)
    rounded: Array = ((bits + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view(np.float32)
    return rounded


def _to_pixels(result: str, shuffles: bool, *, cast_last: bool) -> list[NodeProto]:
    steps = [
        new_node("Mul", [result, own_name("255")], own_name("scaled")),
        new_node("Round", [own_name("scaled")], own_name("rounded")),
        new_node("Shape", [own_name("rounded")], own_name("planar_shape")),
    ]
    if cast_last:
        clip = new_node("Clip", [own_name("rounded"), own_name("0"), own_name("255")], own_name("clipped"))
        moves = _interleave(own_name("clipped"), own_name("interleaved"), shuffles)
        return [*steps, clip, *moves, new_node("Cast", [own_name("interleaved")], OUTPUT, to=TensorProto.UINT8)]
    quantize = new_node("QuantizeLinear", [own_name("rounded"), own_name("1"), own_name("zero_point")], own_name("bytes"))
    return [*steps, quantize, *_interleave(own_name("bytes"), OUTPUT, shuffles)]


def _interleave(planar: str, interleaved: str, shuffles: bool) -> list[NodeProto]:
    """(N,C,H,W) -> (N,H,W,C), or (N,C*r*r,H,W) -> (N,H*r,W*r,C) in one transposition."""
    if not shuffles:
        return [new_node("Transpose", [planar], interleaved, perm=[0, 2, 3, 1])]
    return [
        new_node("Slice", [own_name("planar_shape"), own_name("at0"), own_name("at1")], own_name("batch")),
        new_node("Slice", [own_name("planar_shape"), own_name("at2"), own_name("at4")], own_name("size")),
        new_node("Concat", [own_name("batch"), own_name("blocks"), own_name("size")], own_name("blocks_shape"), axis=0),
        new_node("Reshape", [planar, own_name("blocks_shape")], own_name("blocked")),
        new_node("Transpose", [own_name("blocked")], own_name("shuffled"), perm=[0, 4, 2, 5, 3, 1]),
        new_node("Mul", [own_name("size"), own_name("factor")], own_name("shuffled_size")),
        new_node(
            "Concat", [own_name("batch"), own_name("shuffled_size"), own_name("channels")], own_name("shuffled_shape"), axis=0
        ),
        new_node("Reshape", [own_name("shuffled"), own_name("shuffled_shape")], interleaved),
    ]


def _health(unclamped: str) -> list[NodeProto]:
    return [
        new_node("Cast", [unclamped], own_name("unclamped_fp32"), to=TensorProto.FLOAT),
        new_node("ReduceL1", [own_name("unclamped_fp32"), own_name("channel_axis")], own_name("pixel_sums"), keepdims=1),
        new_node("ReduceMean", [own_name("pixel_sums"), own_name("sample_axes")], own_name("mean_sum"), keepdims=0),
        new_node("Mul", [own_name("mean_sum"), own_name("1/full_scale")], HEALTH),
    ]


def _health_constants(full_scale: float) -> list[TensorProto]:
    return [
        numpy_helper.from_array(np.array([1], np.int64), own_name("channel_axis")),
        numpy_helper.from_array(np.array([1, 2, 3], np.int64), own_name("sample_axes")),
        numpy_helper.from_array(np.array(1 / full_scale, np.float32), own_name("1/full_scale")),
    ]


def _constants(float_type: int, channels: int, upscale: int) -> list[TensorProto]:
    scalars = {"1/255": 1 / 255, "1": 1.0, "255": 255.0, "0": 0.0}
    indices = {
        **{f"at{index}": [index] for index in (0, 1, 2, 4)},
        "blocks": [channels, upscale, upscale],
        "factor": [upscale, upscale],
        "channels": [channels],
    }
    return [
        *(numpy_helper.from_array(scalar(value, float_type), own_name(name)) for name, value in scalars.items()),
        *(numpy_helper.from_array(np.array(value, np.int64), own_name(name)) for name, value in indices.items()),
        numpy_helper.from_array(np.array(0, np.uint8), own_name("zero_point")),
        *_health_constants(channels * upscale**2 * 255),
    ]


def modern(model: ModelProto) -> ModelProto:
    """The same graph in an opset that has the operators used here.

    Raises: EngineError.
    """
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset >= _OPSET:
        return model
    try:
        return version_converter.convert_version(model, _OPSET)
    except Exception as exc:
        raise EngineError(
            f"the graph is of opset {opset} and cannot be converted to {_OPSET} ({exc}); export it again"
        ) from exc


def image_ports(model: ModelProto) -> tuple[onnx.ValueInfoProto, onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in model.graph.initializer}
    sources = [value for value in model.graph.input if value.name not in weights]
    outputs = [value.name for value in model.graph.output]
    if len(sources) != 1 or (len(outputs) != 1 and outputs != [COARSE, FEATURES, SCORES]):
        raise EngineError(f"the graph has {len(sources)} inputs and {len(outputs)} outputs; the pixel form needs one of each")
    source, target = sources[0], model.graph.output[0]
    for value in (source, target):
        tensor = value.type.tensor_type
        if tensor.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16) or len(tensor.shape.dim) != 4:
            raise EngineError(f"'{value.name}' is not a float (N,C,H,W) tensor; the pixel form needs one")
    return source, target


def scalar(value: float, float_type: int) -> Array:
    return np.array(value, helper.tensor_dtype_to_np_dtype(float_type))


def own_name(name: str) -> str:
    return f"pixel_form.{name}"


def new_node(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, [output], name=own_name(f"{kind}.{output}"), **attributes)


def dim_of(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) or None
