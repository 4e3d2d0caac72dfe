"""CUDA's libraries, found where pip, torch or the system put them, and loaded before a runtime asks for them.

A loaded library is found by its name: whoever needs it afterwards needs no search path. Its symbols stay its own, so that
another version of it, such as one that torch has loaded, is not disturbed.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_WINDOWS = sys.platform == "win32"
_LOADED_ONLY = getattr(os, "RTLD_NOLOAD", 0)
_NVIDIA_FOLDERS = ("nvidia/*/bin/*", "nvidia/*/bin") if _WINDOWS else ("nvidia/*/lib",)
_PIP_FOLDERS = (*_NVIDIA_FOLDERS, "tensorrt_libs", "torch/lib")
_SYSTEM_FOLDERS = ("bin", "bin/x64") if _WINDOWS else ("lib64", "lib")


@dataclass(frozen=True)
class SharedLibrary:
    """file: its name for the loader. wheel: what pip installs it by. needed: no convolution runs without it."""

    file: str
    wheel: str
    needed: bool = True


def cuda_libraries(version: str) -> tuple[SharedLibrary, ...]:
    """What convolutions through CUDA of that version ('13.0') need, those first that others need; () for ''."""
    if not version:
        return ()
    major = int(version.partition(".")[0])
    suffix = "" if major >= 13 else f"-cu{major}"
    return (
        _library("cudart", major, f"nvidia-cuda-runtime{suffix}"),
        # cuDNN compiles kernels with it, where it has none that fits.
        _library("nvrtc", major, f"nvidia-cuda-nvrtc{suffix}", needed=False),
        _library("cublasLt", major, f"nvidia-cublas{suffix}"),
        _library("cublas", major, f"nvidia-cublas{suffix}"),
        _library("curand", 10, f"nvidia-curand{suffix}"),
        # ONNX Runtime's provider comes up without it from 1.28 on.
        _library("cufft", major - 1, f"nvidia-cufft{suffix}", needed=False),
        _library("cudnn", 9, f"nvidia-cudnn-cu{major}"),
    )


def tensorrt_libraries(version: str) -> tuple[SharedLibrary, ...]:
    """TensorRT 10, which ONNX Runtime's wheels are linked with, for CUDA of that version; () for ''."""
    wheel = f"tensorrt-cu{version.partition('.')[0]}"
    return tuple(_library(stem, 10, wheel) for stem in ("nvinfer", "nvonnxparser")) if version else ()


def load(libraries: Sequence[SharedLibrary]) -> dict[SharedLibrary, str]:
    """Load them in that order; those that cannot be, with the loader's reasons.

    From then on this process computes fp32 in fp32: cuBLAS, cuDNN and TensorRT read `NVIDIA_TF32_OVERRIDE` when they start, and
    obey it whatever a program asks for; ONNX Runtime alone falls back to TF32 where a convolution has no plan without it. A
    value that is set already is left alone.
    """
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    return {library: problem for library in libraries if (problem := _load(library.file))}


def remedy(missing: Mapping[SharedLibrary, str]) -> str:
    """What `load` could not, why, and the line that brings it; at least one."""
    files = ", ".join(library.file for library in missing)
    wheels = " ".join(f'"{wheel}"' for wheel in dict.fromkeys(library.wheel for library in missing))
    first = next((problem for library, problem in missing.items() if library.needed), next(iter(missing.values())))
    return f"{files} cannot be loaded ({first}); install with `pip install {wheels}`"


def _library(stem: str, version: int, wheel: str, *, needed: bool = True) -> SharedLibrary:
    file = _windows_name(stem, version) if _WINDOWS else f"lib{stem}.so.{version}"
    return SharedLibrary(file, f"{wheel}~={version}.0", needed)


def _windows_name(stem: str, version: int) -> str:
    if stem == "nvrtc":
        return f"nvrtc64_{version}0_0.dll"
    return f"{stem}_{version}.dll" if stem.startswith("nv") else f"{stem}64_{version}.dll"


@functools.cache
def _load(file: str) -> str:
    """Why the library cannot be loaded, '' when it is."""
    if _is_loaded(file):
        return ""
    problems = []
    for place in _places(file):
        try:
            ctypes.CDLL(place)
        except OSError as exc:
            problems.append(str(exc))
        else:
            return ""
    return problems[0]


def _is_loaded(file: str) -> bool:
    """Whether this process has it already: another copy beside it would be another library."""
    if not _LOADED_ONLY:
        return False
    try:
        ctypes.CDLL(file, mode=_LOADED_ONLY)
    except OSError:
        return False
    return True


def _places(file: str) -> Iterator[str]:
    """What to ask the loader for: files that are there, and the bare name, which it looks for itself."""
    roots = [Path(root) for root in dict.fromkeys(sys.path) if root]
    installed = (folder for root in roots for pattern in _PIP_FOLDERS for folder in sorted(root.glob(pattern)))
    yield from (str(folder / file) for folder in installed if (folder / file).is_file())
    yield file
    toolkits = (os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda")
    system = (Path(toolkit) / folder for toolkit in toolkits if toolkit for folder in _SYSTEM_FOLDERS)
    yield from (str(folder / file) for folder in system if (folder / file).is_file())
