"""A few of the hostile requests that `benchmarks/serve.py` sends by the thousand."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hostile import answer_to, request

from tests.serve.conftest import serving

TOKEN = "token-of-the-test"


def test_none_of_them_is_an_error_of_the_service(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    with serving(tmp_path / "spool", token=TOKEN) as running:
        place = urlsplit(running.address)
        requests = [request(seed, TOKEN) for seed in range(110)]
        statuses = [answer_to(one, place.hostname or "", place.port or 0) for one in requests]
        assert running.get("/live").status == 200
    assert 500 not in statuses and caplog.text == ""
    assert len({one.kind for one in requests}) == 10
    seen = Counter(statuses)
    assert {200, 401, 404, 413, 415, 422} <= set(seen), seen
    assert [path.name for path in tmp_path.iterdir()] == ["spool"]


def test_a_request_can_be_sent_again() -> None:
    assert request(7, TOKEN) == request(7, TOKEN) != request(8, TOKEN)
