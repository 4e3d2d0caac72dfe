"""A foreign image graph -> its portable form: (N,C,H,W) float32 in [0,1] -> (N,C,sH,sW), and what it is, found by running it.

What a file does not tell is measured: layout and colors by the shapes that come out, the sizes that it takes by trying, its
value range on the picture whose HR is known. What does not come out right in any reading is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from onnx import ModelProto, TensorProto, compose, helper, numpy_helper

from sr_deploy.arrays import Array
from sr_deploy.bundle import Detection, Hypothesis, ModelCard
from sr_deploy.engines import BACKENDS, open_engine
from sr_deploy.engines.engine import Engine
from sr_deploy.engines.facts import cost_of, graph_facts, infer_shapes
from sr_deploy.engines.graph_file import check_sizes, read_graph
from sr_deploy.engines.pixels import modern
from sr_deploy.errors import BackendUnavailableError, BundleError, EngineError, first_line
from sr_deploy.probe_picture import MARGIN, degrade, gain, measure, measure_bicubic, probe_picture

VALUE_RANGES = (1.0, 255.0)
MAX_SCALE = 16
WORST = 6.0
"""dB below bicubic that no reading may be beyond: generous to what was trained to please, while a wrong reading is black."""

_Layout = Literal["NCHW", "NHWC"]
_TYPES = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.UINT8: "uint8"}
_NEAR, _FAR = (192, 256), (320, 384)
"""Height and width of two images, multiples of 64, by which scale and border are found without running."""

_MULTIPLES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_LEAST_TRIED = 33
_MEASURED_SIDES = (240, 120)
_MEASURED_BYTES, _MEASURED_MACS = 512 << 20, 2 * 10**11


@dataclass(frozen=True)
class Portable:
    """A graph in portable form at the value range 1 of its own ports.

    `rewritten`: whether it differs from the file. `size_multiple` and `min_size`: which sizes of images it takes.
    `types`: of the file's own ports, as ONNX numbers them.
    """

    model: ModelProto
    rewritten: bool
    scale: int
    channels: int
    min_size: int
    size_multiple: int
    types: tuple[int, int]


@dataclass(frozen=True)
class _Ports:
    """What goes in and out of the file's graph."""

    source: str
    target: str
    source_type: int
    target_type: int


def to_portable(path: Path) -> Portable:
    """The portable form of the graph in a file.

    Raises: BundleError, with the file's name, when it is no image graph of whole scale.
    """
    model = read_graph(path)
    ports, dims = _ports_of(path, model)
    try:
        reasons: list[str] = []
        for layout, channels in _readings(path, dims):
            try:
                form, scale = _portable_form(model, ports, layout, channels)
            except (EngineError, BundleError) as exc:
                reasons.append(str(exc))
                continue
            return _tried(path, form, scale, channels, rewritten=form is not model, ports=ports)
    except BackendUnavailableError:
        raise
    except Exception as exc:  # ONNX's own parts raise anything on graphs that are damaged
        reasons.append(first_line(exc))
    sides = [side for side in dims[1:] if side not in (None, 1, 3)]
    if len(sides) == 2:
        raise BundleError(f"{path}: takes {sides[1]}x{sides[0]} pixels only; export it again with dynamic height and width")
    raise BundleError(f"{path}: {reasons[0].removeprefix(f'{path}: ')}")


def describe(path: Path, portable: Portable) -> tuple[ModelCard, ModelProto, bool]:
    """The card of a foreign graph, its portable form in [0,1], and whether that differs from the file.

    Raises: BundleError when no value range upscales, or the picture does not tell which.
    """
    ranges = VALUE_RANGES[:1] if TensorProto.UINT8 in portable.types else VALUE_RANGES
    forms = [portable.model if value == 1 else ranged(portable.model, value) for value in ranges]
    hr, lr = _picture(path, portable)
    hypotheses, outputs = [], []
    for value, form in zip(ranges, forms, strict=True):
        with _open(form) as engine:
            run = _Runner(engine)
            psnr = measure(run, hr, lr, channels=portable.channels)
        outputs.append(run.output)
        hypotheses.append(Hypothesis({"value_range": value}, round(psnr, 4), round(measure_bicubic(hr, lr), 4)))
    index = _best(path, hypotheses, outputs)
    facts = graph_facts(portable.model, min_size=portable.min_size)
    card = ModelCard(
        name=path.stem,
        architecture="foreign",
        scale=portable.scale,
        channels=cast("Literal[1, 3]", portable.channels),
        value_range=ranges[index],
        detection=Detection(
            "measurement" if len(ranges) > 1 else "structure",
            tuple(hypotheses),
            margin=round(abs(gain(hypotheses[0]) - gain(hypotheses[-1])), 4) if len(ranges) > 1 else None,
            bicubic=hypotheses[index].bicubic,
        ),
        tiling="exact" if facts.exact else "approximate",
        halo=facts.halo,
        min_size=portable.min_size,
        size_multiple=portable.size_multiple,
        activation_bytes=facts.activation_bytes,
        macs=facts.macs,
        parameters=facts.parameters,
    )
    return card, forms[index], portable.rewritten or index > 0


def ranged(model: ModelProto, value_range: float) -> ModelProto:
    """A portable graph of another value range, on [0, 1]."""
    if value_range == 1:
        return model
    result = compose.add_prefix(model, "ranged/")
    graph = result.graph
    source, target = graph.input[0].name, graph.output[0].name
    before = helper.make_node("Mul", ["input", "value_range"], [source], name="value_range/Mul")
    after = helper.make_node("Div", [target, "value_range"], ["output"], name="value_range/Div")
    graph.node.insert(0, before)
    graph.node.append(after)
    graph.initializer.append(numpy_helper.from_array(np.array(value_range, np.float32), "value_range"))
    graph.input[0].name, graph.output[0].name = "input", "output"
    return result


def _ports_of(path: Path, model: ModelProto) -> tuple[_Ports, list[int | None]]:
    """The ports, and the declared sizes of the input."""
    weights = {tensor.name for tensor in model.graph.initializer}
    sources = [value for value in model.graph.input if value.name not in weights]
    if len(sources) != 1 or len(model.graph.output) != 1:
        raise BundleError(
            f"{path}: has {len(sources)} inputs and {len(model.graph.output)} outputs; expected one image in and one out"
        )
    source, target = sources[0], model.graph.output[0]
    kinds = [value.type.tensor_type.elem_type for value in (source, target)]
    shape = source.type.tensor_type.shape.dim
    if not set(kinds) <= _TYPES.keys() or (source.type.tensor_type.HasField("shape") and len(shape) != 4):
        raise BundleError(
            f"{path}: its input is not (N,C,H,W) or (N,H,W,C) in fp32, fp16 or uint8; expected an image in one of these layouts"
        )
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in shape] or [None] * 4
    return _Ports(source.name, target.name, *kinds), dims


def _readings(path: Path, dims: list[int | None]) -> list[tuple[_Layout, int]]:
    """What the declared sizes leave open, the likeliest first."""
    axes: tuple[tuple[_Layout, int, int], ...] = (("NCHW", 1, 3), ("NHWC", 3, 1))
    declared = [(layout, size) for layout, axis, _ in axes if (size := dims[axis]) in (1, 3)]
    undeclared = [
        (layout, channels) for layout, axis, other in axes for channels in (3, 1) if dims[axis] is None and dims[other] is None
    ]
    if readings := declared or undeclared:
        return readings
    raise BundleError(f"{path}: takes {dims[1] or dims[3]} channels; expected 3 (RGB) or 1 (luma)")


def _portable_form(model: ModelProto, ports: _Ports, layout: _Layout, channels: int) -> tuple[ModelProto, int]:
    """The graph with an image in RGB or luma on both sides, and its scale; `model` itself where nothing is to be changed.

    Raises: EngineError, BundleError when the shapes do not follow, or are no whole multiples.
    """
    plain = _relaxed(model, ports, layout, channels)
    shapes = [_image_shapes(plain, layout, size) for size in (_NEAR, _FAR)]
    check_sizes(plain, shapes[0], where="the graph")
    near, far = (shape[plain.graph.output[0].name] for shape in shapes)
    out: _Layout = "NCHW" if len(near) == 4 and near[1] == channels else "NHWC"
    if len(near) != 4 or near[{"NCHW": 1, "NHWC": 3}[out]] != channels:
        raise EngineError(f"makes {list(near)} of {channels} colors; expected an image of as many")
    (near_height, near_width), (far_height, far_width) = (size[2:] if out == "NCHW" else size[1:3] for size in (near, far))
    scale, rest = divmod(far_height - near_height, _FAR[0] - _NEAR[0])
    border = scale * _NEAR[0] - near_height
    even = (far_width - near_width, scale * _NEAR[1] - near_width) == (scale * (_FAR[1] - _NEAR[1]), border)
    if rest or not 1 <= scale <= MAX_SCALE or border < 0 or border % (2 * scale) or not even:
        raise EngineError(
            f"makes {near_width}x{near_height} pixels of {_NEAR[1]}x{_NEAR[0]}, which is no whole multiple, nor one with as "
            "much cut off on each side; expected a network that upscales by a whole number"
        )
    is_plain = (ports.source_type, ports.target_type) == (TensorProto.FLOAT, TensorProto.FLOAT)
    if is_plain and layout == out == "NCHW" and border == 0:
        sides = (_source_of(model, ports), model.graph.output[0])
        declared = [[dim.dim_value for dim in side.type.tensor_type.shape.dim[1:]] for side in sides]
        plain.graph.output[0].type.tensor_type.shape.dim[1].dim_value = channels
        as_it_is = len(model.graph.input) == 1 and declared == [[channels, 0, 0]] * 2
        return (model if as_it_is else plain), scale
    return _wrapped(plain, ports, layout, out, channels, border // (2 * scale)), scale


def _source_of(model: ModelProto, ports: _Ports) -> Any:
    return next(value for value in model.graph.input if value.name == ports.source)


def _relaxed(model: ModelProto, ports: _Ports, layout: _Layout, channels: int) -> ModelProto:
    """A copy whose ports leave number, height and width open, with the image as the only input."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    sizes: list[str | int | None]
    sizes = ["batch", channels, "height", "width"] if layout == "NCHW" else ["batch", "height", "width", channels]
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.append(helper.make_tensor_value_info(ports.source, ports.source_type, sizes))
    outside = ["batch_out", None, None, None]
    graph.output.append(helper.make_tensor_value_info(ports.target, ports.target_type, outside))
    return result


def _image_shapes(model: ModelProto, layout: _Layout, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    height, width = size
    if layout == "NCHW":
        return infer_shapes(model, height, width)
    sized = ModelProto()
    sized.CopyFrom(model)
    for dim, side in zip(sized.graph.input[0].type.tensor_type.shape.dim, (1, height, width), strict=False):
        dim.dim_value = side
    channels = sized.graph.input[0].type.tensor_type.shape.dim[3].dim_value
    return infer_shapes(sized, width, channels)


def _wrapped(model: ModelProto, ports: _Ports, layout: _Layout, out: _Layout, channels: int, pad: int) -> ModelProto:
    result = compose.add_prefix(modern(model), "theirs/")
    graph = result.graph
    constants: dict[str, Array] = {}
    before, name = [], "input"

    def step(kind: str, source: str, target: str, *constant: str, **attributes: Any) -> str:
        before.append(helper.make_node(kind, [source, *constant], [target], name=f"ports/{target}", **attributes))
        return target

    if pad:
        constants["pads"] = np.array([0, 0, pad, pad, 0, 0, pad, pad], np.int64)
        name = step("Pad", name, "padded", "pads", mode="edge")
    if ports.source_type == TensorProto.UINT8:
        constants |= {"255": np.array(255, np.float32), "0": np.array(0, np.float32)}
        name = step("Mul", name, "levels", "255")
        name = step("Round", name, "rounded")
        name = step("Clip", name, "clipped", "0", "255")
    if ports.source_type != TensorProto.FLOAT:
        name = step("Cast", name, "cast", to=ports.source_type)
    if layout == "NHWC":
        name = step("Transpose", name, "interleaved", perm=[0, 2, 3, 1])
    before.append(helper.make_node("Identity", [name], [graph.input[0].name], name="ports/source"))
    entry, before = before, []
    name = graph.output[0].name
    if out == "NHWC":
        name = step("Transpose", name, "planar", perm=[0, 3, 1, 2])
    if ports.target_type != TensorProto.FLOAT:
        name = step("Cast", name, "float", to=TensorProto.FLOAT)
    if ports.target_type == TensorProto.UINT8:
        constants["255"] = np.array(255, np.float32)
        name = step("Div", name, "unit", "255")
    before.append(helper.make_node("Identity", [name], ["output"], name="ports/target"))
    nodes = [*entry, *graph.node, *before]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    graph.input.append(helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", channels, "height", "width"]))
    graph.output.append(helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", channels, None, None]))
    return result


def _tried(path: Path, form: ModelProto, scale: int, channels: int, *, rewritten: bool, ports: _Ports) -> Portable:
    """The portable form with the sizes that it takes, each of which was run."""
    with _open(form) as engine:
        reason = ""
        for multiple in _MULTIPLES:
            steps = -(-_LEAST_TRIED // multiple) | 1
            reason = _problem(engine, scale, channels, multiple * steps, multiple * (steps + 2)) or ""
            if not reason:
                break
        if reason:
            raise BundleError(f"{path}: takes none of the sizes that were tried ({reason}); export it again with dynamic sizes")
        sides = [multiple * step for step in (*range(1, 17), 20, 24, 32, 48, 64)]
        smallest = next((side for side in sides if not _problem(engine, scale, channels, side, side)), multiple * steps)
    return Portable(form, rewritten, scale, channels, smallest, multiple, (ports.source_type, ports.target_type))


def _problem(engine: Engine, scale: int, channels: int, height: int, width: int) -> str | None:
    """Why a graph does not take an image of that size, None where it does."""
    image = np.linspace(0, 1, channels * height * width, dtype=np.float32).reshape(1, channels, height, width)
    try:
        output = _Runner(engine)(image)
    except EngineError as exc:
        return first_line(exc)
    wanted = (1, channels, height * scale, width * scale)
    return None if output.shape == wanted else f"it makes {list(output.shape)} of {list(image.shape)}"


class _Runner:
    """An engine of a portable graph as a function; `output` is the last result."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.output: Array = np.zeros(0, np.float32)

    def __call__(self, image: Array) -> Array:
        self.output = self.engine.run({self.engine.inputs[0].name: image})[self.engine.outputs[0].name]
        return self.output


def _open(model: ModelProto) -> Engine:
    """An engine on the CPU; ONNX Runtime first, which takes new sizes without preparing for them."""
    names = [backend.name for backend in BACKENDS if backend.device == "cpu" and not backend.problem()]
    if not names:
        raise BackendUnavailableError(f"no inference runtime for the CPU loads here; install one with `{BACKENDS[0].install}`")
    return open_engine(model, backend=max(names, key=lambda name: name == "onnxruntime"))


def _picture(path: Path, portable: Portable) -> tuple[Array, Array]:
    """HR and LR to measure on, as large as the network's cost allows."""
    for side in _MEASURED_SIDES:
        hr, lr = degrade(probe_picture()[:side, :side], portable.scale, size_multiple=portable.size_multiple)
        if min(lr.shape[:2]) < portable.min_size:
            break
        cost = cost_of(portable.model, *lr.shape[:2])
        if cost.activation_bytes <= _MEASURED_BYTES and cost.macs <= _MEASURED_MACS:
            return hr, lr
    raise BundleError(
        f"{path}: too costly or too particular in its sizes to measure its value range on a small picture; say what it is with "
        f"`sr-deploy export {path.name} --value-range 1|255`"
    )


def _best(path: Path, hypotheses: list[Hypothesis], outputs: list[Array]) -> int:
    """The reading that gains most over bicubic; of two that make the same pixels, the first."""
    index = max(range(len(hypotheses)), key=lambda at: gain(hypotheses[at]))
    best = hypotheses[index]
    if gain(best) < -WORST or best.psnr == 0:
        ranges = " and ".join(f"{item.assumes['value_range']:g}" for item in hypotheses)
        raise BundleError(
            f"{path}: does not upscale: with white as {ranges} it has at best {best.psnr:.2f} dB on a test picture, where "
            f"bicubic has {best.bicubic:.2f}. It wants other values than these; wrap it so that it takes RGB in 0..1"
        )
    if len(hypotheses) == 1 or abs(gain(hypotheses[0]) - gain(hypotheses[1])) >= MARGIN:
        return index
    if same_pixels(*outputs):
        return 0
    raise BundleError(
        f"{path}: a test picture does not tell whether white is 1 or 255 for it ({hypotheses[0].psnr:.2f} and "
        f"{hypotheses[1].psnr:.2f} dB); say so with `sr-deploy export {path.name} --value-range 1|255`"
    )


def same_pixels(first: Array, second: Array) -> bool:
    """Whether two outputs in about [0, 1] are the same pictures, to one 8-bit step on average."""
    one, other = (np.round(np.clip(np.nan_to_num(output), 0, 1) * 255) for output in (first, second))
    return float(np.abs(one - other).mean()) <= 1
