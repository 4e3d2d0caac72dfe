"""The application: tokens, strangers, what every answer says, and how the service tells of itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from sr_deploy.errors import UsageError
from sr_deploy.serve.networks import ServedNetworks
from sr_deploy.serve.options import Limits, ServeOptions
from tests.docs import plain_bundle
from tests.serve.conftest import Running, encoded, serving

TOKEN = "s3cret-of-the-service"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("guarded"), token=TOKEN, origins=("https://example.org",)) as service:
        yield service


@pytest.mark.parametrize("path", ["/v1/models", "/v1/jobs", "/v2", "/v2/models/fast-x2", "/metrics", "/v1/jobs/x/events"])
def test_the_token_is_demanded(guarded: Running, path: str) -> None:
    for header in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}, {"Authorization": "Basic Og=="}):
        answer = guarded.get(path, **header)
        assert answer.status == 401 and list(answer.json) == ["error"]
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_the_token_opens(guarded: Running) -> None:
    assert guarded.get("/v1/models", Authorization=f"Bearer {TOKEN}").status == 200
    assert [guarded.get(path).status for path in ("/live", "/ready", "/v2/health/live", "/openapi.json")] == [200] * 4


def test_a_wrong_token_costs_no_upload(guarded: Running) -> None:
    before = set(guarded.service.spool._folder.iterdir())
    assert guarded.post("/v1/jobs", bytes(100_000)).status == 401
    assert guarded.post("/v1/upscale", bytes(100_000)).status == 401
    assert set(guarded.service.spool._folder.iterdir()) == before


def test_pages_that_are_allowed_may_ask(guarded: Running) -> None:
    asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    allowed = guarded.ask("OPTIONS", "/v1/upscale", **asked, Access_Control_Request_Headers="authorization")
    assert allowed.status == 200 and allowed.headers["Access-Control-Allow-Origin"] == "https://example.org"
    assert guarded.ask("OPTIONS", "/v1/upscale", **asked | {"Origin": "https://example.com"}).status == 400


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({"Host": "127.0.0.1:80"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "attacker.example"}, 403),
        ({"Host": "127.0.0.1.attacker.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Host": "localhost:1", "Origin": "null"}, 403),
        ({"Host": "localhost:1", "Origin": "https://attacker.example"}, 403),
    ],
)
def test_pages_of_strangers_cannot_ask_a_service_without_a_token(running: Running, header: dict[str, str], status: int) -> None:
    answer = running.get("/v1/models", **header)
    assert answer.status == status
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_every_answer_tells_browsers_to_load_nothing_from_elsewhere(running: Running) -> None:
    for path in ("/v1/models", "/nothing", "/v1/jobs/x", "/openapi.json"):
        headers = running.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'") and "frame-ancestors 'none'" in policy
        assert "http" not in policy and "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and "server" not in headers
    assert [running.get(path).status for path in ("/docs", "/redoc")] == [404, 404]


def test_the_networks_are_told(running: Running) -> None:
    (model,) = running.get("/v1/models").json["models"]
    assert (model["name"], model["scale"], model["channels"], model["default"]) == ("fast-x2", 2, 3, True)
    assert model["description"].startswith("ecbsr, RGB")


def test_the_description_is_typed(running: Running) -> None:
    """Every operation names itself, what it answers, and how errors look."""
    document = running.get("/openapi.json").json
    operations = [(path, verb, spec) for path, verbs in document["paths"].items() for verb, spec in verbs.items()]
    names = [spec["operationId"] for _, _, spec in operations]
    assert len(names) == len(set(names)) >= 14
    upscale = document["paths"]["/v1/upscale"]["post"]
    assert {parameter["name"] for parameter in upscale["parameters"]} == {"model", "scale", "to", "quality", "fp32", "format"}
    assert set(upscale["responses"]["200"]["content"]) >= {"image/png", "image/jpeg", "image/webp", "image/tiff", "image/avif"}
    assert {"X-Network", "X-Seconds", "X-Tiles", "X-Recomputed"} <= set(upscale["responses"]["200"]["headers"])
    error = upscale["responses"]["413"]["content"]["application/json"]["schema"]
    assert error == {"$ref": "#/components/schemas/ErrorAnswer"}
    job = document["components"]["schemas"]["JobFacts"]["properties"]
    assert set(job) >= {"id", "name", "state", "done", "total", "unit", "per_second", "seconds_left", "error", "results"}


def test_what_is_counted(running: Running, photo: NDArray[np.uint8]) -> None:
    def counted() -> dict[tuple[str, str], float]:
        text = running.get("/metrics").body.decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {(sample.name, ",".join(sample.labels.values())): sample.value for sample in samples}

    before = counted()
    assert running.post("/v1/upscale", encoded(photo)).status == 200
    assert running.post("/v1/upscale", b"nothing").status == 415
    assert running.get("/nowhere").status == 404
    after = counted()

    def more(name: str, *labels: str) -> float:
        return after[name, ",".join(labels)] - before.get((name, ",".join(labels)), 0.0)

    assert more("srdeploy_requests_total", "/v1/upscale", "200") == 1
    assert more("srdeploy_requests_total", "/v1/upscale", "415") == 1
    assert more("srdeploy_requests_total", "other", "404") == 1
    assert more("srdeploy_pixels_total", "fast-x2") == photo.shape[0] * photo.shape[1]
    assert more("srdeploy_tiles_total", "good") == 1
    assert (after["srdeploy_waiting", ""], after["srdeploy_running", ""]) == (0, 0)
    assert after["process_open_fds", ""] > 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_an_address_that_others_reach_needs_a_token(host: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a token is needed"):
        ServeOptions(host=host, spool=tmp_path)
    assert ServeOptions(host=host, spool=tmp_path, token="x").token == "x"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"token": ""}, "the token is empty"),
        ({"token": "two words"}, "spaces"),
        ({"models": ()}, "no network"),
        ({"origins": ("*",)}, "origin"),
        ({"origins": ("https://example.org/page",)}, "origin"),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ServeOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="queue of -1"):
        Limits(queue=-1)


def test_networks_by_name_and_factor(tmp_path: Path) -> None:
    plain_bundle(tmp_path / "rlfn", "rlfn")
    networks = ServedNetworks(("fast", str(tmp_path / "rlfn")), ServeOptions().spec)
    assert {network.name for network in networks} == {"fast-x2", "fast-x3", "fast-x4", "rlfn"}
    wanted = [(None, None), (None, 2.0), ("fast", 2.5), ("fast", 9.0), ("fast-x2", 4.0), ("rlfn", 2.0)]
    found = [networks.choose(name, factor).name for name, factor in wanted]
    assert found == ["fast-x4", "fast-x2", "fast-x3", "fast-x4", "fast-x2", "rlfn"]
    for name in ("quality", str(tmp_path / "rlfn"), "../rlfn"):
        with pytest.raises(UsageError, match="not served here"):
            networks.choose(name, None)
    with pytest.raises(UsageError, match="two networks are called rlfn"):
        plain_bundle(tmp_path / "other", "rlfn")
        ServedNetworks((str(tmp_path / "rlfn"), str(tmp_path / "other")), ServeOptions().spec)
