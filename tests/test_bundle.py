from __future__ import annotations

import json
from pathlib import Path

import pytest

from sr_deploy.bundle import Bundle, sha256_of
from sr_deploy.card import Detection, GraphCard, Hypothesis, Link, Masked, ModelCard, Source
from sr_deploy.errors import BundleError


@pytest.fixture
def written(tmp_path: Path) -> Bundle:
    graph = tmp_path / "fp32.onnx"
    graph.write_bytes(b"a graph")
    card = ModelCard(
        "net",
        "rlfn",
        4,
        3,
        value_range=255.0,
        config={"blocks": 6},
        source=Source("net.pth", "0" * 64, expected={"Set5": 32.1}),
        detection=Detection("measurement", (Hypothesis({"value_range": 255}, 30.0),), margin=2.5, bicubic=28.0),
        reparameterized=("a fold",),
    )
    links = (Link("original", "fp32", "odd 37x53", 0.0, 0.0, 0.0, float("inf"), "max <= 0.5 LSB", True),)
    bundle = Bundle(tmp_path, card, {"fp32": GraphCard("fp32.onnx", "fp32", sha256_of(graph), 20)}, links, {"onnx": "1"})
    bundle.write_card()
    return bundle


def test_what_is_written_is_what_is_read(written: Bundle) -> None:
    read = Bundle.open(written.folder)
    assert read.card == written.card
    assert read.graphs == written.graphs
    assert read.certificate[0].psnr == 999.0
    assert ModelCard.from_json(written.card.to_json(), where="metadata") == written.card


def test_the_card_is_plain_json(written: Bundle) -> None:
    json.loads((written.folder / "card.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_a_changed_graph_is_refused(written: Bundle) -> None:
    (written.folder / "fp32.onnx").write_bytes(b"another")
    with pytest.raises(BundleError, match=r"fp32\.onnx: changed since it was certified"):
        Bundle.open(written.folder)


def test_a_missing_graph_is_refused(written: Bundle) -> None:
    (written.folder / "fp32.onnx").unlink()
    with pytest.raises(BundleError, match="is missing"):
        Bundle.open(written.folder)


def test_a_precision_that_is_not_there(written: Bundle) -> None:
    with pytest.raises(BundleError, match="has no fp16 graph, only fp32"):
        written.graph("fp16")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as a card"),
        ("[]", "card format None, expected 1"),
        ('{"format": 99}', "card format 99, expected 1"),
        ('{"format": 1}', "missing key 'model'"),
        ('{"format": 1, "model": {"nam": 1}, "graphs": {}}', "unknown key 'nam'; did you mean 'name'"),
    ],
)
def test_a_broken_card_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "card.json").write_text(text, encoding="utf-8")
    with pytest.raises(BundleError) as caught:
        Bundle.open(tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 0}, "scale is 0, expected 1 to 16"),
        ({"scale": 10**12}, "scale is 1000000000000"),
        ({"halo": -1}, "halo is -1"),
        ({"min_size": 0}, "min_size is 0"),
        ({"size_multiple": 10**9}, "size_multiple is 1000000000"),
        ({"size_multiple": 0}, "size_multiple is 0"),
        ({"activation_bytes": -5}, "activation_bytes is -5"),
        ({"value_range": 0.0}, "value_range is 0.0"),
        ({"name": "../../net"}, "the name '../../net' is none of a network"),
        ({"name": ""}, "the name '' is none"),
        ({"masked": {"patch": 0, "padding": 1, "features": 8}}, "patch is 0"),
        ({"masked": {"patch": 4, "padding": 1, "features": -8}}, "features is -8"),
    ],
)
def test_a_number_that_cannot_be_is_told(written: Bundle, change: dict[str, object], message: str) -> None:
    path = written.folder / "card.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    table["model"] |= change
    path.write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(BundleError) as caught:
        Bundle.open(written.folder)
    assert message in str(caught.value)
    with pytest.raises(BundleError):
        ModelCard.from_json(json.dumps(table["model"]), where="metadata")


@pytest.mark.parametrize("file", ["../fp32.onnx", "/etc/passwd", "a/fp32.onnx", "..", "a\\b.onnx", "", "a\0b"])
def test_a_graph_outside_of_its_bundle_is_refused(written: Bundle, file: str) -> None:
    path = written.folder / "card.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    table["graphs"]["fp32"]["file"] = file
    path.write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(BundleError, match="is no file of the bundle's folder"):
        Bundle.open(written.folder)


@pytest.mark.parametrize("text", ["nonsense", "[" * 100_000, '{"name": NaN}', "null", "3", '{"name": "\\ud800"}'])
def test_metadata_that_is_no_card(text: str) -> None:
    with pytest.raises(BundleError):
        ModelCard.from_json(text, where="metadata")


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"it has no card\.json; make one with `sr-deploy export"):
        Bundle.open(tmp_path)
    with pytest.raises(BundleError, match="no such folder"):
        Bundle.open(tmp_path / "nothing")


@pytest.fixture
def masked(tmp_path: Path) -> Bundle:
    graphs = {}
    for part in ("base", "refine"):
        path = tmp_path / f"{part}-fp32.onnx"
        path.write_bytes(part.encode())
        graphs[f"{part}-fp32"] = GraphCard(path.name, "fp32", sha256_of(path), 20)
    graphs["base-fp16"] = graphs["base-fp32"]
    card = ModelCard("net", "pan_mga", 4, 3, size_multiple=4, masked=Masked(patch=4, padding=1, features=88))
    link = Link("original", "fp32", "photo", 0.1, 0.0, 0.1, 90.0, selected=24, moved=1)
    bundle = Bundle(tmp_path, card, graphs, (link,))
    bundle.write_card()
    return bundle


def test_a_mask_guided_bundle_has_two_graphs(masked: Bundle) -> None:
    read = Bundle.open(masked.folder)
    assert read.card == masked.card
    assert read.card.masked is not None
    assert read.card.masked.side == 6
    assert read.card.parts == ("base", "refine")
    assert read.certificate == masked.certificate
    assert read.graph("bf16", "refine") == masked.folder / "refine-fp32.onnx"
    assert (read.runs("fp32"), read.runs("bf16"), read.runs("fp16")) == (True, True, False)
    with pytest.raises(BundleError, match="has no refine-fp16 graph, only base-fp32, refine-fp32, base-fp16"):
        read.graph("fp16", "refine")


def test_bundles_are_opened_in_the_parts_that_they_have(written: Bundle, masked: Bundle) -> None:
    with pytest.raises(BundleError, match="in two graphs, base and refine; open it with MaskedUpscaler"):
        masked.graph("fp32")
    with pytest.raises(BundleError, match="in one graph, without base and refine; open it with Upscaler"):
        written.graph("fp32", "base")


def test_a_card_from_before_mask_guided_networks_is_read(written: Bundle) -> None:
    path = written.folder / "card.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    del table["model"]["masked"], table["certificate"][0]["selected"], table["certificate"][0]["moved"]
    path.write_text(json.dumps(table), encoding="utf-8")
    assert Bundle.open(written.folder).card == written.card
