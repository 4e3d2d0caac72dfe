"""A wheel is all that commands need: built from the tree, installed beside nothing of it, run in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.wheels import FOLDERS, ROOT, build, copy_source, install

SETTINGS = {folder: sorted(path.name for path in (ROOT / folder).glob("*.toml")) for folder in FOLDERS}
Run = Callable[..., subprocess.CompletedProcess[str]]


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


@pytest.fixture
def run(programs: Path, tmp_path: Path) -> Run:
    """Run the installed program in an empty folder."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(programs / "sr-deploy"), *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return call


def test_a_wheel_has_the_recipes_and_targets(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"sr_deploy/data/{folder}/{name}" for folder, names in SETTINGS.items() for name in names}
    assert all(SETTINGS.values()) and expected == {name for name in inside if name.startswith("sr_deploy/data/")}
    assert {"sr_deploy/py.typed", "sr_deploy/export/report.css", "sr_deploy/models/fast-x4/card.json"} <= inside
    assert not any("weights" in name or name.endswith("box.py") for name in inside)


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


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("--version", "sr-deploy 0."),
        ("models", "quality-small-x4"),
        ("inspect fast-x2", "ECBSR"),
        ("architectures", "rlfn"),
        ("verify fast-x2 --backend openvino", "ok"),
        ("doctor", "openvino"),
        ("build --help", "--target"),
    ],
)
def test_commands_run(run: Run, command: str, said: str) -> None:
    result = run(*command.split())
    assert (result.returncode, result.stderr) == (0, "")
    assert said.lower() in result.stdout.lower()


@pytest.mark.parametrize("target", [[], ["--target", "cpu"]])
def test_a_picture_is_upscaled(run: Run, tmp_path: Path, target: list[str]) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((9, 14, 3), 120, np.uint8))
    result = run("upscale", "photo.png", "-o", "large/", "--no-progress", *target)
    assert (result.returncode, result.stdout.split()) == (0, [str(Path("large/photo.png"))]), result.stderr
    large = cv2.imread(str(tmp_path / "large" / "photo.png"))
    assert large is not None and large.shape == (36, 56, 3)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("upscale photo.png --target rtxx", 2, "rtxx: no such file, and no target of that name; did you mean 'rtx'?"),
        (
            "export no.pth --recipe rlfn_x4",
            1,
            "no.pth: no such file; recipe 'rlfn_x4' is of rlfn_x4.pth from https://github.com/",
        ),
        ("train fast_x4", 2, "recipe 'fast_x4': no photos; name folders of HR photos in `hr`, or with --hr"),
    ],
)
def test_recipes_and_targets_are_found_by_name(run: Run, tmp_path: Path, command: str, code: int, said: str) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((8, 8, 3), np.uint8))
    result = run(*command.split())
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (code, "", 1), result.stderr
    assert said in result.stderr


def test_an_engine_is_built_without_a_file_of_ours(run: Run) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    result = run("build", "fast-x2", "--target", "rtx", "--json")
    assert result.returncode == 0, result.stderr
    (built,) = json.loads(result.stdout)["engines"]
    assert built["record"]["key"]["capabilities"] == ["7.5", "8.0", "8.6", "8.9", "12.0", "12.1"]


def test_every_recipe_and_target_is_read(programs: Path, tmp_path: Path) -> None:
    code = (
        "from sr_deploy.engines.tensorrt.target import load_target; from sr_deploy.settings import shipped\n"
        "from sr_deploy import export, training; import json\n"
        "read = {'export': export.read_recipe, 'training': training.read_recipe, 'engines': load_target}\n"
        "print(json.dumps({folder: [f'{function(name).name}.toml' for name in shipped(folder)] "
        "for folder, function in read.items()}))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    arguments = [programs / "python", "-c", code]
    result = subprocess.run(arguments, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert {folder: sorted(names) for folder, names in json.loads(result.stdout).items()} == SETTINGS
