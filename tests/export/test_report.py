from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from sr_deploy.bundle import REPORT_FILE, Bundle
from sr_deploy.export.charts import Layer, activation_chart, linear_bar, log_bar

VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    """Counts tags, checks that they close in order, and collects what they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.references: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("checkpoint", ["ECBSR_M4C16_x2.pth"])
def test_the_page_stands_alone_and_closes_its_tags(bundle_of: Callable[[str], Bundle], checkpoint: str) -> None:
    bundle = bundle_of(checkpoint)
    page = (bundle.folder / REPORT_FILE).read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert "script" not in checker.seen
    assert "link" not in checker.seen
    assert len(checker.references) == 5
    assert all(reference.startswith("data:image/png;base64,") for reference in checker.references)
    assert "prefers-color-scheme: dark" in page
    for link in bundle.certificate:
        assert link.target in checker.text
        assert f"{link.max_lsb:.4f}" in checker.text
    assert bundle.graphs["fp32"].sha256 in checker.text
    assert f"{bundle.card.detection.hypotheses[0].psnr:.2f} dB" in checker.text
    assert len(page) < 1_000_000


def test_names_are_escaped() -> None:
    assert "<script>" not in activation_chart([Layer("<script>", 1, 2, kept=False)])


@pytest.mark.parametrize("value", [0.0, 1e-9, 1.0, 1e30, float("inf")])
def test_bars_hold_any_number(value: float) -> None:
    assert "nan" not in log_bar(value, low=1e-4, high=256)
    assert "nan" not in linear_bar(min(value, 1e9), high=3.0)
    assert "nan" not in activation_chart([Layer("a", value, value, kept=True)])
