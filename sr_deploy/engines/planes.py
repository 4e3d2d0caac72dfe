"""Planes form: from a portable graph to what our kernels finish on a GPU.

    planes form input (N,C,H,W) float in [0,1]   ->  planes (N,C*r*r,sH/r,sW/r) float in about [0,1], or levels, up to 255

The planes form leaves what follows the last convolution to our kernels, where a GPU's runtime does not fuse it: the pixel
shuffle by r, if the graph ends in one, clamping, rounding, interleaving and health. It gives levels where a convolution is
last: ONNX Runtime multiplies its weights by 255 once, as it does in the pixel form, so that bytes are the same. Else it gives
planes.
"""

from __future__ import annotations

import onnx
from onnx import ModelProto, helper, numpy_helper

from sr_deploy.bundle import Bundle
from sr_deploy.card import Arithmetic
from sr_deploy.engines.pixels import Tail, dim_of, image_ports, last_node, new_node, own_name, scalar
from sr_deploy.errors import EngineError

PLANES, LEVELS = "planes", "levels"
WHITE = {PLANES: 1.0, LEVELS: 255.0}
"""What the planes form gives, and what stands for white in it."""


def to_planes_form(model: ModelProto) -> ModelProto:
    """The planes form of a portable graph; `model` itself is left alone.

    Raises: EngineError when the graph has not one float input and one output of four dimensions.
    """
    _, target = image_ports(model)
    if len(model.graph.output) != 1:
        raise EngineError("a mask-guided network has no planes form; use its pixel form")
    tail = Tail.of(model)
    form = ModelProto()
    form.CopyFrom(model)
    graph = form.graph
    del graph.node[:], graph.output[:]
    graph.node.extend(tail.body)
    float_type = target.type.tensor_type.elem_type
    if last_node(tail.body, tail.result, "Conv") is not None:
        name = LEVELS
        graph.node.append(new_node("Mul", [tail.result, own_name("255")], LEVELS))
        graph.initializer.append(numpy_helper.from_array(scalar(255.0, float_type), own_name("255")))
    else:
        name = PLANES
        graph.node.append(new_node("Identity", [tail.result], PLANES))
    batch, channels, _, _ = (dim_of(dim) for dim in target.type.tensor_type.shape.dim)
    shape = [batch, int(channels or 1) * tail.upscale**2, None, None]
    graph.output.append(helper.make_tensor_value_info(name, float_type, shape))
    return form


def load_planes_form(bundle: Bundle, arithmetic: Arithmetic) -> ModelProto:
    """The planes form of a bundle's graph that `arithmetic` runs.

    Raises: BundleError, EngineError.
    """
    return to_planes_form(onnx.load(bundle.graph(arithmetic)))
