"""The kernels that come compiled: chosen, loaded without a compiler, and in step with their sources."""

from __future__ import annotations

import importlib
import logging
import os
import re
import subprocess
import sys
import tomllib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sr_deploy.device import kernel_files
from sr_deploy.device.device import load_warp
from sr_deploy.device.kernel_files import block_dim_of, choose_file, kernel_modules, load_compiled, variant_folder

pytestmark = pytest.mark.skipif(importlib.util.find_spec("warp") is None, reason="NVIDIA Warp is not installed")

ROOT = Path(__file__).parents[2]
WITHOUT_COMPILER = """
import time
import numpy as np
from sr_deploy.device.device import Device, load_warp
load_warp()
import warp._src.build as build
def refuse(*_, **__):
    raise RuntimeError("there is no compiler")
build.build_cpu = build.build_cuda = refuse
device = Device("cpu")
"""


def run_python(code: str, cache: Path) -> str:
    """What the code prints in a new process, with an empty cache and no compiler."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER + code],
        env=os.environ | {"WARP_CACHE_PATH": str(cache), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


needs_files_of_this_platform = pytest.mark.skipif(
    not list(kernel_files.COMPILED.rglob(kernel_files.cpu_file_name())), reason="nothing is compiled for CPUs of this platform"
)


@needs_files_of_this_platform
def test_the_kernels_run_without_a_compiler_and_a_cache_within_a_second(tmp_path: Path) -> None:
    code = """
from sr_deploy.device.patches import PatchSelector
from sr_deploy.device.tiling import DeviceTiling
from sr_deploy.upscaling.tiling import plan_tiles
tiling = plan_tiles(7, 9, tile=0, halo=0, blend=False)
rows, columns = ([axis.region(0)] for axis in (tiling.rows, tiling.columns))
frame = np.random.default_rng(1).integers(0, 256, (1, 7, 9, 3), np.uint8)
tiles = device.empty((1, 3, 7, 9), "float32")
scores = device.array(np.array([0.25, 0.75, 0.5], np.float32))
start = time.process_time()
DeviceTiling(device, rows, columns, window=tiling.window, scale=1).gather(device.array(frame), tiles)
selector = PatchSelector(device, 3)
selector.take(scores, 2)
print(time.process_time() - start)
np.testing.assert_array_equal(tiles.numpy(), (frame * np.float32(1 / 255)).transpose(0, 3, 1, 2))
np.testing.assert_array_equal(np.sort(selector.chosen.numpy()[:2]), [1, 2])
"""
    assert float(run_python(code, tmp_path)) < 1
    assert not list(tmp_path.rglob("*.o"))


@needs_files_of_this_platform
def test_the_files_are_those_of_the_sources(tmp_path: Path) -> None:
    """If this fails: `make kernels`."""
    expected = run_python("import compile_kernels\nprint(*compile_kernels.expected_files(), sep='\\n')", tmp_path)
    assert {str(path) for path in kernel_files.COMPILED.rglob("*") if path.is_file()} == set(expected.splitlines())


def test_the_wheel_takes_the_files_along_and_grows_by_little() -> None:
    package = kernel_files.COMPILED.parents[1]
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    taken = {path for pattern in patterns["sr_deploy"] for path in package.glob(pattern) if path.is_file()}
    files = {path for path in kernel_files.COMPILED.rglob("*") if path.is_file()}
    assert files and files <= taken
    assert sum(len(zlib.compress(path.read_bytes())) for path in files) < 4e6


@pytest.mark.long
@needs_files_of_this_platform
def test_compiling_again_gives_the_same_bytes(tmp_path: Path, warp: Any, compiler: Any) -> None:
    for name in kernel_modules():
        importlib.import_module(name)
        module = warp.get_module(name)
        for folder, suffix in ((variant_folder(module, 1), "o"), (variant_folder(module, block_dim_of(module)), "ptx")):
            (kept,) = folder.glob(f"*.{suffix}")
            again = tmp_path / folder.name / kept.name
            if suffix == "o":
                compiler.compile_for_cpu(module, again.parent)
            else:
                compiler.compile_to(again, module, arch=compiler.PTX, use_ptx=True)
            for path in again.parent.iterdir():
                assert path.read_bytes() == (folder / path.name).read_bytes()


@pytest.fixture
def warp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    warp = load_warp()
    monkeypatch.setattr(warp.config, "kernel_cache_dir", str(tmp_path / "cache"))
    return warp


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("compile_kernels")


class Driver:
    """In the place of the CUDA driver: GPUs that load files and find kernels in them, and run nothing."""

    def __init__(self, warp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._warp = warp
        self._core = warp._src.context.runtime.core
        self.loaded: list[Path] = []
        self.refuses: tuple[str, ...] = ()
        monkeypatch.setattr(self._core, "wp_cuda_load_module", self.load)
        monkeypatch.setattr(self._core, "wp_cuda_get_kernel", self.find)
        monkeypatch.setattr(self._core, "wp_cuda_configure_kernel_shared_memory", lambda *_: True)
        monkeypatch.setattr(self._core, "wp_cuda_unload_module", lambda *_: None)
        for compile_to in ("build_cuda", "build_cpu"):
            monkeypatch.setattr(warp._src.build, compile_to, self.compile_nothing)

    def gpu(self, capability: int) -> Any:
        device = object.__new__(self._warp._src.context.Device)
        vars(device).update(
            alias=f"cuda:of-{capability}", ordinal=0, arch=capability, _context=capability, max_shared_memory_per_block=49152
        )
        return device

    def find(self, context: int, module: int, name: bytes) -> bool:
        del context
        return name in self.loaded[module - 1].read_bytes()

    def load(self, context: int, path: bytes) -> int | None:
        del context
        if path.decode().endswith(self.refuses or ("never",)):
            return None
        self.loaded.append(Path(path.decode()))
        return len(self.loaded)

    def compile_nothing(self, *_: object, **__: object) -> None:
        raise RuntimeError("there is no compiler")


@pytest.fixture
def driver(warp: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    monkeypatch.setattr(kernel_files, "_seen", set())
    yield Driver(warp, monkeypatch)
    for name in kernel_modules():
        execs = warp.get_module(name).execs
        for key in [key for key, loaded in execs.items() if loaded.device.alias.startswith("cuda:of-")]:
            execs.pop(key).handle = None


def architecture_within(path: Path) -> int:
    """What a file says of itself: a cubin in the flags of its ELF header, PTX in its target."""
    contents = path.read_bytes()
    if path.suffix == ".ptx":
        return int(re.findall(rb"\.target sm_(\d+)\n", contents)[0])
    assert contents.startswith(b"\x7fELF")
    return contents[49]


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        (75, "sm75.cubin"),
        (80, "sm80.cubin"),
        (86, "sm86.cubin"),
        (87, "sm75.ptx"),  # Jetson Orin: of that generation, and yet no other GPU's cubins
        (89, "sm89.cubin"),
        (90, "sm90.cubin"),
        (100, "sm100.cubin"),
        (103, "sm100.cubin"),
        (110, "sm75.ptx"),
        (120, "sm120.cubin"),
        (121, "sm120.cubin"),
        (130, "sm75.ptx"),
    ],
)
@pytest.mark.parametrize("source", kernel_modules())
def test_each_gpu_gets_what_it_runs_and_all_kernels_are_in_it(source: str, capability: int, name: str, driver: Driver) -> None:
    kernels = importlib.import_module(source)
    warp = load_warp()
    module, gpu = warp.get_module(source), driver.gpu(capability)
    for _ in range(2):
        load_compiled(module, gpu)
    (path,) = driver.loaded
    assert path.name == name and architecture_within(path) == int(re.findall(r"\d+", name)[0])
    loaded = module.load(gpu, block_dim_of(module))
    assert driver.loaded == [path]
    concrete = [own for found in vars(kernels).values() if isinstance(found, warp.Kernel) for own in forms(found)]
    assert len(concrete) >= 3
    assert all(loaded.get_kernel_hooks(kernel).forward for kernel in concrete)


def forms(kernel: Any) -> list[Any]:
    return list(kernel.overloads.values()) if kernel.is_generic else [kernel]


def test_a_gpu_older_than_all_files_gets_none() -> None:
    load_warp()
    importlib.import_module("sr_deploy.device.tiling_kernels")
    folder = variant_folder(load_warp().get_module("sr_deploy.device.tiling_kernels"), 256)
    assert choose_file(folder, 70) is None and choose_file(folder / "absent", 89) is None


def make_absent(driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del driver
    monkeypatch.setattr(kernel_files, "COMPILED", tmp_path / "other sources")


def make_refused(driver: Driver, *_: object) -> None:
    driver.refuses = (".cubin", ".ptx")


@pytest.mark.parametrize(
    ("spoil", "reason"), [(make_absent, "do not come compiled"), (make_refused, "sm89.cubin does not load")]
)
def test_what_cannot_be_loaded_is_compiled_and_told_once(
    spoil: Callable[..., None],
    reason: str,
    driver: Driver,
    warp: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    importlib.import_module("sr_deploy.device.tiling_kernels")
    module, gpu = warp.get_module("sr_deploy.device.tiling_kernels"), driver.gpu(89)
    spoil(driver, tmp_path, monkeypatch)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            load_compiled(module, gpu)
    (record,) = caplog.records
    assert "compiling sr_deploy.device.tiling_kernels for cuda:of-89" in record.message and reason in record.message
    assert not driver.loaded


def test_what_warp_has_in_its_cache_is_not_told(
    driver: Driver, warp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    importlib.import_module("sr_deploy.device.tiling_kernels")
    module = warp.get_module("sr_deploy.device.tiling_kernels")
    make_absent(driver, tmp_path, monkeypatch)
    Path(warp.config.kernel_cache_dir, module.get_module_identifier(256)).mkdir(parents=True)
    load_compiled(module, driver.gpu(89))
    assert not caplog.records


def test_another_version_of_warp_finds_nothing(warp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("sr_deploy.device.tiling_kernels")
    module = warp.get_module("sr_deploy.device.tiling_kernels")
    monkeypatch.setattr(warp, "__version__", "99.0")
    assert not variant_folder(module, 256).exists()
