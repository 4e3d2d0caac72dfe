"""Engines are compiled once per key, whole or not at all, whoever else builds or is killed."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from sr_deploy.bundle import Bundle
from sr_deploy.device.gpu import GPU
from sr_deploy.engines.open import open_bundle
from sr_deploy.engines.tensorrt import build as build_module
from sr_deploy.engines.tensorrt.build import BuiltEngine, build_engine, problem_of
from sr_deploy.engines.tensorrt.cache import EngineCache, kernels_path, read_entry
from sr_deploy.engines.tensorrt.library import TENSORRT, TENSORRT_RTX, Library
from sr_deploy.engines.tensorrt.target import BuildSettings, load_target
from sr_deploy.errors import BackendUnavailableError, BundleError, EngineError, UsageError
from tests.engines.tensorrt.fake_tensorrt import fake_module
from tests.graphs import image_graph, save

ROOT = Path(__file__).parents[3]
SETTINGS = BuildSettings(min="16x16", opt="64x32", max="128x128", compute_capabilities=("8.6", "8.9"))
H200 = GPU("NVIDIA H200", "9.0")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(save(image_graph(), tmp_path))


@pytest.fixture
def library() -> Library:
    return Library(TENSORRT_RTX, fake_module(rtx=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "built" / "engines"


Build = Callable[..., BuiltEngine]


@pytest.fixture
def build(bundle: Bundle, library: Library, folder: Path) -> Build:
    def run(**changes: Any) -> BuiltEngine:
        options: dict[str, Any] = {"folder": folder, "precision": "fp32", **changes}
        return build_engine(
            options.pop("bundle", bundle), options.pop("library", library), options.pop("settings", SETTINGS), **options
        )

    return run


def test_an_engine_and_its_record(build: Build, folder: Path) -> None:
    built = build()
    assert built.compiled and built.path.parent == folder
    assert sorted(path.name for path in folder.iterdir()) == [f"{built.path.stem}.engine", f"{built.path.stem}.json"]
    assert built.path.stem == built.record.key.digest and len(built.path.stem) == 16
    table = json.loads(built.path.with_suffix(".json").read_text(encoding="utf-8"))
    assert table["key"]["shapes"] == {"pixels": [[1, 16, 16, 3], [1, 32, 64, 3], [1, 128, 128, 3]]}
    assert (table["key"]["library"], table["key"]["version"], table["key"]["gpu"]) == ("tensorrt-rtx", "1.2.3", "")
    assert table["outputs"] == ["upscaled uint8[?, ?, ?, 3]", "health float32[?]"]
    assert read_entry(built.path).record == built.record


def test_the_same_build_again_compiles_nothing(build: Build, library: Library) -> None:
    first = build()
    library.module.Builder.on_build = staticmethod(lambda *_: pytest.fail("compiled again"))
    second = build()
    assert (first.compiled, second.compiled) == (True, False)
    assert (second.path, second.record) == (first.path, first.record)


@pytest.mark.parametrize(
    "change",
    [
        {"settings": dataclasses.replace(SETTINGS, max="128x144")},
        {"settings": dataclasses.replace(SETTINGS, static="64x64")},
        {"settings": dataclasses.replace(SETTINGS, batch=2)},
        {"settings": dataclasses.replace(SETTINGS, compute_capabilities=("8.6",))},
        {"settings": dataclasses.replace(SETTINGS, workspace=64)},
        {"settings": dataclasses.replace(SETTINGS, optimization_level=5)},
        {"pixels": False},
        {"library": Library(TENSORRT_RTX, fake_module(rtx=True, version="1.2.4"))},
        {
            "library": Library(TENSORRT, fake_module(rtx=False)),
            "settings": dataclasses.replace(SETTINGS, compute_capabilities=()),
        },
    ],
    ids=["size", "static", "batch", "capabilities", "workspace", "level", "form", "version", "flavour"],
)
def test_whatever_decides_what_an_engine_is_makes_another_one(change: dict[str, Any], build: Build) -> None:
    first = build()
    second = build(gpu=H200, **change)
    assert second.compiled
    assert second.path != first.path
    assert first.path.is_file()


def test_one_byte_of_the_graph_makes_another_engine(build: Build, bundle: Bundle, tmp_path: Path) -> None:
    first = build()
    path = bundle.graph("fp32")
    model = onnx.load(path)
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "last.weight")
    weights.raw_data = bytes([weights.raw_data[0] ^ 1]) + weights.raw_data[1:]
    (tmp_path / "other").mkdir()
    second = build(bundle=open_bundle(save(model, tmp_path / "other")))
    assert second.compiled and second.path != first.path


def test_tensorrt_engines_belong_to_their_gpu(build: Build, folder: Path) -> None:
    library = Library(TENSORRT, fake_module(rtx=False))
    settings = dataclasses.replace(SETTINGS, compute_capabilities=())
    first = build(library=library, settings=settings, gpu=H200)
    assert first.record.key.gpu == "NVIDIA H200 (9.0)"
    second = build(library=library, settings=settings, gpu=GPU("NVIDIA L4", "8.9"))
    assert second.compiled and second.path != first.path
    timings = sorted(folder.glob("timing-*.cache"))
    assert [path.read_bytes() for path in timings] == [b"timed ", b"timed "]
    build(library=library, settings=dataclasses.replace(settings, static="32x32"), gpu=H200)
    assert sorted(path.read_bytes() for path in timings) == [b"timed ", b"timed timed "]


def test_tensorrt_without_a_gpu_says_what_to_do(build: Build, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def none() -> tuple[GPU, ...]:
        raise BackendUnavailableError("no NVIDIA driver on this machine")

    monkeypatch.setattr(build_module, "find_gpus", none)
    with pytest.raises(
        BackendUnavailableError, match=r"TensorRT builds on the GPU .* no NVIDIA driver .*`--target rtx`"
    ) as info:
        build(library=Library(TENSORRT, fake_module(rtx=False)))
    assert "\n" not in str(info.value)
    assert not folder.exists()


def flip_a_byte(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, "changed since it was built"),
        (lambda path: path.write_bytes(b""), "changed since it was built"),
        (Path.unlink, "not readable"),
        (lambda path: path.with_suffix(".json").unlink(), "is missing"),
        (lambda path: path.with_suffix(".json").write_text("{"), "is not readable"),
        (lambda path: path.with_suffix(".json").write_text('{"format": 99}'), "of another format"),
        (lambda path: path.with_suffix(".json").write_text('{"format": 1}'), "missing key"),
    ],
    ids=["flipped", "empty", "gone", "no record", "broken record", "new format", "incomplete record"],
)
def test_a_damaged_engine_is_built_again_with_a_message(damage: Callable[[Path], Any], reason: str, build: Build) -> None:
    first = build()
    damage(first.path)
    said: list[str] = []
    second = build(say=said.append)
    assert second.compiled and second.path == first.path
    assert len(said) == 1 and reason in said[0] and "building it again" in said[0]
    assert not build().compiled


def test_an_engine_that_the_library_refuses_is_built_again(build: Build, library: Library) -> None:
    library.module.Builder.on_build = staticmethod(lambda *_: b"of yesterday")
    build()
    library.module.Builder.on_build = None
    said: list[str] = []
    assert build(say=said.append).compiled
    assert "malformed engine" in said[0]


def test_a_failed_build_leaves_nothing(build: Build, library: Library, folder: Path) -> None:
    library.module.Builder.on_build = staticmethod(lambda *_: None)
    with pytest.raises(EngineError):
        build()
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_or_written(build: Build, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match="cannot be made"):
        build(folder=tmp_path / "file" / "engines")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dataclasses.replace(SETTINGS, static="64"), "size '64': expected WIDTHxHEIGHT"),
        (dataclasses.replace(SETTINGS, static="0x64"), "expected WIDTHxHEIGHT"),
        (dataclasses.replace(SETTINGS, min="256x16"), "expected min <= opt <= max"),
        (dataclasses.replace(SETTINGS, batch=0), "batch 0: expected 1 or more"),
    ],
)
def test_wrong_settings(settings: BuildSettings, message: str, build: Build) -> None:
    with pytest.raises(UsageError, match=message):
        build(settings=settings)


def test_sizes_that_the_network_does_not_take(build: Build, bundle: Bundle) -> None:
    picky = dataclasses.replace(bundle, card=dataclasses.replace(bundle.card, min_size=24, size_multiple=8))
    with pytest.raises(UsageError, match="takes no side below 24 pixels, the smallest size has 16"):
        build(bundle=picky)
    with pytest.raises(UsageError, match="multiples of 8, not 60x64"):
        build(bundle=picky, settings=dataclasses.replace(SETTINGS, static="60x64"))


def test_a_precision_that_the_bundle_lacks(build: Build) -> None:
    with pytest.raises(BundleError, match="has no fp16 graph"):
        build(precision="fp16")


def test_static_shapes_for_turing_come_with_a_warning(build: Build) -> None:
    said: list[str] = []
    build(settings=BuildSettings(static="64x64", compute_capabilities=("7.5",)), say=said.append)
    assert len(said) == 1 and "many times larger" in said[0]


def test_prune_takes_what_is_of_no_use_and_nothing_else(
    build: Build, folder: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, damaged = build(), build(settings=dataclasses.replace(SETTINGS, batch=3))
    old = build(library=Library(TENSORRT_RTX, fake_module(rtx=True, version="1.0.0")))
    elsewhere = build(
        library=Library(TENSORRT, fake_module(rtx=False)),
        settings=dataclasses.replace(SETTINGS, compute_capabilities=()),
        gpu=H200,
    )
    flip_a_byte(damaged.path)
    (folder / "notes.txt").write_text("mine")
    (folder / "mine.engine").write_text("mine")
    (folder / f"{'0' * 16}.engine.part-1").write_text("left by a killed build")
    for built in (good, damaged, old):
        kernels_path(built.path, "NVIDIA L4 (8.9)").write_text("compiled by a run")
    (folder / f"{'0' * 16}-01234567.kernels.part-1").write_text("left by a killed run")

    def load(flavour: Any) -> Library:
        if flavour is TENSORRT:
            raise BackendUnavailableError("not installed")
        return library

    monkeypatch.setattr(build_module, "load_library", load)
    cache = EngineCache(folder)
    assert {entry.path for entry in cache.entries()} == {good.path, damaged.path, old.path, elsewhere.path}
    removed = {entry.path: problem for entry, problem in cache.prune(problem_of)}
    assert removed == {
        damaged.path: "changed since it was built",
        old.path: "built by tensorrt-rtx 1.0.0, installed is 1.2.3",
    }
    left = {path.name for path in folder.iterdir()} - {path.name for path in folder.glob("timing-*")}
    assert left == {
        *(f"{built.path.stem}{suffix}" for built in (good, elsewhere) for suffix in (".engine", ".json")),
        kernels_path(good.path, "NVIDIA L4 (8.9)").name,
        "notes.txt",
        "mine.engine",
    }


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "none")
    with pytest.raises(UsageError, match="no folder of engines"):
        cache.entries()
    with pytest.raises(UsageError, match="no folder of engines"):
        cache.prune(problem_of)
    assert not cache.folder.exists()


@pytest.mark.parametrize("path", sorted((ROOT / "engines").glob("*.toml")), ids=lambda path: path.stem)
def test_the_targets_of_the_project_load(path: Path) -> None:
    target = load_target(path)
    assert target.name == path.stem
    if target.build is not None:
        least, usual, largest = target.build.sizes()
        assert least <= usual <= largest
        assert bool(target.build.compute_capabilities) == (target.backend == TENSORRT_RTX.name)


SCRIPT = """
import os, sys, time
from pathlib import Path
from sr_deploy.engines.tensorrt import cache
from sr_deploy.engines.tensorrt.build import build_engine
from sr_deploy.engines.open import open_bundle
from sr_deploy.engines.tensorrt.target import BuildSettings
from sr_deploy.engines.tensorrt.library import TENSORRT_RTX, load_library

graph, folder, *modes = sys.argv[1:]
if "hang" in modes:
    os.fsync = lambda file: time.sleep(60)
if "unlocked" in modes:
    import contextlib
    cache._folder_lock = lambda folder: contextlib.nullcontext(False)
settings = BuildSettings(min="16x16", opt="64x32", max="128x128", compute_capabilities=("8.6",))
slow = (lambda phase, done: time.sleep(0.01)) if "slow" in modes else None
print("ready", flush=True)
sys.stdin.readline()
options = {"folder": Path(folder), "precision": "fp32", "progress": slow}
built = build_engine(open_bundle(graph), load_library(TENSORRT_RTX), settings, **options)
print(built.path.name, built.compiled)
"""


def start(graph: Path, folder: Path, *modes: str) -> subprocess.Popen[str]:
    pytest.importorskip("tensorrt_rtx_bindings")
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(graph), str(folder), *modes],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("mode", ["locked", "unlocked"])
def test_two_builds_at_once_leave_one_good_engine(mode: str, bundle: Bundle, folder: Path) -> None:
    both = [start(bundle.graph("fp32"), folder, mode, "slow") for _ in range(2)]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    results = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    names, compiled = zip(*(out.split() for out, _ in results), strict=True)
    assert len(set(names)) == 1
    assert mode == "unlocked" or sorted(compiled) == ["False", "True"]
    assert sorted(path.name for path in folder.iterdir()) == sorted((names[0], names[0].replace(".engine", ".json")))
    assert mode == "unlocked" or read_entry(folder / names[0]).problem == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["polite", "at once"])
def test_a_build_killed_while_it_compiles_leaves_no_file(number: signal.Signals, bundle: Bundle, folder: Path) -> None:
    process = start(bundle.graph("fp32"), folder, "slow")
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    wait_for(folder.is_dir, process)
    time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (-number, 1, 130), errors
    assert list(folder.iterdir()) == []


def test_what_a_build_killed_while_writing_leaves_is_cleaned_by_the_next(bundle: Bundle, folder: Path) -> None:
    process = start(bundle.graph("fp32"), folder, "hang")
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    wait_for(lambda: folder.is_dir() and any(folder.iterdir()), process)
    process.kill()
    process.communicate(timeout=60)
    (left,) = folder.iterdir()
    assert f".engine.part-{process.pid}" in left.name
    assert EngineCache(folder).entries() == []
    out, errors = start(bundle.graph("fp32"), folder).communicate("\n", timeout=60)
    assert out.split()[1:] == ["True"], errors
    assert {path.suffix for path in folder.iterdir()} == {".engine", ".json"}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None
        time.sleep(0.005)
