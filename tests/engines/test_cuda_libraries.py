"""Libraries compiled on the spot, in folders as pip makes them."""

from __future__ import annotations

import ctypes
import inspect
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sr_deploy.engines import cuda_libraries as module
from sr_deploy.engines.cuda_libraries import SharedLibrary, cuda_libraries, load, remedy, tensorrt_libraries

Compile = Callable[..., SharedLibrary]

_ASKS = """#include <stdlib.h>
const char *asked;
__attribute__((constructor)) static void ask(void) { asked = getenv("NVIDIA_TF32_OVERRIDE"); }
"""


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    module._load.cache_clear()
    yield
    module._load.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders of `sys.path`, of which the second is returned."""
    first, second = tmp_path / "first", tmp_path / "second é"
    for folder in (first, second):
        folder.mkdir()
        monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "path", ["", str(first), str(second)])
    for variable in ("CUDA_PATH", "CUDA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    return second


@pytest.fixture
def compile_library(request: pytest.FixtureRequest) -> Compile:
    """A shared object named after the test, that calls what `needs` define; they lie beside their sources in other folders."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc")
    test = "".join(letter for letter in request.node.name if letter.isalnum())

    def compile_library(folder: Path, name: str, *needs: tuple[Path, SharedLibrary], code: str = "") -> SharedLibrary:
        folder.mkdir(parents=True, exist_ok=True)
        library = SharedLibrary(f"lib{test}{name}.so.13", f"nvidia-{name}~=13.0")
        calls = "".join(f"+{Path(need.file).name.split('.')[0]}()" for _, need in needs)
        declared = "".join(f"int {Path(need.file).name.split('.')[0]}(void);" for _, need in needs)
        source = folder / f"{name}.c"
        source.write_text(f"{code}{declared}int lib{test}{name}(void){{return 7{calls};}}")
        objects = [str(place / need.file) for place, need in needs]
        soname = f"-Wl,-soname,{library.file}"
        subprocess.run(["gcc", "-shared", "-fPIC", soname, source, *objects, "-o", folder / library.file], check=True)
        return library

    return compile_library


def test_libraries_in_folders_of_their_own_are_loaded_so_that_later_ones_find_them(
    site: Path, compile_library: Compile
) -> None:
    base_folder, top_folder = site / "nvidia" / "base" / "lib", site / "nvidia" / "cu13" / "lib"
    base = compile_library(base_folder, "base")
    top = compile_library(top_folder, "top", (base_folder, base))
    with pytest.raises(OSError, match="cannot open shared object file"):
        ctypes.CDLL(str(top_folder / top.file))
    assert not load((base, top))
    by_name = ctypes.CDLL(top.file)
    assert by_name[top.file.split(".")[0]]() == 14


@pytest.mark.parametrize("folder", ["torch/lib", "tensorrt_libs"])
def test_libraries_of_other_packages_are_taken(site: Path, compile_library: Compile, folder: str) -> None:
    assert not load([compile_library(site / folder, "bundled")])


@pytest.mark.parametrize("variable", ["CUDA_PATH", "CUDA_HOME"])
def test_a_toolkit_is_taken(
    site: Path, compile_library: Compile, monkeypatch: pytest.MonkeyPatch, variable: str, tmp_path: Path
) -> None:
    assert site.is_dir()
    library = compile_library(tmp_path / "toolkit" / "lib64", "toolkit")
    assert load([library])
    module._load.cache_clear()
    monkeypatch.setenv(variable, str(tmp_path / "toolkit"))
    assert not load([library])


@pytest.mark.parametrize("given", [None, "1"])
def test_libraries_find_tf32_off_when_they_are_loaded_unless_the_user_said_otherwise(
    site: Path, compile_library: Compile, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    """As cuBLAS and cuDNN do it: a library in C asks its own environment."""
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", given or "")
    if given is None:
        monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    library = compile_library(site / "nvidia" / "x" / "lib", "asks", code=_ASKS)
    assert not load([library])
    asked = ctypes.c_char_p.in_dll(ctypes.CDLL(library.file), "asked")
    assert asked.value == (given or "0").encode()


def test_what_is_missing_is_named_with_the_line_that_brings_it(site: Path, compile_library: Compile) -> None:
    there = compile_library(site / "nvidia" / "x" / "lib", "there")
    absent = SharedLibrary("libabsent.so.13", "nvidia-absent~=13.0")
    optional = SharedLibrary("liboptional.so.13", "nvidia-optional~=13.0", needed=False)
    missing = load([there, optional, absent, SharedLibrary("libtwin.so.13", absent.wheel)])
    assert list(missing) == [optional, absent, SharedLibrary("libtwin.so.13", absent.wheel)]
    assert remedy(missing).startswith(
        "liboptional.so.13, libabsent.so.13, libtwin.so.13 cannot be loaded (libabsent.so.13: cannot open shared object file"
    )
    assert remedy(missing).endswith('`pip install "nvidia-optional~=13.0" "nvidia-absent~=13.0"`')
    assert remedy(load([optional])).startswith("liboptional.so.13 cannot be loaded (liboptional.so.13: ")


def test_a_library_whose_own_need_is_missing_tells_that(site: Path, compile_library: Compile) -> None:
    folder, elsewhere = site / "nvidia" / "x" / "lib", site / "elsewhere"
    need = compile_library(elsewhere, "need")
    library = compile_library(folder, "needy", (elsewhere, need))
    assert load([library])[library].startswith(f"{need.file}: cannot open shared object file")


def test_a_library_that_the_process_has_is_not_loaded_twice(site: Path, compile_library: Compile) -> None:
    first, second = site / "mine", site / "nvidia" / "x" / "lib"
    library = compile_library(first, "once")
    assert compile_library(second, "once") == library
    kept = ctypes.CDLL(str(first / library.file))
    assert not load([library]) and kept is not None
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert str(first / library.file) in maps and str(second / library.file) not in maps


@pytest.mark.parametrize("version", ["12.8", "13.0"])
def test_they_are_those_that_onnxruntime_preloads(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "cuda_version", version)
    theirs = [path[-1] for path in onnxruntime._get_nvidia_dll_paths(False)]
    assert sorted(library.file for library in cuda_libraries(version)) == sorted(theirs)
    monkeypatch.setattr(module, "_WINDOWS", True)
    windows = {path[-1] for path in onnxruntime._get_nvidia_dll_paths(True)}
    assert all(
        library.file in windows or library.file.startswith(("nvrtc64_", "curand64_")) for library in cuda_libraries(version)
    )
    assert list(inspect.signature(onnxruntime.preload_dlls).parameters)[:2] == ["cuda", "cudnn"]


def test_names_of_wheels_follow_the_version_of_cuda() -> None:
    assert {library.wheel for library in cuda_libraries("13.0")} == {
        "nvidia-cuda-runtime~=13.0", "nvidia-cuda-nvrtc~=13.0", "nvidia-cublas~=13.0", "nvidia-curand~=10.0",
        "nvidia-cufft~=12.0", "nvidia-cudnn-cu13~=9.0",
    }  # fmt: skip
    assert "nvidia-cublas-cu12~=12.0" in {library.wheel for library in cuda_libraries("12.8")}
    assert [library.file for library in tensorrt_libraries("13.0")] == ["libnvinfer.so.10", "libnvonnxparser.so.10"]
    assert cuda_libraries("") == tensorrt_libraries("") == ()
