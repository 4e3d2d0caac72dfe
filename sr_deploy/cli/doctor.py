"""`sr-deploy doctor`: what works on this machine, and the line that repairs what does not."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli import Command, json_option, verbose_option
from sr_deploy.cli.output import print_facts, print_json, print_table
from sr_deploy.errors import MissingDependencyError, SrDeployError, UsageError

if TYPE_CHECKING:
    from sr_deploy.device.gpu import Survey

NEEDED = ("numpy", "onnx", "opencv-python-headless", "pillow", "click", "tqdm")
OPTIONAL = ("openvino", "onnxruntime", "onnxruntime-gpu", "torch", "safetensors", "onnxscript", "spandrel")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16", "asimd", "bf16")


@click.command(
    "doctor",
    cls=Command,
    examples=(
        "sr-deploy doctor",
        "sr-deploy doctor --backend tensorrt",
    ),
)
@click.option("--backend", metavar="NAME", help="What upscaling must work with, such as tensorrt.  [default: any]")
@json_option
@verbose_option
def command(backend: str | None, as_json: bool) -> None:
    """Say what works on this machine. Exit code 0 when upscaling does, with that backend if one is named, else 3."""
    from sr_deploy.device import gpu

    nvidia, video = gpu.survey(), gpu.video_libraries()
    facts = _machine()
    packages = {name: _version(name) for name in (*NEEDED, *OPTIONAL)}
    backends = _backends()
    libraries = _libraries(has_gpu=bool(nvidia.gpus))
    problem = _problem(packages, backends, backend)
    export = all(packages[name] for name in ("torch", "safetensors", "onnxscript"))
    if as_json:
        document = {"machine": facts, "nvidia": {**vars(nvidia), "video": video}, "packages": packages, "backends": backends}
        print_json({**document, "libraries": libraries, "upscale": not problem, "problem": problem, "export": export})
    else:
        print_facts({**facts, **_nvidia_facts(nvidia, video)})
        click.echo()
        print_table([(name, version or "-") for name, version in packages.items()], ("package", "version"))
        click.echo()
        shown = [entry for entry in backends if entry["device"] == "cpu" or nvidia.gpus or nvidia.broken]
        rows = [(entry["name"], entry["works"], entry["precisions"], entry["problem"]) for entry in shown]
        print_table(rows, ("backend", "works", "native precisions", "what to do"))
        click.echo()
        rows = [(entry["name"], entry["works"], entry["version"], entry["problem"]) for entry in libraries]
        print_table(rows, ("builds engines", "works", "version", "what to do"))
        click.echo()
        click.echo(f"upscale: {'does not work' if problem else 'works'}")
        click.echo("export: works" if export else 'export: not here; install it with `pip install "sr-deploy[export]"`')
    if problem:
        raise MissingDependencyError(problem)


def _problem(packages: dict[str, str | None], backends: list[dict[str, Any]], wanted: str | None) -> str:
    """Why `upscale` does not work here, and what to do; '' when it does."""
    from sr_deploy.engines import select_backend

    missing = [name for name in NEEDED if packages[name] is None and _absent(name)]
    if missing:
        return f"{', '.join(missing)} not installed; install it with `pip install sr-deploy`"
    if not any(backend["works"] for backend in backends):
        return "no inference runtime works here; install one with `pip install openvino`"
    try:
        select_backend(wanted or "auto")
    except UsageError:
        raise
    except SrDeployError as exc:
        return str(exc)
    return ""


def _nvidia_facts(nvidia: Survey, video: dict[str, bool]) -> dict[str, Any]:
    from sr_deploy.device.gpu import VIDEO_LIBRARIES

    if not nvidia.gpus:
        return {"GPU": f"none: {nvidia.problem}; to use one, {nvidia.remedy}"}
    cure = "comes with the driver; containers need NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
    return {
        "GPU": [f"{found} with {found.memory / 1e9:.1f} GB" for found in nvidia.gpus],
        "NVIDIA driver": f"{nvidia.driver or 'of unknown version'}, for CUDA up to {nvidia.cuda}",
        **{name: "yes" if here else f"no {VIDEO_LIBRARIES[name]}; it {cure}" for name, here in video.items()},
    }


def _machine() -> dict[str, Any]:
    cpu, flags = _cpu()
    total, available = _memory()
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(terse=True),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu features": flags,
        "memory": f"{total / 1e9:.1f} GB, {available / 1e9:.1f} GB free" if total else None,
    }


def _cpu() -> tuple[str, list[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), []
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    flags = fields.get("flags", fields.get("Features", "")).split()
    return fields.get("model name", platform.machine()), [flag for flag in CPU_FLAGS if flag in flags]


def _memory() -> tuple[int, int]:
    """Bytes in all, and free."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return 0, 0
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if ":" in line}
    return kilobytes.get("MemTotal", 0) * 1024, kilobytes.get("MemAvailable", 0) * 1024


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _absent(package: str) -> bool:
    """OpenCV comes under several names; what counts is whether it can be imported."""
    import importlib.util

    module = {"opencv-python-headless": "cv2", "pillow": "PIL"}.get(package, package)
    return importlib.util.find_spec(module) is None


def _backends() -> list[dict[str, Any]]:
    from sr_deploy.engines import BACKENDS

    return [{"name": backend.name, "device": backend.device, **_try(backend.name)} for backend in BACKENDS]


def _libraries(*, has_gpu: bool) -> list[dict[str, Any]]:
    """Which libraries can build engines here."""
    from sr_deploy.engines.tensorrt.library import FLAVOURS, load_library

    found = []
    for flavour in FLAVOURS:
        version, problem = "", ""
        try:
            version = load_library(flavour).version
        except SrDeployError as exc:
            problem = str(exc)
        if version and not has_gpu and not flavour.builds_ahead:
            problem = f"{flavour.title} builds on the GPU that runs the engine, and there is none"
        found.append({"name": flavour.name, "works": not problem, "version": version, "problem": problem})
    return found


def _try(backend: str) -> dict[str, Any]:
    """Whether a backend really runs a graph here; the graph turns 2x2 pixels with 4 channels into 4x4 pixels."""
    import numpy as np
    from onnx import TensorProto, helper

    from sr_deploy.engines import open_engine, select_backend

    shuffle = helper.make_node("DepthToSpace", ["input"], ["output"], blocksize=2)
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 4, 2, 2])
    target = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1, 4, 4])
    model = helper.make_model(
        helper.make_graph([shuffle], "doctor", [source], [target]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    pixels = np.arange(16, dtype=np.float32).reshape(1, 4, 2, 2)
    expected = pixels.reshape(2, 2, 2, 2).transpose(2, 0, 3, 1).reshape(1, 1, 4, 4)
    try:
        precisions = select_backend(backend).usable_precisions()
        with open_engine(model, backend=backend) as engine:
            result = engine.run({"input": pixels})["output"]
    except SrDeployError as exc:
        return {"works": False, "precisions": (), "problem": str(exc)}
    problem = "" if np.array_equal(result, expected) else "computes wrong pixels here; install another version of it"
    return {"works": not problem, "precisions": precisions, "problem": problem}
