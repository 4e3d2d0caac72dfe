"""What our code may call of TensorRT, as the fake library has it, against the installed bindings of both flavours.

TensorRT's own bindings import over three empty libraries, so this needs neither TensorRT nor a GPU.
"""

from __future__ import annotations

import ast
import enum
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sr_deploy.engines.tensorrt import compile as tensorrt_build
from sr_deploy.engines.tensorrt import engine as tensorrt
from sr_deploy.engines.tensorrt import library as tensorrt_library
from sr_deploy.engines.tensorrt import support as tensorrt_targets
from tests.engines.tensorrt import fake_tensorrt
from tests.engines.tensorrt.fake_tensorrt import CLASSES, RTX_ONLY

LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
DUMP = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
found = {}
for name in sys.argv[2:]:
    kind = getattr(module, name, None)
    if kind is None:
        continue
    members = {}
    for member in dir(kind):
        value = getattr(kind, member)
        if isinstance(value, property):
            members[member] = "settable" if value.fset is not None else "readable"
        elif callable(value) and (member == "__init__" or not member.startswith("_")):
            members[member] = value.__doc__ or ""
        elif not member.startswith("_"):
            members[member] = "value"
    found[name] = members
print(json.dumps(found))
"""
Interface = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the libraries that TensorRT's bindings ask for, with nothing in them but names."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    if importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("tensorrt-cu13-bindings is not installed")
    folder = tmp_path_factory.mktemp("stubs")
    source = folder / "empty.c"
    source.write_text("\n".join(f"void {symbol}(void) {{}}" for symbol in SYMBOLS))
    for name in LIBRARIES:
        subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / f"lib{name}.so.11", source], check=True)
    return folder


@pytest.fixture(scope="module")
def interface_of(request: pytest.FixtureRequest) -> Callable[[str], Interface]:
    """The classes of the fake, as the bindings of that name have them."""
    done: dict[str, Interface] = {}

    def dump(module: str) -> Interface:
        if module not in done:
            if importlib.util.find_spec(module) is None:
                pytest.skip(f"{module} is not installed")
            libraries = {"LD_LIBRARY_PATH": str(request.getfixturevalue("stubs"))} if module == "tensorrt_bindings" else {}
            names = [kind.__name__ for kind in CLASSES]
            result = subprocess.run(
                [sys.executable, "-c", DUMP, module, *names],
                env={**os.environ, **libraries},
                capture_output=True,
                text=True,
                check=True,
            )
            done[module] = json.loads(result.stdout)
        return done[module]

    return dump


BINDINGS = ("tensorrt_bindings", "tensorrt_rtx_bindings")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("bindings", BINDINGS)
def test_the_fake_has_the_interface_of_the_bindings(
    bindings: str, kind: type[Any], interface_of: Callable[[str], Interface]
) -> None:
    real = interface_of(bindings)
    only_rtx = RTX_ONLY.get(kind.__name__, set()) if bindings == "tensorrt_bindings" else set()
    if only_rtx == {"*"}:
        assert kind.__name__ not in real
        return
    found = real[kind.__name__]
    for name, value in members_of(kind).items():
        where = f"{bindings}: {kind.__name__}.{name}"
        if name in only_rtx:
            assert name not in found, where
        elif isinstance(value, property):
            assert found[name] in ("settable", "readable"), where
            assert value.fset is None or found[name] == "settable", where
        elif callable(value):
            assert arguments_of(value) in documented_arguments(name, found[name]), where
        else:
            assert name in found, where


def members_of(kind: type[Any]) -> dict[str, Any]:
    if issubclass(kind, enum.Enum):
        return dict.fromkeys(kind.__members__, "value")
    hooks = ("on_build", "on_execute", "config_type", "cache_type", "environment", "module", "refused", "wants_largest_memory")
    public = {name: value for name, value in vars(kind).items() if not name.startswith("_") and name not in hooks}
    takes_arguments = "__init__" in vars(kind) and kind in (
        fake_tensorrt.ILogger,
        fake_tensorrt.IProgressMonitor,
        fake_tensorrt.OnnxParser,
        fake_tensorrt.Builder,
        fake_tensorrt.Runtime,
    )
    return {**public, "__init__": vars(kind)["__init__"]} if takes_arguments else public


def arguments_of(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def documented_arguments(name: str, text: str) -> list[list[str]]:
    """Names of the arguments, one list per overload, from the first lines of a pybind docstring."""
    found = []
    for match in re.finditer(rf"^(?:\d+\. )?{re.escape(name)}\((.*)\) ->", text, re.M):
        names = re.findall(r"(?:^|, )(\w+): ", match[1])
        found.append([argument for argument in names if argument != "self"])
    return found


@pytest.mark.parametrize("bindings", BINDINGS)
def test_the_functions_that_we_call_are_there(bindings: str, interface_of: Callable[[str], Interface], stubs: Path) -> None:
    interface_of(bindings)
    code = f"import {bindings} as module; assert module.nptype(module.DataType.UINT8); print(module.__version__)"
    libraries = {"LD_LIBRARY_PATH": str(stubs)} if bindings == "tensorrt_bindings" else {}
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **libraries}, capture_output=True, text=True, check=True
    )
    assert int(result.stdout.split(".")[0]) >= 1


BUILDS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "error": "ParserError",
    "tensor": "ITensor",
    "cache": "ITimingCache",
}
RUNS = {
    "self._runtime": "Runtime",
    "self._engine": "ICudaEngine",
    "engine": "ICudaEngine",
    "config": "IRuntimeConfig",
    "self._context": "IExecutionContext",
    "context": "IExecutionContext",
    "self._cache": "IRuntimeCache",
}
"""Variables of our code that hold objects of the library."""


@pytest.mark.parametrize(
    ("module", "objects"),
    [(tensorrt, RUNS), (tensorrt_build, BUILDS), (tensorrt_library, {}), (tensorrt_targets, {"runtime": "Runtime"})],
    ids=["tensorrt", "tensorrt_build", "tensorrt_library", "tensorrt_targets"],
)
def test_our_code_calls_nothing_that_the_fake_has_not(module: Any, objects: dict[str, str]) -> None:
    fake = fake_tensorrt.fake_module(rtx=True)
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    checked: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        value = ast.unparse(node.value)
        if value in objects:
            assert hasattr(getattr(fake, objects[value]), node.attr), ast.unparse(node)
            checked.add(value)
        elif value in ("module", "library.module"):
            assert hasattr(fake, node.attr), ast.unparse(node)
            checked.add("module")
        elif value.startswith(("module.", "library.module.")):
            kind = getattr(fake, value.rpartition(".")[2])
            assert hasattr(kind, node.attr), ast.unparse(node)
    assert checked >= {"module"} and len(checked) > len(objects) / 2


SUBCLASSES = """
import sys
from sr_deploy.engines.tensorrt.compile import _monitor, _Phases
from sr_deploy.engines.tensorrt.library import FLAVOURS, load_library

library = load_library(next(flavour for flavour in FLAVOURS if flavour.name == sys.argv[1]))
assert isinstance(library.logger, library.module.ILogger)
library.logger.log(library.module.ILogger.ERROR, "a word")
library.logger.log(library.module.ILogger.INFO, "an aside")
assert str(library.error("fails")) == f"{library} fails: a word", library.error("fails")
seen = []
monitor = _monitor(library.module, _Phases(lambda *step: seen.append(step)))
assert isinstance(monitor, library.module.IProgressMonitor)
monitor.phase_start("Building", None, 2)
assert monitor.step_complete("Building", 0) is True
monitor.phase_finish("Building")
assert seen == [("Building", 0.0), ("Building", 0.5)], seen
print(library)
"""


@pytest.mark.parametrize(("name", "bindings"), [("tensorrt", BINDINGS[0]), ("tensorrt-rtx", BINDINGS[1])])
def test_our_logger_and_monitor_are_of_the_real_classes(
    name: str, bindings: str, interface_of: Callable[[str], Interface], stubs: Path
) -> None:
    interface_of(bindings)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(stubs), "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", SUBCLASSES, name]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{name} ")
