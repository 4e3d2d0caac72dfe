"""Our kernels as they come with the package: compiled for GPUs and for the CPU, so that nobody waits for a compiler.

`compiled/WARP/MODULE-HASH/` holds one variant of a kernel module. WARP is the version of Warp that compiled it, and HASH is
Warp's own of the sources, the options and the number of threads in a block: files of other sources are not found. In it are
`sm89.cubin` and others by compute capability, `sm75.ptx` for all later ones, `linux-x86_64.o` for such CPUs, and what Warp
notes of the kernels.
"""

from __future__ import annotations

import logging
import sysconfig
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMPILED = Path(__file__).with_name("compiled")
META = "meta.json"
_TEGRA = (87, 88)
"""Compute capabilities that do not run the cubins of other GPUs of their generation."""

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_seen: set[tuple[str, str, int]] = set()


@dataclass(frozen=True)
class KernelFile:
    """A compiled kernel module; `architecture` is the compute capability that it was compiled for, 0 for a CPU."""

    path: Path
    architecture: int = 0


def kernel_modules() -> list[str]:
    """Names of all modules of kernels."""
    return [f"{__package__}.{path.stem}" for path in sorted(Path(__file__).parent.glob("*kernels.py"))]


def variant_folder(module: Any, block_dim: int) -> Path:
    """Where the files of a `warp.Module` are, if there are any."""
    import warp

    name, content = module.name.rpartition(".")[2], module.get_module_hash(block_dim).hex()[:16]
    return COMPILED / str(warp.__version__) / f"{name}-{content}"


def choose_file(folder: Path, capability: int | None) -> KernelFile | None:
    """The file of a variant for a GPU of that compute capability, such as 89, or for this CPU; None where there is none.

    A cubin runs on its own compute capability and the later ones of its generation; all others compile PTX in the driver.
    """
    if capability is None:
        path = folder / cpu_file_name()
        return KernelFile(path) if path.exists() else None
    cubins = [cubin for cubin in _files(folder, "cubin") if _runs_on(cubin.architecture, capability)]
    portable = [ptx for ptx in _files(folder, "ptx") if ptx.architecture <= capability]
    return max(cubins or portable, key=lambda found: found.architecture, default=None)


def cpu_file_name() -> str:
    """Of what is compiled for this platform's CPUs."""
    return f"{sysconfig.get_platform()}.o"


def block_dim_of(module: Any) -> int:
    """Threads in a block of a `warp.Module` on a GPU: all of its kernels are launched with just so many."""
    return int(module.options["block_dim"])


def load_compiled(module: Any, device: Any) -> None:
    """Load what there is compiled of a `warp.Module` on a `warp.Device`, at the first call; else Warp compiles it at launch."""
    block_dim = 1 if device.is_cpu else block_dim_of(module)
    key = (module.name, device.alias, block_dim)
    with _lock:
        if key not in _seen:
            _seen.add(key)
            _load(module, device, block_dim)


def _load(module: Any, device: Any, block_dim: int) -> None:
    folder = variant_folder(module, block_dim)
    found = choose_file(folder, None if device.is_cpu else device.arch)
    if found is None:
        _tell_compilation(module, device, block_dim, "they do not come compiled for it")
        return
    try:
        module.load(device, block_dim, found.path, found.architecture or None, folder / META)
    except Exception as exc:  # Warp's errors of loading have no class of their own
        _tell_compilation(module, device, block_dim, f"{found.path.name} does not load: {exc}")


def _tell_compilation(module: Any, device: Any, block_dim: int, reason: str) -> None:
    import warp

    if not Path(warp.config.kernel_cache_dir, module.get_module_identifier(block_dim)).exists():
        _log.warning("compiling %s for %s, which takes up to half a minute, once (%s)", module.name, device.alias, reason)


def _files(folder: Path, kind: str) -> list[KernelFile]:
    return [KernelFile(path, int(path.stem.removeprefix("sm"))) for path in folder.glob(f"sm*.{kind}")]


def _runs_on(cubin: int, capability: int) -> bool:
    if capability in _TEGRA:
        return cubin == capability
    return cubin // 10 == capability // 10 and cubin <= capability
