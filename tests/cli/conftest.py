"""A bundle that takes no training: every pixel becomes a block of 2x2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.bundle import PROBE_FILE, Bundle, sha256_of
from sr_deploy.card import GraphCard, Link, ModelCard
from sr_deploy.cli import program
from sr_deploy.pictures.image import Picture, write_image

Invoke = Callable[..., Result]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the bundle `double`."""
    folder = tmp_path_factory.mktemp("bundles") / "double"
    folder.mkdir()
    graph = folder / "fp32.onnx"
    onnx.save(_double(), graph)
    image = np.arange(3 * 16 * 16, dtype=np.float32).reshape(1, 3, 16, 16) / 767
    image = np.round(image * 255) / np.float32(255)
    np.savez(folder / PROBE_FILE, **{"ramp.input": image, "ramp.output": image.repeat(2, 2).repeat(2, 3)})
    card = ModelCard("double", "test", scale=2, channels=3, tiling="exact", halo=0, activation_bytes=100)
    graphs = {"fp32": GraphCard(graph.name, "fp32", sha256_of(graph), 18)}
    link = Link("original", "fp32", "ramp", 0.0, 0.0, 0.0, float("inf"), "max <= 0.5 LSB")
    Bundle(folder, card, graphs, (link,)).write_card()
    return folder


def _double() -> onnx.ModelProto:
    weights = np.zeros((12, 3, 1, 1), np.float32)
    for channel in range(3):
        weights[4 * channel : 4 * channel + 4, channel] = 1
    nodes = [
        helper.make_node("Conv", ["input", "weights"], ["wide"]),
        helper.make_node("DepthToSpace", ["wide"], ["large"], blocksize=2, mode="CRD"),
        helper.make_node("Clip", ["large", "low", "high"], ["output"]),
    ]
    constants = {"weights": weights, "low": np.float32(0), "high": np.float32(1)}
    graph = helper.make_graph(
        nodes,
        "double",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 3, "2*h", "2*w"])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.rglob("*.part"))


@pytest.fixture
def invoke() -> Invoke:
    """Run the program in this process; the result has its exit code, stdout and stderr."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(program, [str(argument) for argument in arguments], prog_name="sr-deploy")

    return run


@pytest.fixture
def pictures() -> list[Path]:
    """Four small pictures in in/."""
    Path("in/sub").mkdir(parents=True)
    paths = [Path("in/a.png"), Path("in/b.jpg"), Path("in/sub/c.webp"), Path("in/sub/é 漢字 [x] 'q'.png")]
    for index, path in enumerate(paths):
        write_image(path, Picture(np.full((20, 30, 3), 40 * index, np.uint8)))
    return paths
