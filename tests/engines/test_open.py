from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from sr_deploy import open_bundle
from sr_deploy.card import GRAPH_METADATA_KEY, Masked, ModelCard
from sr_deploy.errors import BundleError, EngineError, SrDeployError
from tests.graphs import image_graph, masked_graphs, save


def test_a_foreign_graph_is_described_from_its_nodes(tmp_path: Path) -> None:
    bundle = open_bundle(save(image_graph(scale=3, depth=4), tmp_path, "foreign.onnx"))
    card = bundle.card
    assert (card.name, card.architecture, card.scale, card.channels) == ("foreign", "foreign", 3, 3)
    assert (card.tiling, card.halo, card.min_size) == ("exact", 5, 1)
    assert bundle.graph("fp32") == tmp_path / "foreign.onnx"


def test_a_lone_graph_of_ours_still_knows_what_it_is(tmp_path: Path) -> None:
    model = image_graph(float_type=TensorProto.FLOAT16)
    card = ModelCard("net", "rlfn", 2, 3, halo=7, tiling="exact")
    helper.set_model_props(model, {GRAPH_METADATA_KEY: card.to_json()})
    bundle = open_bundle(str(save(model, tmp_path)))
    assert bundle.card == card
    assert list(bundle.graphs) == ["fp16"]


def test_one_of_two_graphs_is_refused_with_its_bundle_named(tmp_path: Path) -> None:
    card = ModelCard("net", "pan_mga", 2, 3, masked=Masked(4, 1, 3))
    for model in masked_graphs():
        helper.set_model_props(model, {GRAPH_METADATA_KEY: card.to_json()})
        with pytest.raises(BundleError, match="one of the two graphs of net, a mask-guided network; open the folder"):
            open_bundle(save(model, tmp_path))


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("weights.pth", b"x", r"make a bundle with `sr-deploy export weights\.pth`"),
        ("text.onnx", b"hello", "not readable as ONNX"),
        ("empty.onnx", b"", "expected one image in and one out"),
    ],
)
def test_other_files_are_refused_with_the_way_out(tmp_path: Path, name: str, contents: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(BundleError, match=message):
        open_bundle(tmp_path / name)


def test_a_missing_graph(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such file"):
        open_bundle(tmp_path / "none.onnx")


def test_graphs_that_are_no_image_graphs_are_refused(tmp_path: Path) -> None:
    two = image_graph()
    two.graph.output.append(helper.make_tensor_value_info("shuffled", TensorProto.FLOAT, [None, 3, None, None]))
    with pytest.raises(BundleError, match="1 inputs and 2 outputs"):
        open_bundle(save(two, tmp_path, "two.onnx"))
    flat = image_graph()
    flat.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3]))
    with pytest.raises(SrDeployError, match="not \\(N,C,H,W\\)"):
        open_bundle(save(flat, tmp_path, "flat.onnx"))
    with pytest.raises((BundleError, EngineError), match="takes 5 channels"):
        open_bundle(save(image_graph(channels=5), tmp_path, "five.onnx"))


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    onnx.save(image_graph(), tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    with pytest.raises(BundleError, match="keeps its weights in other files"):
        open_bundle(tmp_path / "net.onnx")
