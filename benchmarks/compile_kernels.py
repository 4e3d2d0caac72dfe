"""Compile our kernels ahead of time into the package, for GPUs and for the CPUs of this platform; no GPU is needed.

    python benchmarks/compile_kernels.py

The same sources and the same Warp give the same bytes. What was compiled for other platforms' CPUs stays while the sources do.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sr_deploy.device import kernel_files
from sr_deploy.device.device import load_warp

CUBINS = (75, 80, 86, 89, 90, 100, 120)
PTX = 75
"""The kernels need nothing newer, so that one PTX serves every compute capability that has no cubin."""


def compile_for_gpus(module: Any, folder: Path) -> None:
    """Fill the folder with the cubins and the PTX of a `warp.Module`."""
    for architecture in CUBINS:
        compile_to(folder / f"sm{architecture}.cubin", module, arch=architecture, use_ptx=False)
    compile_to(folder / f"sm{PTX}.ptx", module, arch=PTX, use_ptx=True)


def compile_for_cpu(module: Any, folder: Path) -> None:
    """Put into the folder what any CPU of this platform runs that Warp itself runs on; no path of its headers stays in it."""
    headers = f"-fmacro-prefix-map={Path(load_warp().__file__).parent}=warp"
    target = folder / kernel_files.cpu_file_name()
    with _options(module, block_dim=1, cpu_compiler_flags=headers):
        compile_to(target, module, device="cpu")
    target.write_bytes(re.sub(rb"_[0-9a-f]{7}\.cpp\0", rb"_0000000.cpp\0", target.read_bytes()))


def compile_to(target: Path, module: Any, **what: Any) -> None:
    """Compile as `warp.compile_aot_module` does; what Warp notes of the kernels lies beside the target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        (binary,) = load_warp().compile_aot_module(module, module_dir=folder, **what)
        (meta,) = Path(folder).glob("*.meta")
        shutil.copyfile(binary, target)
        shutil.copyfile(meta, target.with_name(kernel_files.META))


@contextlib.contextmanager
def _options(module: Any, **options: Any) -> Iterator[None]:
    warp = load_warp()
    source = importlib.import_module(module.name)
    before = {name: warp.get_module_options(source)[name] for name in options}
    warp.set_module_options(options, source)
    try:
        yield
    finally:
        warp.set_module_options(before, source)


def variants() -> Iterator[tuple[Any, Path, Path]]:
    """For each kernel module, a `warp.Module`, its folders for GPUs and for CPUs."""
    for name in kernel_files.kernel_modules():
        importlib.import_module(name)
        module = load_warp().get_module(name)
        block_dim = kernel_files.block_dim_of(module)
        yield module, kernel_files.variant_folder(module, block_dim), kernel_files.variant_folder(module, 1)


def expected_files() -> set[Path]:
    """All that a package with these sources holds, for GPUs and for the CPUs of this platform."""
    names = [kernel_files.META, f"sm{PTX}.ptx", *(f"sm{architecture}.cubin" for architecture in CUBINS)]
    for_gpus = {folder / name for _, folder, _ in variants() for name in names}
    return for_gpus | {
        folder / name for _, _, folder in variants() for name in (kernel_files.META, kernel_files.cpu_file_name())
    }


def main() -> None:
    for module, for_gpus, for_cpus in variants():
        compile_for_gpus(module, for_gpus)
        compile_for_cpu(module, for_cpus)
    folders = {path.parent for path in expected_files()}
    for folder in kernel_files.COMPILED.glob("*/*"):
        if folder not in folders:
            shutil.rmtree(folder)
    for folder in sorted(folders):
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{folder.relative_to(kernel_files.COMPILED)}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
