"""Graph surgery: from a portable graph to its pixel form.

    portable    input (N,C,H,W) float in [0,1]   ->  output (N,C,sH,sW) float in [0,1]
    pixel form  pixels (N,H,W,C) uint8           ->  upscaled (N,sH,sW,C) uint8, health (N,) float32

The pixel form moves a quarter of the bytes and does clamping and rounding where the pixels are. `health` is the mean of
|output before the clamp|: one NaN or Inf anywhere makes it non-finite, in every runtime.

    planes form input (N,C,H,W) float in [0,1]   ->  planes (N,C*r*r,sH/r,sW/r) float in about [0,1], or levels, up to 255

The planes form leaves what follows the last convolution to our kernels, where a GPU's runtime does not fuse it: the pixel
shuffle by r, if the graph ends in one, clamping, rounding, interleaving and health. It gives levels where a convolution is
last: ONNX Runtime multiplies its weights by 255 once, as it does in the pixel form, so that bytes are the same. Else it gives
planes.

The two graphs of a mask-guided network have portable and pixel form:

    base     portable    input        ->  coarse, features, scores
             pixel form  pixels       ->  upscaled, features, scores, health
    refine   portable    patches (K,F,side,side) float  ->  pixels (K,C,sP,sP) float in [0,1], P the side of a patch
             pixel form  patches      ->  upscaled (K,sP,sP,C) uint8, health (K,)

In the forms made here, features and patches have the graph's precision, and scores are float32 always.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter

from sr_deploy.arrays import Array
from sr_deploy.bundle import Arithmetic, Bundle, Part
from sr_deploy.engines.facts import attribute
from sr_deploy.errors import EngineError

INPUT, OUTPUT, HEALTH = "pixels", "upscaled", "health"
COARSE, FEATURES, SCORES, PATCHES, REFINED = "coarse", "features", "scores", "patches", "pixels"
"""What the graphs of a mask-guided network take and give."""

PLANES, LEVELS = "planes", "levels"
WHITE = {PLANES: 1.0, LEVELS: 255.0}
"""What the planes form gives, and what stands for white in it."""

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
    source, _ = _image_ports(model)
    form = _quantized(model, cast_last=cast_last)
    graph = form.graph
    float_type = source.type.tensor_type.elem_type
    batch, channels, height, width = (_dim(dim) for dim in source.type.tensor_type.shape.dim)
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


def to_planes_form(model: ModelProto) -> ModelProto:
    """The planes form of a portable graph; `model` itself is left alone.

    Raises: EngineError when the graph has not one float input and one output of four dimensions.
    """
    _, target = _image_ports(model)
    if len(model.graph.output) != 1:
        raise EngineError("a mask-guided network has no planes form; use its pixel form")
    tail = _Tail.of(model)
    form = ModelProto()
    form.CopyFrom(model)
    graph = form.graph
    del graph.node[:], graph.output[:]
    graph.node.extend(tail.body)
    float_type = target.type.tensor_type.elem_type
    if _last(tail.body, tail.result, "Conv") is not None:
        name = LEVELS
        graph.node.append(_node("Mul", [tail.result, _own("255")], LEVELS))
        graph.initializer.append(numpy_helper.from_array(_scalar(255.0, float_type), _own("255")))
    else:
        name = PLANES
        graph.node.append(_node("Identity", [tail.result], PLANES))
    batch, channels, _, _ = (_dim(dim) for dim in target.type.tensor_type.shape.dim)
    shape = [batch, int(channels or 1) * tail.upscale**2, None, None]
    graph.output.append(helper.make_tensor_value_info(name, float_type, shape))
    return form


def load_planes_form(bundle: Bundle, arithmetic: Arithmetic) -> ModelProto:
    """The planes form of a bundle's graph that `arithmetic` runs.

    Raises: BundleError, EngineError.
    """
    return to_planes_form(onnx.load(bundle.graph(arithmetic)))


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
    _, target = _image_ports(model)
    tail = _Tail.of(model)
    form = ModelProto()
    form.CopyFrom(model)
    form.graph.node.extend(_health(tail.result))
    form.graph.initializer.extend(_health_constants(int(target.type.tensor_type.shape.dim[1].dim_value) * tail.upscale**2))
    form.graph.output.append(helper.make_tensor_value_info(HEALTH, TensorProto.FLOAT, [None]))
    _widen_scores(form.graph)
    return form


def _quantized(model: ModelProto, *, cast_last: bool) -> ModelProto:
    """The graph with its image in bytes and the health of it; its input, and outputs beside the image, stay."""
    source, target = _image_ports(model)
    tail = _Tail.of(model)
    batch, channels, height, width = (_dim(dim) for dim in target.type.tensor_type.shape.dim)
    form = ModelProto()
    form.CopyFrom(model)
    graph = form.graph
    beside = list(model.graph.output)[1:]
    del graph.node[:], graph.output[:]
    graph.node.extend(tail.body)
    graph.node.extend(_to_pixels(tail.result, tail.upscale > 1, cast_last=cast_last))
    graph.node.extend(_health(_own("rounded")))
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
            maker.output[list(maker.output).index(SCORES)] = _own(SCORES)
            graph.node.append(_node("Cast", [_own(SCORES)], SCORES, to=TensorProto.FLOAT))
            value.type.tensor_type.elem_type = TensorProto.FLOAT


@dataclass(frozen=True)
class _Tail:
    """The network without its final clamp and pixel shuffle: `result` is then (N, C*upscale^2, H', W')."""

    body: list[NodeProto]
    result: str
    upscale: int

    @staticmethod
    def of(model: ModelProto) -> _Tail:
        body, result, upscale = list(model.graph.node), model.graph.output[0].name, 1
        if (clamp := _last(body, result, "Clip")) is not None:
            body.remove(clamp)
            result = clamp.input[0]
        shuffle = _last(body, result, "DepthToSpace")
        if shuffle is not None and attribute(shuffle, "mode", b"DCR") == b"CRD":
            body.remove(shuffle)
            result, upscale = shuffle.input[0], attribute(shuffle, "blocksize", 1)
        return _Tail(body, result, upscale)


def _last(body: list[NodeProto], result: str, kind: str) -> NodeProto | None:
    """The node that makes `result`, if it is of that kind and nobody else reads it."""
    maker = next((node for node in body if result in node.output), None)
    return maker if maker is not None and maker.op_type == kind and not any(result in node.input for node in body) else None


def _to_float(source: str, float_type: int) -> list[NodeProto]:
    return [
        _node("Cast", [INPUT], _own("interleaved_float"), to=float_type),
        _node("Transpose", [_own("interleaved_float")], _own("planar_float"), perm=[0, 3, 1, 2]),
        _node("Mul", [_own("planar_float"), _own("1/255")], source),
    ]


def _split_head(graph: onnx.GraphProto, source: str) -> None:
    """Let every convolution of the image read (pixels, pixels) with the weights (high, low) / 255."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    heads = [node for node in graph.node if node.op_type == "Conv" and node.input[0] == source and node.input[1] in weights]
    for node in heads:
        exact = numpy_helper.to_array(weights[node.input[1]]).astype(np.float64) / 255
        high = _rounded_to_bf16(exact)
        split = np.concatenate([high, _rounded_to_bf16(exact - high)], axis=1)
        name = _own(f"{node.input[1]}.split")
        if name not in weights:
            weights[name] = numpy_helper.from_array(split, name)
            graph.initializer.append(weights[name])
        node.input[0], node.input[1] = _own("doubled"), name
    if heads:
        doubled = _node("Concat", [_own("planar_float")] * 2, _own("doubled"), axis=1)
        graph.node.insert(next(index for index, node in enumerate(graph.node) if node is heads[0]), doubled)


def _rounded_to_bf16(array: Array) -> Array:
    bits = array.astype(np.float32).view(np.uint32)
    rounded: Array = ((bits + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view(np.float32)
    return rounded


def _to_pixels(result: str, shuffles: bool, *, cast_last: bool) -> list[NodeProto]:
    steps = [
        _node("Mul", [result, _own("255")], _own("scaled")),
        _node("Round", [_own("scaled")], _own("rounded")),
        _node("Shape", [_own("rounded")], _own("planar_shape")),
    ]
    if cast_last:
        clip = _node("Clip", [_own("rounded"), _own("0"), _own("255")], _own("clipped"))
        moves = _interleave(_own("clipped"), _own("interleaved"), shuffles)
        return [*steps, clip, *moves, _node("Cast", [_own("interleaved")], OUTPUT, to=TensorProto.UINT8)]
    quantize = _node("QuantizeLinear", [_own("rounded"), _own("1"), _own("zero_point")], _own("bytes"))
    return [*steps, quantize, *_interleave(_own("bytes"), OUTPUT, shuffles)]


def _interleave(planar: str, interleaved: str, shuffles: bool) -> list[NodeProto]:
    """(N,C,H,W) -> (N,H,W,C), or (N,C*r*r,H,W) -> (N,H*r,W*r,C) in one transposition."""
    if not shuffles:
        return [_node("Transpose", [planar], interleaved, perm=[0, 2, 3, 1])]
    return [
        _node("Slice", [_own("planar_shape"), _own("at0"), _own("at1")], _own("batch")),
        _node("Slice", [_own("planar_shape"), _own("at2"), _own("at4")], _own("size")),
        _node("Concat", [_own("batch"), _own("blocks"), _own("size")], _own("blocks_shape"), axis=0),
        _node("Reshape", [planar, _own("blocks_shape")], _own("blocked")),
        _node("Transpose", [_own("blocked")], _own("shuffled"), perm=[0, 4, 2, 5, 3, 1]),
        _node("Mul", [_own("size"), _own("factor")], _own("shuffled_size")),
        _node("Concat", [_own("batch"), _own("shuffled_size"), _own("channels")], _own("shuffled_shape"), axis=0),
        _node("Reshape", [_own("shuffled"), _own("shuffled_shape")], interleaved),
    ]


def _health(unclamped: str) -> list[NodeProto]:
    return [
        _node("Cast", [unclamped], _own("unclamped_fp32"), to=TensorProto.FLOAT),
        _node("ReduceL1", [_own("unclamped_fp32"), _own("channel_axis")], _own("pixel_sums"), keepdims=1),
        _node("ReduceMean", [_own("pixel_sums"), _own("sample_axes")], _own("mean_sum"), keepdims=0),
        _node("Mul", [_own("mean_sum"), _own("1/full_scale")], HEALTH),
    ]


def _health_constants(full_scale: float) -> list[TensorProto]:
    return [
        numpy_helper.from_array(np.array([1], np.int64), _own("channel_axis")),
        numpy_helper.from_array(np.array([1, 2, 3], np.int64), _own("sample_axes")),
        numpy_helper.from_array(np.array(1 / full_scale, np.float32), _own("1/full_scale")),
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
        *(numpy_helper.from_array(_scalar(value, float_type), _own(name)) for name, value in scalars.items()),
        *(numpy_helper.from_array(np.array(value, np.int64), _own(name)) for name, value in indices.items()),
        numpy_helper.from_array(np.array(0, np.uint8), _own("zero_point")),
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


def _image_ports(model: ModelProto) -> tuple[onnx.ValueInfoProto, onnx.ValueInfoProto]:
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


def _scalar(value: float, float_type: int) -> Array:
    return np.array(value, helper.tensor_dtype_to_np_dtype(float_type))


def _own(name: str) -> str:
    return f"pixel_form.{name}"


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, [output], name=_own(f"{kind}.{output}"), **attributes)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) or None
