from __future__ import annotations

import json
from pathlib import Path

import pytest

from sr_deploy.bundle import Bundle, Detection, GraphCard, Hypothesis, Link, ModelCard, Source, sha256_of
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


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"it has no card\.json; make one with `sr-deploy export"):
        Bundle.open(tmp_path)
    with pytest.raises(BundleError, match="no such folder"):
        Bundle.open(tmp_path / "nothing")
