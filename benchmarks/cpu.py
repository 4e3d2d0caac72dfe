"""Time one network on this CPU, side by side in one run: torch, ONNX Runtime, ncnn, bare OpenVINO, Upscaler, start-up.

python benchmarks/cpu.py MODEL.pth BUNDLE IMAGE [--rounds 7] [--size 960x540]

Every round runs each contender once, in turn, so that a noisy machine disturbs all alike; medians and ratios are printed as a
Markdown table. ncnn takes part where `pip install ncnn pnnx` was done, bf16 where the CPU computes it, and INT8 where the
bundle has it. A table is of one CPU: those of CPUs with other instructions stand beside it, never in it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx

from sr_deploy import Upscaler, open_bundle
from sr_deploy.engines.pixels import to_pixel_form
from sr_deploy.pictures.image import read_image

Contender = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", default="960x540")
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    image = cv2.resize(read_image(options.image).pixels, (width, height), interpolation=cv2.INTER_AREA)
    contenders = {
        "torch eager fp32": torch_eager(options.checkpoint, image),
        "ONNX Runtime fp32, numpy conversion": onnx_runtime(options.bundle, image),
        "OpenVINO fp32, bare inference": bare_openvino(options.bundle, image, "f32", pixels=False),
    }
    if importlib.util.find_spec("ncnn") and importlib.util.find_spec("pnnx"):
        contenders["ncnn fp32, numpy conversion"] = by_ncnn(options.bundle, image)
    if "amx_bf16" in instructions() or "avx512_bf16" in instructions():
        contenders["OpenVINO bf16, bare inference"] = bare_openvino(options.bundle, image, "bf16", pixels=False)
        contenders["OpenVINO bf16, bare inference of the pixel form"] = bare_openvino(
            options.bundle, image, "bf16", pixels=True
        )
    contenders["Upscaler, --fp32"] = upscaler(options.bundle, image, "fp32")
    if (options.bundle / "int8.onnx").exists():
        contenders["Upscaler, --precision int8"] = upscaler(options.bundle, image, "int8")
    contenders["Upscaler"] = upscaler(options.bundle, image, "auto")
    seconds = measure(contenders, options.rounds)
    card = open_bundle(options.bundle).card
    print(f"{card.name} x{card.scale}, {width}x{height} -> {width * card.scale}x{height * card.scale}, {machine()}\n")
    print("| contender | median ms | fastest ms | times Upscaler |\n|---|---|---|---|")
    base = statistics.median(seconds["Upscaler"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"| {name} | {median * 1000:.0f} | {min(values) * 1000:.0f} | {median / base:.2f} |")
    startup(options.bundle, image, options.rounds)


def measure(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds per contender and round, after one unmeasured round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(rounds + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if round_number > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def torch_eager(checkpoint: Path, image: np.ndarray[Any, Any]) -> Contender:
    """The published forward as a user runs it: uint8 in, uint8 out."""
    import torch

    from sr_deploy.architectures import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    reading = max(loaded.readings, key=lambda reading: reading.value_range)
    network, peak = loaded.network(reading), reading.value_range

    def run() -> object:
        with torch.inference_mode():
            x = torch.from_numpy(image).permute(2, 0, 1)[None].float() * (peak / 255)
            y = network(x)
            return (y * (255 / peak)).round().clamp(0, 255).byte()[0].permute(1, 2, 0).numpy()

    return run


def onnx_runtime(bundle: Path, image: np.ndarray[Any, Any]) -> Contender:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(bundle / "fp32.onnx"), providers=["CPUExecutionProvider"])

    def run() -> object:
        x = np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32) / 255
        y = session.run(None, {"input": x})[0][0]
        return np.ascontiguousarray((y.transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8))

    return run


def by_ncnn(bundle: Path, image: np.ndarray[Any, Any]) -> Contender:
    """The graph as pnnx turns it into ncnn's, for this size, without its fp16 storage."""
    import ncnn  # type: ignore[import-not-found]
    import pnnx  # type: ignore[import-not-found]

    height, width = image.shape[:2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(bundle / "fp32.onnx", folder)
        files = (f"ncnnparam={folder}/net.param", f"ncnnbin={folder}/net.bin")
        command = [pnnx.EXEC_PATH, "fp32.onnx", f"inputshape=[1,3,{height},{width}]", *files, "fp16=0"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        net = ncnn.Net()
        net.opt.num_threads = len(os.sched_getaffinity(0))
        net.load_param(f"{folder}/net.param")
        net.load_model(f"{folder}/net.bin")
    source, target = net.input_names()[0], net.output_names()[0]

    def run() -> object:
        x = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32) / 255
        extractor = net.create_extractor()
        extractor.input(source, ncnn.Mat(x))
        _, y = extractor.extract(target)
        return np.ascontiguousarray((np.array(y).transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8))

    return run


def bare_openvino(bundle: Path, image: np.ndarray[Any, Any], hint: str, *, pixels: bool) -> Contender:
    """Inference alone: inputs converted beforehand, outputs left where the runtime put them."""
    import openvino

    model = onnx.load(bundle / "fp32.onnx")
    core = openvino.Core()
    graph = core.read_model((to_pixel_form(model) if pixels else model).SerializeToString())
    options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(graph, "CPU", options).create_infer_request()
    feed = image[None] if pixels else np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32) / 255
    return lambda: request.infer([feed], share_inputs=True, share_outputs=True)


def upscaler(bundle: Path, image: np.ndarray[Any, Any], precision: Any) -> Contender:
    upscale = Upscaler(bundle, precision=precision)
    return lambda: upscale(image)


def startup(bundle: Path, image: np.ndarray[Any, Any], rounds: int) -> None:
    """What a process costs before and around the inference."""
    small = np.ascontiguousarray(image[:270, :480])
    with tempfile.TemporaryDirectory() as folder, Upscaler(bundle) as upscale:
        source = Path(folder) / "small.png"
        cv2.imwrite(str(source), small)
        command = [str(Path(sys.executable).parent / "sr-deploy"), "upscale", str(source), "-m", str(bundle)]
        seconds = measure(
            {
                "python -c pass": lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
                "import sr_deploy": lambda: subprocess.run([sys.executable, "-c", "import sr_deploy"], check=True),
                "inference of 480x270": lambda: upscale(small),
                "sr-deploy upscale of 480x270": lambda: subprocess.run(
                    [*command, "-o", f"{folder}/out", "--overwrite", "--no-progress"], check=True, capture_output=True
                ),
            },
            rounds,
        )
    print("\n| start-up | median ms |\n|---|---|")
    for name, values in seconds.items():
        print(f"| {name} | {statistics.median(values) * 1000:.0f} |")


def machine() -> str:
    cores = len(os.sched_getaffinity(0))
    model = _of_cpu("model name") or platform.processor()
    return f"{model} ({', '.join(instructions())}), {cores} cores, Python {platform.python_version()}"


def instructions() -> list[str]:
    """Those that decide how fast networks run, of this CPU."""
    flags = set(_of_cpu("flags").split())
    return [
        name for name in ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if name in flags
    ]


def _of_cpu(what: str) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith(what)), "")


if __name__ == "__main__":
    main()
