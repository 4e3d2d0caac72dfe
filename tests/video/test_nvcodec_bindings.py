"""What our code calls of PyNvVideoCodec, and the stand-in of the tests, against the signatures of the installed package.

Its extension imports over a CUDA driver with nothing in it but names, so this needs no GPU.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sr_deploy.device import nvenc
from sr_deploy.video import nvcodec
from tests.video import fake_nvcodec
from tests.video.fake_nvcodec import FORMATS, DecodedFrame, FakeLibrary, PacketData, Pixel_Format, PyNvDecoder, PyNvEncoder

DUMP = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("_PyNvVideoCodec", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
found = {}
for name, value in vars(module).items():
    if isinstance(value, type):
        settable = {k: isinstance(v, property) and v.fset is not None for k, v in vars(value).items()}
        found[name] = {k: "settable" if settable[k] else getattr(v, "__doc__", "") or "" for k, v in vars(value).items()}
        found[name] |= dict.fromkeys(getattr(value, "__members__", ()), "member")
    elif callable(value):
        found[name] = value.__doc__ or ""
packet = module.PacketData()
packet.bsl, packet.bsl_data, packet.pts = 3, 2**47, 2**40
assert (packet.bsl, packet.bsl_data, packet.pts) == (3, 2**47, 2**40)
print(json.dumps(found))
"""
Interface = dict[str, Any]


@pytest.fixture(scope="module")
def interface(tmp_path_factory: pytest.TempPathFactory) -> Interface:
    """Functions of the extension with their docstrings, and its classes with those of their members."""
    found, compiler = importlib.util.find_spec("PyNvVideoCodec"), shutil.which("gcc") or shutil.which("cc")
    names = shutil.which("nm")
    if found is None or found.origin is None:
        pytest.skip("PyNvVideoCodec is not installed")
    if compiler is None or names is None:
        pytest.skip("no C compiler, or no nm")
    extension = next(Path(found.origin).parent.glob("PyNvVideoCodec_130*.so"))
    listed = subprocess.run([names, "-D", "--undefined-only", extension], capture_output=True, text=True, check=True).stdout
    folder = tmp_path_factory.mktemp("driver")
    source = folder / "empty.c"
    source.write_text(
        "\n".join(f"int {symbol}(void) {{ return 0; }}" for symbol in re.findall(r"\b(cu[A-Z]\w+)$", listed, re.M))
    )
    library = folder / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source], check=True)
    result = subprocess.run(
        [sys.executable, "-c", DUMP, extension],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    described: Interface = json.loads(result.stdout)
    return described


def documented(name: str, text: str) -> list[list[str]]:
    """Names of the arguments, one list per overload, from the first lines of a pybind docstring."""
    signatures = re.findall(rf"^(?:\d+\. )?{re.escape(name)}\((.*)\) ->", text, re.M)
    return [[word for word in re.findall(r"(?:^|, )(\w+): ", signature) if word != "self"] for signature in signatures]


def arguments(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize("name", ["CreateDecoder", "GetDecoderCaps"])
def test_functions_take_what_we_give(interface: Interface, name: str) -> None:
    overloads = documented(name, interface[name])
    given = set(arguments(getattr(FakeLibrary, name)))
    assert overloads and any(given <= set(taken) for taken in overloads)


def test_our_code_names_only_arguments_that_the_stand_in_has() -> None:
    tree = ast.parse(Path(nvcodec.__file__).read_text(encoding="utf-8"))
    seen = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and hasattr(FakeLibrary, node.func.attr):
            name = node.func.attr
            assert {keyword.arg for keyword in node.keywords} <= set(arguments(getattr(FakeLibrary, name)))
            seen.add(name)
    assert seen == {"CreateDecoder", "GetDecoderCaps", "PacketData"}


@pytest.mark.parametrize("kind", [PyNvDecoder, DecodedFrame], ids=lambda kind: kind.__name__)
def test_the_stand_in_has_methods_of_the_package(interface: Interface, kind: type[Any]) -> None:
    for name, value in vars(kind).items():
        if callable(value) and not name.startswith("_") and name != "overwrite":
            assert arguments(value) in documented(name, interface[kind.__name__][name]), name


def test_our_code_uses_nothing_that_the_stand_in_has_not() -> None:
    tree = ast.parse(Path(nvcodec.__file__).read_text(encoding="utf-8"))
    kinds = {"self._decoder": PyNvDecoder, "surface": DecodedFrame, "library": FakeLibrary, "self._library": FakeLibrary}
    seen = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in kinds:
            owner = ast.unparse(node.value)
            assert hasattr(kinds[owner], node.attr) or node.attr == "format", ast.unparse(node)
            seen.add(owner)
    assert seen == set(kinds)


def test_the_encoder_takes_and_gives_what_we_do(interface: Interface) -> None:
    """`CreateEncoder` is the package's own Python over the class; what a packet holds stands in the docstrings alone."""
    described, python = interface["PyNvEncoder"], Path(str(importlib.util.find_spec("PyNvVideoCodec").origin))  # type: ignore[union-attr]
    tree = ast.parse(python.read_text(encoding="utf-8"))
    (create,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "CreateEncoder")
    assert [one.arg for one in create.args.args] == arguments(FakeLibrary.CreateEncoder)[:-1] and create.args.kwarg
    assert documented("__init__", described["__init__"])[0] == [f"arg{number}" for number in range(7)]
    for name, value in vars(PyNvEncoder).items():
        if callable(value) and not name.startswith("_"):
            assert arguments(value) in documented(name, described[name]), name
    for name in ("Encode", "EndEncode"):
        assert "'data' (bytes), 'timestamp' (uint64), 'picture_type' (int)" in described[name]
    assert "__cuda_array_interface" in described["Encode"]


def test_our_encoder_uses_nothing_that_the_stand_in_has_not() -> None:
    tree = ast.parse(Path(nvenc.__file__).read_text(encoding="utf-8"))
    kinds = {"self._encoder": PyNvEncoder, "load_library()": FakeLibrary}
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) in kinds]
    assert all(hasattr(kinds[ast.unparse(node.value)], node.attr) for node in used)
    assert {node.attr for node in used} == {
        "CreateEncoder",
        *("GetNumBFrames", "GetSequenceParams", "Encode", "EndEncode"),
    }


def test_words_of_the_encoder_are_in_the_package() -> None:
    """It says nowhere what it takes, so its own words are looked for in the extension."""
    found = importlib.util.find_spec("PyNvVideoCodec")
    if found is None or found.origin is None:
        pytest.skip("PyNvVideoCodec is not installed")
    words = {*nvenc.SURFACES.values(), *nvenc.CODECS.values(), *nvenc._EQUAL, *nvenc._FIXED, "vbr", "gpu_id"}
    words |= {"high_quality", "fps", "codec", "fmt", "P5"}
    for extension in Path(found.origin).parent.glob("PyNvVideoCodec_*.so"):
        content = extension.read_bytes()
        assert {word for word in words if word.encode() + b"\0" not in content} == set()


def test_packets_and_frames_have_the_attributes_that_we_use(interface: Interface) -> None:
    for name in vars(PacketData()):
        assert interface["PacketData"][name] == "settable"
    assert "format" in interface["DecodedFrame"]


def test_enumerations_have_the_members_that_we_name(interface: Interface) -> None:
    for codec in nvcodec._CODECS.values():
        assert interface["cudaVideoCodec"][codec] == "member"
    for surface in nvcodec._SURFACES.values():
        assert interface["cudaVideoChromaFormat"][surface.chroma] == "member"
        assert interface["Pixel_Format"][surface.format] == "member"
    for kind in ("cudaVideoCodec", "cudaVideoChromaFormat", "Pixel_Format"):
        for member in getattr(fake_nvcodec, kind).__members__:
            assert interface[kind][member] == "member"
    assert {name for name, _ in FORMATS.values()} == set(Pixel_Format.__members__)
