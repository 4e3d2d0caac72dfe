"""ONNX Runtime on the CPU and through its CUDA provider."""

from __future__ import annotations

import contextlib
import functools
import io
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper

from sr_deploy.arrays import Array
from sr_deploy.device import gpu
from sr_deploy.engines import Arithmetic, cuda_libraries
from sr_deploy.engines.engine import DeviceEngine, TensorSpec, check_arrays
from sr_deploy.engines.placement import warn_of_strays
from sr_deploy.errors import BackendUnavailableError, EngineError, OutOfMemoryError, first_line

if TYPE_CHECKING:
    from sr_deploy.device.device import Device, DeviceArray
    from sr_deploy.device.streams import Stream

Provider = tuple[str, dict[str, str]]
"""Its name and its options."""

TENSORRT = "TensorrtExecutionProvider"
"""The provider through TensorRT; what that does not take runs on the CUDA provider."""

_PROVIDER_OF = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_CUDA_OPTIONS = {
    # The default times every algorithm of every convolution again for each new shape, half a second and more; images differ.
    "cudnn_conv_algo_search": "HEURISTIC",
    # The default doubles what it takes and keeps it; frames, decoders and other sessions share the GPU.
    "arena_extend_strategy": "kSameAsRequested",
    # TF32 has 10 bits of mantissa: no place for it where fp32 is the reference that others are recomputed in.
    "use_tf32": "0",
}
_ERROR, _FATAL = 3, 4
_DTYPE_OF = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


def require() -> None:
    """Import the runtime. Raises: ImportError."""
    import onnxruntime  # noqa: F401


def usable_precisions(device: str) -> tuple[Arithmetic, ...]:
    """fp32 and fp16; bf16 is not offered.

    Raises: BackendUnavailableError when the installed build has no provider for the device, or the GPU does not initialize.
    """
    check_provider(_PROVIDER_OF[device])
    return ("fp32", "fp16")


def check_provider(provider: str) -> None:
    """Raise BackendUnavailableError unless the installed build has that provider, and it initializes."""
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        raise BackendUnavailableError(
            f"the installed ONNX Runtime has no {provider}; install the CUDA build with "
            '`pip uninstall onnxruntime && pip install "sr-deploy[cuda]"`'
        )
    if provider != _PROVIDER_OF["cpu"] and (problem := gpu.survey().problem or _why_not_initialized(provider)):
        raise BackendUnavailableError(f"ONNX Runtime cannot initialize {provider}: {problem}; or use --backend onnxruntime")


def open(
    graph: bytes,
    *,
    device: str,
    precision: Arithmetic,
    threads: int | None,
    gpu: int = 0,
    options: tuple[str, ...] = (),
) -> DeviceEngine:
    """Load `graph` into a session. `options` of the CUDA provider are turned on for arrays that lie on the GPU.

    Raises: BackendUnavailableError when the GPU fails to initialize, EngineError.
    """
    if device == "cpu":
        session = open_session(graph, [(_PROVIDER_OF[device], {})], precision=precision, threads=threads)
        return ONNXRuntimeEngine(lambda _: session, f"onnxruntime {precision}", device_name="cpu")
    load_libraries(_PROVIDER_OF[device])

    def new_session(stream: int | None) -> Any:
        name, settings = cuda_provider(gpu, stream)
        chosen = {} if stream is None else dict.fromkeys(options, "1")
        return open_session(graph, [(name, settings | chosen)], precision=precision, threads=threads)

    return ONNXRuntimeEngine(new_session, f"onnxruntime cuda {precision}", device_name=f"cuda:{gpu}")


def cuda_provider(number: int, stream: int | None = None) -> Provider:
    """The CUDA provider for one GPU, on the stream of that handle or one of its own."""
    return _PROVIDER_OF["cuda"], {"device_id": str(number), **_CUDA_OPTIONS, **stream_option(stream)}


def stream_option(stream: int | None) -> dict[str, str]:
    """What puts a provider on the stream of that handle; nothing for None."""
    return {} if stream is None else {"user_compute_stream": str(stream)}


def open_session(graph: bytes, providers: list[Provider], *, precision: Arithmetic, threads: int | None) -> Any:
    """A session on the first of the providers; the others take what it cannot run, and the CPU the rest, which is told once.

    Raises: BackendUnavailableError when that provider fails to initialize, EngineError.
    """
    import onnxruntime

    if precision == "bf16":
        raise EngineError("onnxruntime computes in fp32 or fp16, not in bf16; use --precision fp32 or the openvino backend")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL  # what fails is raised, and told once
    onnxruntime.set_default_logger_severity(_ERROR)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # Its kernels of 8 bits saturate on CPUs without VNNI; as they stand, Q and DQ are exact.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        # Without the fallback: after a failure on the GPU it would go on on the CPU.
        session = onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except Exception as exc:
        raise _translated(exc, "refuses the graph") from exc
    if providers[0][0] not in session.get_providers():
        raise BackendUnavailableError(
            f"ONNX Runtime could not initialize {providers[0][0]}; see `sr-deploy doctor`, or choose --backend onnxruntime"
        )
    if providers[0][0] != _PROVIDER_OF["cpu"]:
        warn_of_strays(graph, session, f"onnxruntime with {providers[0][0]}", onnxruntime.__version__)
    return session


@functools.cache
def _why_not_initialized(provider: str) -> str:
    """Why that provider runs nothing here, '' when it runs a graph; what the runtime prints meanwhile is kept off stdout."""
    import onnxruntime

    missing = load_libraries(provider)
    if any(library.needed for library in missing):
        return cuda_libraries.remedy(missing)
    source, target = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("input", "output"))
    node = helper.make_node("Identity", ["input"], ["output"])
    graph = helper.make_graph([node], "probe", [source], [target])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnxruntime.set_default_logger_severity(_FATAL)
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[provider])
        except Exception as exc:
            return first_line(exc)
        finally:
            onnxruntime.set_default_logger_severity(_ERROR)
    if provider in session.get_providers():
        return ""
    return cuda_libraries.remedy(missing) if missing else "all of its libraries load, and it does not say why"


def load_libraries(provider: str) -> dict[cuda_libraries.SharedLibrary, str]:
    """Load CUDA's libraries for that provider, as `cuda_libraries.load` does; a provider that is a plugin comes up now."""
    import onnxruntime

    version = getattr(onnxruntime, "cuda_version", "")
    libraries = cuda_libraries.cuda_libraries(version)
    if provider == TENSORRT:
        libraries += cuda_libraries.tensorrt_libraries(version)
    missing = cuda_libraries.load(libraries)
    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls(cuda=False, cudnn=False)
    return missing


@dataclass(frozen=True)
class _Lane:
    """A session and the stream that it runs on; None on the CPU."""

    session: Any
    stream: Stream


class ONNXRuntimeEngine(DeviceEngine):
    """Sessions of ONNX Runtime, whose arrays lie on `device_name`.

    On a GPU each context has a session of its own, made when it is first used, and a stream that lives as long: a session keeps
    to one stream for ever. `enqueue` orders that stream with the caller's by events, and nothing waits. It allocates in the
    first runs of a shape, so no graph records it. `run` has one more session, which also tells the inputs and outputs. On the
    CPU all of them are one session, whose runs may overlap.

    new_session: makes a session on the stream of that CUDA handle, or for None on one of its own.
    """

    contexts = 8

    def __init__(self, new_session: Callable[[int | None], Any], description: str, *, device_name: str) -> None:
        super().__init__()
        self.description = description
        self._new_session = new_session
        self._session = session = new_session(None)
        self.inputs = tuple(_spec(value) for value in session.get_inputs())
        self.outputs = tuple(_spec(value) for value in session.get_outputs())
        self._device_name = device_name
        self._lanes: dict[int, _Lane] = {}
        self._opening = threading.Lock()

    @functools.cached_property
    def device(self) -> Device:  # type: ignore[override]  # opened when asked for: `run` needs no Warp
        from sr_deploy.device.device import Device

        return Device(self._device_name)

    def enqueue(self, arrays: Mapping[str, DeviceArray], *, stream: Stream = None, context: int = 0) -> None:
        check_arrays(self, arrays, context)
        lane = self._lane(context)
        self.device.wait_event(self.device.record_event(stream), lane.stream)
        with self.device.preparing():
            try:
                lane.session.run_with_iobinding(self._bound(lane.session, arrays), _without_waiting())
            except Exception as exc:
                raise _translated(exc, "failed while running") from exc
        self.device.wait_event(self.device.record_event(lane.stream), stream)

    def _lane(self, context: int) -> _Lane:
        with self._opening:
            if self._closed:
                raise EngineError(f"{self.description}: run after close; open a new engine")
            if context not in self._lanes:
                self._lanes[context] = self._new_lane()
            return self._lanes[context]

    def _new_lane(self) -> _Lane:
        if not self.device.is_gpu:
            return _Lane(self._session, None)
        stream = self.device.stream()
        with self.device.preparing():
            from sr_deploy.device.streams import stream_handle

            return _Lane(self._new_session(stream_handle(stream)), stream)

    def _bound(self, session: Any, arrays: Mapping[str, DeviceArray]) -> Any:
        binding = session.io_binding()
        kind, _, number = self._device_name.partition(":")
        for bind, specs in ((binding.bind_input, self.inputs), (binding.bind_output, self.outputs)):
            for spec in specs:
                array = arrays[spec.name]
                bind(spec.name, kind, int(number or 0), spec.dtype.type, array.shape, array.ptr)
        return binding

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            results = self._session.run(None, dict(feeds))
        except Exception as exc:
            raise _translated(exc, "failed while running") from exc
        return {spec.name: array for spec, array in zip(self.outputs, results, strict=True)}

    def _close(self) -> None:
        with self._opening:
            for lane in self._lanes.values():
                with contextlib.suppress(EngineError):  # whoever waits for the run is told
                    self.device.synchronize(lane.stream)
            self._lanes.clear()
            self._session = None


def _without_waiting() -> Any:
    """Options of a run that returns when its work is on the stream."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def _spec(value: Any) -> TensorSpec:
    if value.type not in _DTYPE_OF:
        raise EngineError(f"onnxruntime: '{value.name}' is a {value.type}, which no image graph uses")
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorSpec(value.name, np.dtype(_DTYPE_OF[value.type]), shape)


def _translated(error: Exception, what: str) -> EngineError:
    reason = first_line(error)
    if any(sign in str(error).lower() for sign in ("bad_alloc", "out of memory", "failed to allocate", "alloc_failed")):
        return OutOfMemoryError(f"onnxruntime: out of memory ({reason}); use smaller tiles or a smaller --memory")
    return EngineError(f"onnxruntime {what}: {reason}")
