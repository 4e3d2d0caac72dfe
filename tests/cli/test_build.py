from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from sr_deploy.device import gpu
from sr_deploy.engines.tensorrt import library as tensorrt_library
from sr_deploy.engines.tensorrt.library import TENSORRT_RTX, Library
from sr_deploy.errors import BackendUnavailableError
from tests.engines.tensorrt.fake_tensorrt import fake_module
from tests.graphs import masked_bundle

Invoke = Callable[..., Result]
TARGETS = Path(__file__).parents[2] / "engines"


@pytest.fixture
def _fake_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that compiles nothing, in the place of TensorRT for RTX."""
    fake = Library(TENSORRT_RTX, fake_module(rtx=True))
    monkeypatch.setattr(tensorrt_library, "load_library", lambda _: fake)
    monkeypatch.setattr("sr_deploy.engines.tensorrt.build.load_library", lambda _: fake)


@pytest.fixture
def target() -> Path:
    path = Path("small.toml")
    path.write_text(
        'name = "small"\nbackend = "tensorrt-rtx"\nprecision = "fp32"\n'
        '[build]\nmin = "8x8"\nopt = "32x16"\nmax = "64x64"\ncompute_capabilities = ["8.6", "8.9"]\n'
    )
    return path


@pytest.mark.usefixtures("_fake_library")
def test_build_list_inspect_and_prune(invoke: Invoke, bundle: Path, target: Path) -> None:
    result = invoke("build", bundle, "--target", target)
    assert result.exit_code == 0, result.stderr
    engine = Path(result.stdout.strip())
    assert engine.parent == Path("engines") and engine.is_file()
    assert "double for tensorrt-rtx 1.2.3: compiled in" in result.stderr

    again = invoke("build", bundle, "--target", target)
    assert (again.exit_code, again.stdout) == (0, result.stdout)
    assert "there already, nothing to compile" in again.stderr

    listed = invoke("engines")
    assert listed.exit_code == 0
    row = next(line for line in listed.stdout.splitlines() if line.startswith(engine.name))
    assert "double fp32" in row and "tensorrt-rtx 1.2.3: 8.6, 8.9" in row and "8x8 to 64x64" in row and row.endswith("ok")

    facts = invoke("inspect", engine)
    assert facts.exit_code == 0, facts.stderr
    for text in ("pixels uint8[?, ?, ?, 3]", "health float32[?]", "8x8 to 64x64", "pixels=1x8x8x3 / 1x16x32x3 / 1x64x64x3"):
        assert text in facts.stdout
    document = json.loads(invoke("inspect", engine, "--json").stdout)
    assert (document["kind"], document["scale"], document["key"]["capabilities"]) == ("engine", 2, ["8.6", "8.9"])

    engine.write_bytes(b"changed")
    assert "changed since it was built" in invoke("engines").stdout
    assert json.loads(invoke("engines", "--json").stdout)["engines"][0]["problem"] == "changed since it was built"
    engine.unlink()
    assert f"{engine.name}  double fp32" in invoke("engines").stdout
    pruned = invoke("engines", "--prune")
    assert f"removed {engine}: not readable" in pruned.stderr and engine.name not in pruned.stdout
    assert list(Path("engines").iterdir()) == []
    assert json.loads(invoke("engines", "--json").stdout)["engines"] == []


def built(invoke: Invoke, *arguments: object) -> dict[str, Any]:
    result = invoke("build", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    (document,) = json.loads(result.stdout)["engines"]
    assert isinstance(document, dict)
    return document


@pytest.mark.usefixtures("_fake_library")
def test_options_win_over_the_target(invoke: Invoke, bundle: Path, target: Path) -> None:
    common = (bundle, "--target", target, "-o", "elsewhere")
    document = built(invoke, *common, "--max", "128x96", "--batch", "4", "--workspace", "32", "--optimization-level", "5")
    key = document["record"]["key"]
    assert document["compiled"] is True and Path(document["path"]).parent == Path("elsewhere")
    assert key["shapes"] == {"pixels": [[1, 8, 8, 3], [4, 16, 32, 3], [4, 96, 128, 3]]}
    assert (key["workspace"], key["optimization_level"]) == (32, 5)
    key = built(invoke, *common, "--static", "48x24", "--compute-capability", "12.0", "--compute-capability", "8.0")["record"][
        "key"
    ]
    assert key["shapes"] == {"pixels": [[1, 24, 48, 3]] * 3}
    assert key["capabilities"] == ["12.0", "8.0"]
    assert len(json.loads(invoke("engines", "elsewhere", "--json").stdout)["engines"]) == 2


@pytest.mark.usefixtures("_fake_library")
def test_a_mask_guided_network_becomes_two_engines(invoke: Invoke, target: Path) -> None:
    folder = Path("masked")
    folder.mkdir()
    masked_bundle(folder)
    result = invoke("build", folder, "--target", target)
    assert result.exit_code == 0, result.stderr
    assert "masked base for tensorrt-rtx" in result.stderr and "masked refine for tensorrt-rtx" in result.stderr
    base, refine = (json.loads(invoke("inspect", path, "--json").stdout)["key"]["shapes"] for path in result.stdout.split())
    assert base == {"pixels": [[1, 8, 8, 3], [1, 16, 32, 3], [1, 64, 64, 3]]}
    usual, largest = 7, 64  # of 8 x 4 patches a fifth, of 16 x 16 a quarter
    assert refine == {"patches": [[1, 3, 6, 6], [usual, 3, 6, 6], [largest, 3, 6, 6]]}
    again = json.loads(invoke("build", folder, "--target", target, "--json").stdout)
    assert [engine["compiled"] for engine in again["engines"]] == [False, False]


@pytest.mark.usefixtures("_fake_library")
def test_a_static_target_takes_dynamic_sizes(invoke: Invoke, bundle: Path, target: Path) -> None:
    target.write_text(target.read_text() + 'static = "16x16"\n')
    assert built(invoke, bundle, "--target", target)["record"]["key"]["shapes"] == {"pixels": [[1, 16, 16, 3]] * 3}
    shapes = built(invoke, bundle, "--target", target, "--opt", "16x16")["record"]["key"]["shapes"]
    assert shapes == {"pixels": [[1, 8, 8, 3], [1, 16, 16, 3], [1, 64, 64, 3]]}


@pytest.mark.usefixtures("_fake_library")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--static", "8x8", "--min", "8x8"], 2, "contradict each other"),
        (["--static", "8by8"], 2, "expected WIDTHxHEIGHT"),
        (["--compute-capability", "9.0"], 2, "tensorrt-rtx 1.2.3: compute capability 9.0 is unknown; there are: 7.5, 8.0"),
        (["--precision", "fp16"], 1, "has no fp16 graph, only fp32"),
        (["--target", str(TARGETS / "cpu.toml")], 2, "backend 'openvino' compiles no engines"),
        (["--target", "cpu"], 2, "backend 'openvino' compiles no engines; expected 'tensorrt' or 'tensorrt-rtx'"),
        (["--target", "gone.toml"], 2, "gone.toml: cannot be read"),
        (["--target", "rxt"], 2, "rxt: no such file, and no target of that name; did you mean 'rtx'?"),
    ],
)
def test_wrong_usage(arguments: list[str], code: int, message: str, invoke: Invoke, bundle: Path, target: Path) -> None:
    result = invoke("build", bundle, "--target", target, *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert not list(Path().glob("engines/*"))


@pytest.mark.usefixtures("_fake_library")
def test_a_target_in_bf16_is_refused(invoke: Invoke, bundle: Path, target: Path) -> None:
    target.write_text(target.read_text().replace("fp32", "bf16"))
    result = invoke("build", bundle, "--target", target)
    assert (result.exit_code, "not in bf16" in result.stderr) == (2, True)


@pytest.mark.parametrize(("name", "extra"), [("rtx", "[tensorrt-rtx]"), ("datacenter", "[tensorrt]"), ("jetson", "[tensorrt]")])
def test_without_the_library_one_line_says_how_to_install_it(
    name: str, extra: str, invoke: Invoke, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for flavour in tensorrt_library.FLAVOURS:
        for module in flavour.modules:
            monkeypatch.setitem(sys.modules, module, None)
    result = invoke("build", bundle, "--target", TARGETS / f"{name}.toml")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.count("\n") == 1
    assert f'pip install "sr-deploy{extra}"' in result.stderr


def test_without_a_gpu_tensorrt_says_so_in_one_line(invoke: Invoke, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Any:
        raise BackendUnavailableError("no NVIDIA driver on this machine")

    fake = Library(tensorrt_library.TENSORRT, fake_module(rtx=False))
    monkeypatch.setattr(tensorrt_library, "load_library", lambda _: fake)
    monkeypatch.setattr("sr_deploy.engines.tensorrt.build.find_gpus", none)
    result = invoke("build", bundle, "--target", TARGETS / "datacenter.toml", "--precision", "fp32")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (3, "", 1)
    assert "no NVIDIA driver on this machine" in result.stderr and "`--target rtx`" in result.stderr


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make this a machine with GPUs of those compute capabilities and with those libraries, which compile nothing."""

    def make(capabilities: str, installed: str) -> None:
        gpus = tuple(gpu.GPU("GPU", capability) for capability in capabilities.split())
        libraries = {"tensorrt": Library(tensorrt_library.TENSORRT, fake_module(rtx=False))}
        libraries["tensorrt-rtx"] = Library(TENSORRT_RTX, fake_module(rtx=True))

        def load(flavour: tensorrt_library.Flavour) -> Library:
            if flavour.name not in installed.split():
                raise BackendUnavailableError(f"{flavour.title} cannot be loaded; install it with `{flavour.install}`")
            return libraries[flavour.name]

        monkeypatch.setattr(gpu, "survey", lambda: gpu.Survey(gpus, problem="" if gpus else "no GPU", remedy="get one"))
        monkeypatch.setattr(tensorrt_library, "load_library", load)

    return make


@pytest.mark.parametrize(
    ("capabilities", "installed", "target", "library", "opt"),
    [
        ("", "tensorrt-rtx", "rtx", "tensorrt-rtx", 540),
        ("", "tensorrt tensorrt-rtx", "rtx", "tensorrt-rtx", 540),
        ("8.9", "tensorrt-rtx", "rtx", "tensorrt-rtx", 540),
        ("9.0", "tensorrt", "datacenter", "tensorrt", 540),
        ("8.9 8.7", "tensorrt tensorrt-rtx", "datacenter", "tensorrt", 540),
        ("8.7", "tensorrt", "jetson", "tensorrt", 270),
        ("11.0", "tensorrt", "jetson", "tensorrt", 270),
    ],
)
def test_without_a_target_it_is_the_one_of_this_machine(
    machine: Callable[..., None],
    invoke: Invoke,
    bundle: Path,
    capabilities: str,
    installed: str,
    target: str,
    library: str,
    opt: int,
) -> None:
    machine(capabilities, installed)
    known = ["--compute-capability", "8.9"] if library == "tensorrt-rtx" else []
    result = invoke("build", bundle, "--precision", "fp32", "--json", *known)
    assert (result.exit_code, result.stderr) == (0, f"note: target {target}; --target names another\n"), result.stderr
    key = json.loads(result.stdout)["engines"][0]["record"]["key"]
    assert (key["library"], key["shapes"]["pixels"][1][1]) == (library, opt)


def test_without_a_target_and_a_library_it_is_that_of_any_machine(
    machine: Callable[..., None], invoke: Invoke, bundle: Path
) -> None:
    machine("9.0", "")
    result = invoke("build", bundle)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "note: target rtx; " in result.stderr and 'pip install "sr-deploy[tensorrt-rtx]"' in result.stderr


def test_inspect_of_what_is_no_engine(invoke: Invoke) -> None:
    Path("mine.engine").write_bytes(b"?")
    result = invoke("inspect", "mine.engine")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("error: mine.engine: not an engine of ours, mine.json is missing")


def test_engines_of_no_folder(invoke: Invoke) -> None:
    result = invoke("engines", "nowhere")
    assert (result.exit_code, result.stderr.count("\n"), "no folder of engines" in result.stderr) == (2, 1, True)


SLOW = """
import time
from sr_deploy import cli
from sr_deploy.cli.build import ProgressLine
ProgressLine.__call__ = lambda self, phase, done: time.sleep(0.02)
cli.main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_an_interrupted_build_leaves_no_file(number: int, code: int, bundle: Path, target: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "build", str(bundle), "--target", str(target)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TARGETS.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = tmp_path / "engines"
    while not folder.is_dir():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(number)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, ""), errors
    assert list(folder.iterdir()) == []
