"""A wheel is all that commands need: built from the tree, installed beside nothing of it, run in an empty folder."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from tests.docs import console_lines, furnish
from tests.wheels import EVERYTHING, FOLDERS, ROOT, build, copy_source, install

SETTINGS = {folder: sorted(path.name for path in (ROOT / folder).glob("*.toml")) for folder in FOLDERS}
Run = Callable[..., subprocess.CompletedProcess[str]]
InvokeAll = Callable[..., list[tuple[int, str, str]]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools")
    return copy_source(tmp_path_factory.mktemp("source") / "tree")


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the source archive of the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(build("sdist", source, folder)) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return build("wheel", unpacked, folder)


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs of an environment with the wheel are."""
    pytest.importorskip("pip")
    return install(wheel, tmp_path_factory.mktemp("installed") / "environment")


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Variables under which a program sees what is installed beside it alone."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


@pytest.fixture
def run(programs: Path, environment: dict[str, str], tmp_path: Path) -> Run:
    """Run the installed program in an empty folder; with `extras`, it finds what this environment has, too."""

    def call(*arguments: object, extras: bool = False) -> subprocess.CompletedProcess[str]:
        command = [str(programs / "sr-deploy"), *map(str, arguments)]
        variables = {**environment, "PYTHONPATH": EVERYTHING} if extras else environment
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)

    return call


def test_a_wheel_has_the_recipes_and_targets(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"sr_deploy/data/{folder}/{name}" for folder, names in SETTINGS.items() for name in names}
    assert all(SETTINGS.values()) and expected == {name for name in inside if name.startswith("sr_deploy/data/")}
    assert {"sr_deploy/py.typed", "sr_deploy/models/fast-x4/card.json"} <= inside
    kinds = ("css", "js", "html")
    drawn = {path.relative_to(ROOT).as_posix() for kind in kinds for path in (ROOT / "sr_deploy").rglob(f"*.{kind}")}
    assert len(drawn) > 3 and drawn <= inside
    assert not any(name.endswith((".pth", ".safetensors", "box.py")) for name in inside)


def test_an_editable_install_points_at_the_tree(source: Path, tmp_path: Path) -> None:
    editable = zipfile.ZipFile(build("editable", source, tmp_path))
    finders = [editable.read(name).decode() for name in editable.namelist() if name.endswith("_finder.py")]
    assert len(finders) == 1 and repr({"sr_deploy": str(source / "sr_deploy")}) in finders[0]
    assert not any(name.startswith("sr_deploy/") for name in editable.namelist())


def test_without_its_folders_the_package_is_not_built(source: Path, tmp_path: Path) -> None:
    (source / "engines").rename(tmp_path / "engines")
    try:
        with pytest.raises(subprocess.CalledProcessError) as caught:
            build("wheel", source, tmp_path)
    finally:
        (tmp_path / "engines").rename(source / "engines")
    assert "engines/*.toml: missing; build from the whole source tree" in caught.value.stderr


def test_the_program_is_the_installed_one(run: Run, programs: Path) -> None:
    (fast, *_) = json.loads(run("models", "--json").stdout)["models"]
    assert Path(fast["path"]).is_relative_to(programs.parent)


INVOKE = """
import json, sys
from click.testing import CliRunner
from sr_deploy.cli import program
for line in sys.stdin:
    result = CliRunner().invoke(program, json.loads(line), prog_name="sr-deploy")
    print(json.dumps([result.exit_code, result.stdout, result.stderr]), flush=True)
"""
NEEDS_EXPORT = ("export", "train", "architectures", "inspect rlfn_ntire_x4.pth")
NEEDS_SERVE = ("serve",)
NEEDS_GPU = ("tune", "build", "doctor --backend tensorrt")
NEEDS_ENGINE = ("inspect engines/",)
NEEDS_A_SHELL = ("_SR_DEPLOY_COMPLETE", "ffmpeg")
"""How lines begin, or what is in them, that a base install on a CPU cannot run: their own message says so."""
QUICKER = {
    "--size 960x540 --runs 20": "--size 96x54 --runs 1",
    " --measure": "",
    "--refine quality --hr": "--refine quality --shares 0 --runs 1 --hr",
}
"""What only takes time, and what stands in its place."""


@pytest.fixture
def invoke_all(programs: Path, environment: dict[str, str], tmp_path: Path) -> InvokeAll:
    """Run commands in an empty folder in one process, one after the other: exit code, stdout and stderr of each."""

    def call(commands: list[list[str]], *, extras: bool = False) -> list[tuple[int, str, str]]:
        variables = {**environment, "PYTHONPATH": EVERYTHING} if extras else environment
        told = "\n".join(map(json.dumps, commands))
        arguments = [str(programs / "python"), "-c", INVOKE]
        run = subprocess.run(arguments, cwd=tmp_path, env=variables, input=told, capture_output=True, text=True, check=True)
        return [tuple(json.loads(line)) for line in run.stdout.splitlines()]

    return call


def test_every_command_of_the_docs_runs(invoke_all: InvokeAll, tmp_path: Path) -> None:
    """What needs more than a base install ends with 3, and says what."""
    furnish(tmp_path)
    lines = [line for line in console_lines() if "sr-deploy" in line and not line.startswith(("pip", "docker", "git"))]
    lines = [line for line in lines if not any(word in line for word in NEEDS_A_SHELL)]
    assert len(lines) > 30 and {"upscale", "verify", "evaluate", "bench"} <= {line.split()[1] for line in lines}
    for slow, quick in QUICKER.items():
        assert any(slow in line for line in lines)
        lines = [line.replace(slow, quick) for line in lines]
    answers = invoke_all([shlex.split(line.partition("|")[0])[1:] for line in lines])
    wrong = []
    for line, (code, stdout, stderr) in zip(lines, answers, strict=True):
        command, _, query = line.removeprefix("sr-deploy ").partition(" | jq ")
        if command.startswith(NEEDS_ENGINE):
            good = code == 2 and "no such file" in stderr
        elif command.startswith(NEEDS_EXPORT):
            good = code == 3 and 'pip install "sr-deploy[export]"' in stderr
        elif command.startswith(NEEDS_SERVE):
            good = code == 3 and 'pip install "sr-deploy[serve]"' in stderr
        elif command.startswith(NEEDS_GPU):
            good = code == 3 and stderr.count("error: ") == 1
        else:
            good = code == 0 and "error: " not in stderr and bool(stdout or "skipped: " in stderr)
        if query:
            value = json.loads(stdout)
            for key in query.strip(". ").split("."):
                value = value[key]
        if not good:
            wrong.append((line, code, stderr[-500:]))
    assert wrong == []
    with av.open(str(tmp_path / "film_rlfn_3840x2160.mkv")) as film:
        assert film.streams.video[0].height == 2160


def test_a_pipe_of_the_docs_runs(programs: Path, environment: dict[str, str], tmp_path: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg")
    (line,) = (line for line in console_lines() if line.startswith("ffmpeg"))
    furnish(tmp_path)
    paths = os.pathsep.join([str(programs), os.environ["PATH"]])
    subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=tmp_path, env={**environment, "PATH": paths}, check=True)
    assert (tmp_path / "large.y4m").read_bytes().startswith(b"YUV4MPEG2 W128 H128 ")


def test_a_base_install_has_no_torch(run: Run) -> None:
    packages = json.loads(run("doctor", "--json").stdout)["packages"]
    assert packages["openvino"] and not packages.get("torch") and not packages.get("onnxruntime")


@pytest.mark.parametrize("target", [[], ["--target", "cpu"]])
def test_a_picture_is_upscaled(run: Run, tmp_path: Path, target: list[str]) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((9, 14, 3), 120, np.uint8))
    result = run("upscale", "photo.png", "-o", "large/", "--no-progress", *target)
    assert (result.returncode, result.stdout.split()) == (0, [str(Path("large/photo.png"))]), result.stderr
    large = cv2.imread(str(tmp_path / "large" / "photo.png"))
    assert large is not None and large.shape == (36, 56, 3)


BY_NAME = {
    "upscale photo.png --target rtxx": (2, "rtxx: no such file, and no target of that name; did you mean 'rtx'?"),
    "export no.pth --recipe rlfn_x4": (
        1,
        "no.pth: no such file; recipe 'rlfn_x4' is of rlfn_x4.pth from https://github.com/",
    ),
    "train fast_x4": (2, "recipe 'fast_x4': no photos; name folders of HR photos in `hr`, or with --hr"),
}
"""What names a recipe or a target, and how it ends where there is all that `export` needs, too."""


def test_recipes_and_targets_are_found_by_name(invoke_all: InvokeAll, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((8, 8, 3), np.uint8))
    answers = invoke_all([command.split() for command in BY_NAME], extras=True)
    for (code, said), (ended, stdout, stderr) in zip(BY_NAME.values(), answers, strict=True):
        assert (ended, stdout, stderr.count("\n")) == (code, "", 1), stderr
        assert said in stderr


def test_an_engine_is_built_without_a_file_of_ours(run: Run) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    result = run("build", "fast-x2", "--target", "rtx", "--json", extras=True)
    assert result.returncode == 0, result.stderr
    (built,) = json.loads(result.stdout)["engines"]
    assert built["record"]["key"]["capabilities"] == ["7.5", "8.0", "8.6", "8.9", "12.0", "12.1"]


@pytest.mark.long
def test_every_recipe_and_target_is_read(programs: Path, environment: dict[str, str], tmp_path: Path) -> None:
    code = (
        "from sr_deploy.engines.tensorrt.target import load_target; from sr_deploy.settings import shipped\n"
        "from sr_deploy import export, training; import json\n"
        "read = {'export': export.read_recipe, 'training': training.read_recipe, 'engines': load_target}\n"
        "print(json.dumps({folder: [f'{function(name).name}.toml' for name in shipped(folder)] "
        "for folder, function in read.items()}))"
    )
    arguments, variables = [programs / "python", "-c", code], {**environment, "PYTHONPATH": EVERYTHING}
    result = subprocess.run(arguments, cwd=tmp_path, env=variables, check=True, capture_output=True, text=True)
    assert {folder: sorted(names) for folder, names in json.loads(result.stdout).items()} == SETTINGS
