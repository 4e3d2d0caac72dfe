"""The kit for a machine with a GPU: cut here, joined there, whatever gets lost on the way; on small pieces, without a GPU."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import calls
import contents
import gpu
import numpy as np
import pieces
import prepare
import pytest
import wheels
from blobs import Blob, archive, compress, whole_wheel

from tests.test_house import ROOT

KIT = ROOT / "benchmarks" / "gpu_kit"
ROOM = 100_000
FATBIN, CUBIN, PTX = 0xBA55ED50, 2, 1


@dataclass
class Result:
    code: int
    text: str


@dataclass
class Machine:
    """The other machine: every call comes in a new tree, what is unpacked stays in the store."""

    folder: Path
    gpu: Path
    calls: int = 0

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def call(self, piece: str, command: str) -> Result:
        self.calls += 1
        tree = self.folder / f"tree {self.calls}"
        for name in filter(None, ("kit", piece)):
            shutil.copytree(self.gpu / name, tree / ".gpu" / name)
        (tree / "docs").mkdir()
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "KIT_TREE")}
        environment |= {"PATH": f"{Path(sys.executable).parent}:{environment['PATH']}", "KIT_DEVICE": "cpu"}
        environment |= {"KIT_STORE": str(self.store), "OUT": str(self.out)}
        done = subprocess.run(["bash", "-c", command], cwd=tree, env=environment, capture_output=True, text=True, check=False)
        return Result(done.returncode, done.stdout + done.stderr)

    def join(self, piece: str, *components: str) -> Result:
        return self.call(piece, f"source .gpu/kit/join.sh {' '.join(components)}")

    def break_down(self) -> None:
        shutil.rmtree(self.store)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel with a large file that no compression makes smaller."""
    path = tmp_path_factory.mktemp("wheels") / "tiny-1.0-py3-none-any.whl"
    noise = np.random.default_rng(0).integers(0, 256, 250_000, dtype=np.uint8).tobytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as contents:
        contents.writestr("tiny/__init__.py", "ANSWER = 42\n")
        contents.writestr("tiny/libtiny.so.1", noise)
        contents.writestr("onnxruntime/tools/unused.py", "")
    return path


@pytest.fixture(scope="module")
def blobs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Blob]:
    cache = tmp_path_factory.mktemp("cache")
    base = archive("base", {"bundles/one/card.json": b"{}", "checkpoints/one.pth": os.urandom(30_000)}, cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wheels, "BIG", 1000)
        sources = wheels.split_wheels("tool", [wheel], cache, 90)
    return [compress(source, cache, 1) for source in (base, *sources)] + [whole_wheel("tool", wheel)]


@pytest.fixture
def cut(blobs: list[Blob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder .gpu of a checkout: pieces p1 to p3 and the wheel as it came in u1 to u3."""
    monkeypatch.setattr(pieces, "LEAST_ROOM", 1000)
    monkeypatch.setattr(prepare, "MANIFEST_ROOM", 0)
    monkeypatch.setattr(prepare, "tree_files", lambda _: set())
    kit = sum(path.stat().st_size for path in (KIT / "remote").iterdir() if path.is_file())
    folder = tmp_path / ".gpu"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "check", lambda *_: {})
        layout, _ = prepare.lay_out_all(blobs[:-1], blobs[-1:], folder, (ROOM + kit) / (1 << 20))
    assert pieces.pieces_of(layout) == ["p1", "p2", "p3", "u1", "u2", "u3"]
    return folder


@pytest.fixture
def machine(cut: Path, tmp_path: Path) -> Machine:
    (tmp_path / "machine").mkdir()
    return Machine(tmp_path / "machine", cut)


def test_pieces_are_joined_to_what_the_wheel_holds(machine: Machine, wheel: Path, tmp_path: Path) -> None:
    first = machine.join("p1", "base")
    assert first.code == 0 and "here base; tool waits for p2, p3" in first.text
    assert machine.join("p2").code == 0
    last = machine.call("p3", "source .gpu/kit/join.sh base tool && python3 -c 'import tiny; print(tiny.ANSWER)'")
    assert last.code == 0 and last.text.endswith("42\n")
    with zipfile.ZipFile(wheel) as contents:
        contents.extractall(tmp_path / "wanted")
    for name in ("tiny/__init__.py", "tiny/libtiny.so.1"):
        assert (machine.store / "site" / name).read_bytes() == (tmp_path / "wanted" / name).read_bytes()
    assert not (machine.store / "site" / "onnxruntime").exists()
    assert (machine.store / "bundles" / "one" / "card.json").read_text() == "{}"


def test_the_wheel_as_it_came_replaces_what_was_pruned(machine: Machine, wheel: Path) -> None:
    for piece in ("u1", "u2"):
        assert machine.join(piece).code == 0
    assert machine.join("u3", "untouched-tool").code == 0
    with zipfile.ZipFile(wheel) as contents:
        for name in contents.namelist():
            assert (machine.store / "site" / name).read_bytes() == contents.read(name)


def test_a_piece_that_is_missing_is_named(machine: Machine) -> None:
    machine.join("p1")
    refused = machine.call("p3", "source .gpu/kit/join.sh base tool && echo went on")
    assert refused.code == 1 and "went on" not in refused.text
    assert "kit: REFUSED, tool not complete: carry .gpu/p2 again, one a call" in refused.text
    assert machine.join("p2", "base", "tool").code == 0


def test_what_no_piece_brings_is_refused(machine: Machine) -> None:
    refused = machine.join("p1", "warp")
    assert refused.code == 1 and "REFUSED, warp not complete" in refused.text


def test_a_wrong_checksum_is_told_and_nothing_is_kept(machine: Machine) -> None:
    for piece in ("p1", "p3"):
        machine.join(piece)
    (file,) = (machine.gpu / "p2").glob("libtiny*")
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    refused = machine.join("p2", "tool")
    assert refused.code == 1
    assert f"kit: p2/{file.name}: wrong checksum, carry .gpu/p2 again" in refused.text
    assert "REFUSED, tool not complete: carry .gpu/p2 again" in refused.text
    file.write_bytes(good)
    assert machine.join("p2", "tool").code == 0


def test_a_kept_piece_that_was_damaged_is_replaced(machine: Machine) -> None:
    machine.join("p1")
    machine.join("p2")
    for kept in (machine.store / "pieces" / "p2").iterdir():
        kept.write_bytes(bytes(kept.stat().st_size))
    refused = machine.join("p3", "tool")
    assert refused.code == 1 and "carry .gpu/p2 again" in refused.text
    assert machine.join("p2", "tool").code == 0


def test_a_repeated_piece_changes_nothing(machine: Machine) -> None:
    for piece in ("p1", "p2", "p3"):
        machine.join(piece)
    before = {path: path.stat().st_mtime_ns for path in machine.store.rglob("*") if path.is_file()}
    again = machine.join("p2", "base", "tool")
    assert again.code == 0 and "here base, tool" in again.text
    assert {path: path.stat().st_mtime_ns for path in machine.store.rglob("*") if path.is_file()} == before


def test_a_machine_that_is_fresh_in_the_middle_asks_for_all_it_lacks(machine: Machine) -> None:
    for piece in ("p1", "p2"):
        machine.join(piece)
    machine.break_down()
    refused = machine.join("p3", "base", "tool")
    assert refused.code == 1
    assert "REFUSED, base, tool not complete: carry .gpu/p1, .gpu/p2 again, one a call" in refused.text
    machine.join("p1")
    assert machine.join("p2", "base", "tool").code == 0


@pytest.mark.long
def test_a_script_writes_its_rows(machine: Machine) -> None:
    pytest.importorskip("torch")
    done = machine.call("p1", "source .gpu/kit/join.sh base && python3 .gpu/kit/probe.py --device cpu --only machine,copies")
    assert done.code == 0, done.text
    report = json.loads((machine.out / "probe.json").read_text())
    assert [(step["step"], step["status"]) for step in report["steps"]] == [("machine", "done"), ("copies", "done")]
    assert len(report["steps"][1]["rows"]) == 12
    assert all(row["GB/s"] > 0 for row in report["steps"][1]["rows"])
    text = (machine.out / "probe.md").read_text()
    assert "**Not a GPU" in text and "| to the device, pinned |" in text


@pytest.mark.long
def test_steps_that_hang_or_crash_leave_their_rows_and_the_next_runs(machine: Machine) -> None:
    (machine.gpu / "kit" / "bad.py").write_text(
        """
import os, time
from steps import main, step

@step(2)
def hangs(options):
    yield {"what": "before"}
    time.sleep(60)

@step(20)
def crashes(options):
    yield {"what": "before"}
    os._exit(7)

@step(20)
def fails(options):
    yield {"what": "before"}
    raise ValueError("of no use")

@step(20)
def works(options):
    yield {"what": "all"}

main("Bad steps")
"""
    )
    assert machine.call("p1", "source .gpu/kit/join.sh && python3 .gpu/kit/bad.py --device cpu").code == 0
    steps: list[dict[str, Any]] = json.loads((machine.out / "bad.json").read_text())["steps"]
    statuses = ["**out of time** after 8 s", "**ended with code 7**", "**failed**", "done"]
    assert [step["status"] for step in steps] == statuses
    assert [step["rows"][0]["what"] for step in steps] == ["before", "before", "before", "all"]
    assert steps[2]["rows"][1] == {"failed": "ValueError: of no use"}


def test_the_calls_fit_the_machine_and_the_scripts() -> None:
    components = {"base": 1, "ort": 2, "warp": 3, "rtx": 5}
    planned = calls.plan_calls(components, {f"p{number}": 50.0 for number in range(1, 6)})
    assert [call.carry[1] for call in planned] == [f".gpu/p{number}" for number in range(1, 6)]
    assert sum(calls.TRANSFER + call.expected_s[1] for call in planned) + calls.START <= calls.BUDGET
    for call in planned:
        minutes = [float(one) for one in re.findall(r"--minutes ([\d.]+)", call.command)]
        assert sum(minutes) * 60 < call.timeout_s and call.expected_s[0] < call.expected_s[1] < call.timeout_s
        for script in re.findall(r"python3 \.gpu/kit/(\S+)", call.command):
            assert (KIT / "remote" / script).exists()
        for parts in re.findall(r"--only (\S+?)[ ;]", call.command):
            assert set(parts.split(",")) <= {part.name for part in gpu.PARTS}


def test_pieces_that_no_call_has_brought_are_sent_alone(tmp_path: Path) -> None:
    tables = [{"title": name, "needs": [name], "timeout_s": 9, "expected_s": [1, 2], "command": "true"} for name in "abc"]
    path = tmp_path / "calls.json"
    path.write_text(json.dumps(tables))
    planned = calls.plan_calls({"a": 1, "b": 4, "c": 4}, dict.fromkeys(("p1", "p2", "p3", "p4"), 1.0), path)
    assert [call.title for call in planned] == ["a", "send p2", "send p3", "b", "c"]
    assert [call.carry[1] for call in planned] == [".gpu/p1", ".gpu/p2", ".gpu/p3", ".gpu/p4", ".gpu/p4"]
    calls.write_calls(planned, path)
    assert [call.title for call in calls.read_calls(path)] == [call.title for call in planned]


def test_a_piece_that_is_too_large_ends_it(cut: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((cut / "kit" / "manifest.json").read_text())
    layout = {blob["name"]: [pieces.Part(**part) for part in blob["parts"]] for blob in manifest["blobs"]}
    sizes = pieces.check(cut, layout, 0, 0.2)
    assert sizes.keys() == {"p1", "p2", "p3", "u1", "u2", "u3"} and max(sizes.values()) < 0.2
    with pytest.raises(SystemExit, match=r"p1: a call would send \d\.\d+ MiB; expected less than 0\.1"):
        pieces.check(cut, layout, 60_000, 0.1)
    next((cut / "p2").iterdir()).write_bytes(b"other")
    with pytest.raises(SystemExit, match="its parts are not it"):
        pieces.check(cut, layout, 0, 0.2)
    assert "sizes and checksums are right" in capsys.readouterr().out


def test_what_travels_is_what_git_has() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in pieces.tree_files(ROOT)}
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout.split("\n")
    assert {"README.md", "benchmarks/gpu.py"} <= names & set(listed)
    assert not [name for name in names if name.startswith((".gpu/", ".venv/"))]


def test_what_is_made_again_is_what_other_code_would_make_otherwise(tmp_path: Path) -> None:
    for name in ("architectures/pan.py", "export/trace.py", "engines/kernels.py", "runtime/tiling.py", "bundle.py"):
        path = tmp_path / "sr_deploy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    before = contents.version_of(tmp_path, contents.MAKERS)
    (tmp_path / "sr_deploy" / "runtime" / "tiling.py").write_text("other")
    assert contents.version_of(tmp_path, contents.MAKERS) == before
    for name in ("architectures/pan.py", "bundle.py"):
        (tmp_path / "sr_deploy" / name).write_text("other")
        assert contents.version_of(tmp_path, contents.MAKERS) != before
        before = contents.version_of(tmp_path, contents.MAKERS)


def container(*entries: tuple[int, int, bytes]) -> bytes:
    """Device code as it lies in a library: (kind, architecture, code)."""
    body = io.BytesIO()
    for kind, arch, code in entries:
        body.write(struct.pack("<HHIQ", kind, 257, 64, len(code)) + bytes(12) + struct.pack("<I", arch) + bytes(32) + code)
    return struct.pack("<IHHQ", FATBIN, 1, 16, body.tell()) + body.getvalue()


def test_device_code_of_other_gpus_is_zeroed_in_its_place() -> None:
    code, other, text = b"nine zero" * 9, b"eight six" * 9, b"ptx" * 27
    mixed = container((CUBIN, 86, other), (CUBIN, 90, code), (PTX, 90, text))
    without = container((CUBIN, 86, other), (PTX, 80, text))
    like = struct.pack("<IHHQ", FATBIN, 1, 16, 1 << 40)
    before = b"head" + mixed + b"middle" + without + like + b"tail"
    after, told = wheels.prune(bytearray(before), 90)
    assert bytes(after) == before.replace(mixed, mixed.replace(other, bytes(len(other))).replace(text, bytes(len(text))))
    assert told.endswith("1 containers left whole")


def test_only_device_code_of_a_real_library_is_touched() -> None:
    """Against the sections that readelf tells."""
    readelf, warp = shutil.which("readelf"), pytest.importorskip("warp")
    if readelf is None:
        pytest.skip("no readelf")
    path = Path(warp.__file__).parent / "bin" / "warp.so"
    sections = subprocess.run([readelf, "-SW", path], capture_output=True, text=True, check=True).stdout
    before = np.frombuffer(path.read_bytes(), np.uint8)
    after = np.frombuffer(wheels.prune(bytearray(before.tobytes()), 90)[0], np.uint8)
    (changed,) = np.nonzero(before != after)
    spans = [
        (int(match[1], 16), int(match[2], 16))
        for match in re.finditer(r"\.nv_fatbin\s+PROGBITS\s+\w+\s+(\w+)\s+(\w+)", sections)
    ]
    assert len(changed) > 1_000_000 and len(spans) == 1
    start, size = spans[0]
    assert start <= changed[0] and changed[-1] < start + size
    assert not after[changed].any()
