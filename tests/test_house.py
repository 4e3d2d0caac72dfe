"""Who may import whom, and other rules of the house that a reader relies on."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

import sr_deploy
from sr_deploy.device.device import load_warp

PACKAGE = Path(sr_deploy.__file__).parent
ROOT = PACKAGE.parent

MAY_IMPORT = {
    "errors": set(),
    "arrays": set(),
    "files": set(),
    "web": set(),
    "pages": set(),
    "filetypes": {"errors"},
    "bicubic": set(),
    "metrics": set(),
    "apart": {"errors"},
    "pipeline": {"errors"},
    "settings": {"errors"},
    "card": {"errors", "settings"},
    "bundle": {"errors", "card"},
    "probe_picture": {"errors", "bicubic", "metrics", "card"},
    "models": {"errors", "files", "settings", "bundle"},
    "pictures": {"errors", "files", "bicubic", "metrics"},
    "architectures": {"errors", "filetypes"},
    "device": {"errors", "card"},
    "engines": {"errors", "files", "apart", "settings", "bundle", "card", "metrics", "probe_picture", "models", "device"},
    "export": {
        *("errors", "files", "pages", "apart", "settings", "bicubic", "metrics", "bundle", "card", "probe_picture", "models"),
        *("architectures", "engines"),
    },
    "fetch": {"errors", "files", "web", "bundle", "models", "export"},
    "training": {
        *("errors", "files", "settings", "bicubic", "metrics", "bundle", "models", "pictures", "architectures", "engines"),
    },
    "upscaling": {"errors", "files", "pipeline", "pictures", "bundle", "card", "engines", "device"},
    "masked": {"errors", "pictures", "bundle", "card", "engines", "device", "upscaling"},
    "evaluation": {"errors", "files", "pages", "metrics", "bicubic", "pictures", "upscaling", "masked"},
    "video": {"errors", "files", "web", "pictures", "device", "upscaling"},
    "film": {"errors", "files", "settings", "pipeline", "pictures", "device", "upscaling", "video"},
    "batch": {
        *("errors", "files", "filetypes", "card", "pipeline", "pictures", "models", "engines", "upscaling", "masked", "film"),
    },
    "cluster": {"errors", "files", "pictures", "pipeline", "models", "engines", "upscaling", "film", "batch"},
    "serve": {
        *("errors", "files", "pages", "filetypes", "settings", "bundle", "models", "pictures", "engines", "upscaling", "video"),
        *("film", "batch", "cluster"),
    },
    "cli": set(),
}
"""By room, those of ours that it may import, beside `arrays`; `cli` may import all, and nobody imports it."""

THIRD_PARTY = {
    "arrays": {"numpy"},
    "bicubic": {"numpy"},
    "metrics": {"numpy"},
    "probe_picture": {"numpy"},
    "pictures": {"numpy", "cv2"},
    "architectures": {"torch", "safetensors", "numpy"},
    "device": {"numpy"},
    "engines": {"numpy", "onnx"},
    "export": {"torch", "onnx", "numpy"},
    "training": {"torch", "numpy"},
    "upscaling": {"numpy"},
    "masked": {"numpy"},
    "evaluation": {"numpy"},
    "video": {"numpy", "av", "cv2"},
    "film": {"numpy", "av", "cv2"},
    "batch": {"numpy"},
    "cluster": set(),
    "serve": {"fastapi", "starlette", "pydantic", "prometheus_client", "uvicorn", "numpy"},
    "cli": {"click"},
}
KERNELS = {PACKAGE / "device" / f"{name}_kernels.py" for name in ("tiling", "patch", "selection", "video")}
"""Warp's kernels are functions decorated at module level; everything else imports these modules when it launches one."""

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level_imports(tree: ast.Module) -> Iterator[str]:
    """Imports that run when the module is imported: not those in functions or under TYPE_CHECKING."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_the_rooms_it_may(path: Path) -> None:
    room = room_of(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    ours = {name.split(".")[1] for name in imports(tree) if name.startswith("sr_deploy.")} - {room, "__version__", "arrays"}
    assert ours <= (MAY_IMPORT.keys() - {"cli"} if room == "cli" else MAY_IMPORT[room])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_its_third_parties_at_module_level(path: Path) -> None:
    room = room_of(path)
    names = {name.split(".")[0] for name in top_level_imports(ast.parse(path.read_text(encoding="utf-8")))}
    foreign = names - set(sys.stdlib_module_names) - {"sr_deploy"}
    assert foreign <= THIRD_PARTY.get(room, set()) | ({"warp"} if path in KERNELS else set())


def test_no_room_imports_another_in_a_circle() -> None:
    """Not even under TYPE_CHECKING: the table is one, and each row names rooms above it alone."""
    rooms = list(MAY_IMPORT)
    assert all(rooms.index(other) < rooms.index(room) for room, others in MAY_IMPORT.items() for other in others)


def test_no_room_and_no_file_grows_too_large() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    by_room = Counter[str]()
    for path, count in lines.items():
        by_room[room_of(path)] += count
    assert max(by_room.values()) <= 0.16 * sum(lines.values()), by_room.most_common(3)
    assert {str(path): count for path, count in lines.items() if count > 350} == {}


def types_of(path: Path) -> Iterator[str]:
    """Classes, and names of types: in capitals and small letters, given a value at module level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from (node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    targets = (target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets)
    names = (target.id for target in targets if isinstance(target, ast.Name))
    yield from (name for name in names if re.fullmatch(r"_?[A-Z][A-Z0-9]*[a-z]\w*", name))


def test_one_class_name_has_one_meaning() -> None:
    """Also without the underscore of a private one: a reader who looks for a name finds one thing."""
    homes: defaultdict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for name in types_of(path):
            homes[name.lstrip("_")].append(f"{path.relative_to(PACKAGE)}: {name}")
    assert len(homes) > 100
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_all_names_are_exported() -> None:
    for name in sr_deploy.__all__:
        assert getattr(sr_deploy, name) is not None
    public = {
        name for name, value in vars(sr_deploy).items() if isinstance(value, type) and value.__module__.startswith("sr_deploy")
    }
    assert public <= set(sr_deploy.__all__)


def test_every_error_of_the_tree_is_public_and_drawn() -> None:
    from sr_deploy import errors

    drawn = errors.__doc__ or ""
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, Exception):
            assert name in sr_deploy.__all__
            assert name in drawn


def test_every_submodule_imports() -> None:
    has_warp = importlib.util.find_spec("warp") is not None
    if has_warp:
        load_warp()  # as the package does before it imports kernels: Warp greets whoever comes another way
    for module in pkgutil.walk_packages([str(PACKAGE)], "sr_deploy."):
        if has_warp or not module.name.endswith("kernels"):
            importlib.import_module(module.name)


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_sr_deploy_loads_neither_torch_nor_a_runtime() -> None:
    loaded = run_python("import sys, sr_deploy; print(*sys.modules)").split()
    for heavy in ("torch", "openvino", "onnxruntime", "onnx", "cv2", "numpy", "click"):
        assert heavy not in loaded


def test_device_arrays_are_there_without_warp() -> None:
    loaded = run_python("import sys, sr_deploy.device.device, sr_deploy.device.tiling; print(*sys.modules)").split()
    assert "warp" not in loaded and "sr_deploy.device.tiling_kernels" not in loaded


def test_upscaling_never_loads_torch() -> None:
    loaded = run_python(
        "import sys; from sr_deploy import Upscaler, open_bundle; import sr_deploy.cli.upscale; print(*sys.modules)"
    )
    assert "torch" not in loaded.split()
    assert "sr_deploy.upscaling.upscaler" in loaded.split()


def test_a_photo_on_the_cpu_loads_nothing_of_gpus_masks_or_videos(tmp_path: Path) -> None:
    source, target = tmp_path / "photo.png", tmp_path / "large.png"
    cv2.imwrite(str(source), np.full((8, 8, 3), 90, np.uint8))
    command = ["upscale", str(source), "-o", str(target), "--backend", "openvino"]
    printed = run_python(
        f"import sys; from sr_deploy.cli import program; program({command}, standalone_mode=False); print(*sys.modules)"
    )
    assert target.exists()
    loaded = {name for name in printed.splitlines()[-1].split() if name.partition(".")[0] == "sr_deploy"}
    assert {name for name in loaded if name.startswith(("sr_deploy.masked", "sr_deploy.video"))} == set()
    assert {name for name in loaded if name.startswith(("sr_deploy.device.", "sr_deploy.upscaling.gpu"))} == {
        "sr_deploy.device.gpu",
        "sr_deploy.device.health",
    }
    assert len(loaded) <= 38, sorted(loaded)


def test_no_room_for_leftovers() -> None:
    names = {path.stem for path in MODULES}
    assert not names & {"utils", "util", "common", "helpers", "misc"}


def test_only_trace_exports_and_only_backends_import_runtimes() -> None:
    callers = {
        path.relative_to(PACKAGE).as_posix() for path in MODULES if "torch.onnx.export(" in path.read_text(encoding="utf-8")
    }
    assert callers <= {"export/trace.py"}


CLOCKS = {"monotonic", "perf_counter", "process_time", "thread_time", "monotonic_ns", "perf_counter_ns"}


def reads_a_clock(node: ast.AST, timed: set[str]) -> bool:
    """Whether an expression calls a clock, or uses a name in `timed`."""
    return any(
        (isinstance(part, ast.Attribute) and part.attr in CLOCKS) or (isinstance(part, ast.Name) and part.id in timed)
        for part in ast.walk(node)
    )


def timed_asserts(tree: ast.AST) -> list[int]:
    """Lines that assert something of a clock, or of a name that was given its time."""
    timed: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and reads_a_clock(node.value, set()):
            holders = [target.value if isinstance(target, ast.Subscript) else target for target in node.targets]
            timed |= {holder.id for holder in holders if isinstance(holder, ast.Name)}
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert) and reads_a_clock(node.test, timed)]


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_test_asserts_how_long_something_took(path: Path) -> None:
    """A busy machine would fail it. Assert what the time stands for: what was done, in which order, how often."""
    assert timed_asserts(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_a_clock_in_an_assert_is_found() -> None:
    code = """
start = time.monotonic()
spent["x"] = time.perf_counter() - start
assert time.perf_counter() - start < 3
assert sum(spent) < 3
"""
    assert timed_asserts(ast.parse(code)) == [4, 5]
