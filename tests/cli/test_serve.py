from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from sr_deploy.serve import server
from sr_deploy.serve.options import ServeOptions
from tests.cli.test_json import check

Invoke = Callable[..., Result]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServeOptions]:
    """What would be served."""
    asked: list[ServeOptions] = []

    def serve(options: ServeOptions, listening: Callable[[str], None]) -> None:
        asked.append(options)
        listening("http://127.0.0.1:8000")

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.delenv("SR_DEPLOY_TOKEN", raising=False)
    return asked


def test_options_in_the_units_of_the_command_line(invoke: Invoke, served: list[ServeOptions], tmp_path: Path) -> None:
    words = "-m fast-x2 -m fast-x4 --port 0 --max-bytes 2 --max-pixels 0.5 --max-job 3 --spool-size 4 --expiry 0.5 --queue 7"
    result = invoke(
        "serve", *words.split(), "--timeout", "9", "--precision", "fp32", "--memory", "100", "--spool", str(tmp_path)
    )
    assert (result.exit_code, result.stdout) == (0, "http://127.0.0.1:8000\n")
    (options,) = served
    assert options.models == ("fast-x2", "fast-x4")
    limits = options.limits
    assert (limits.most_bytes, limits.most_pixels, limits.most_job_bytes) == (2_000_000, 500_000, 3_000_000)
    assert (limits.spool_bytes, limits.expiry, limits.queue, limits.seconds, limits.at_once) == (4_000_000, 1800, 7, 9, None)
    assert (options.spec.precision, options.spec.memory, options.spool) == ("fp32", 100_000_000, tmp_path)


def test_the_usual_service_is_for_this_machine_alone(invoke: Invoke, served: list[ServeOptions]) -> None:
    check("serve", invoke("serve", "--json").stdout)
    assert served[0].is_private and served[0].token is None and served[0].models == ("fast", "photo-fast")


def test_an_address_that_others_reach_needs_a_token(
    invoke: Invoke, served: list[ServeOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = invoke("serve", "--host", "0.0.0.0")
    assert (result.exit_code, served) == (2, []) and "SR_DEPLOY_TOKEN" in result.stderr
    monkeypatch.setenv("SR_DEPLOY_TOKEN", "secret")
    assert invoke("serve", "--host", "0.0.0.0").exit_code == 0
    assert [options.token for options in served] == ["secret"]


def test_what_is_missing_is_named(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sr_deploy.serve.server", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "sr_deploy.serve.server")
    result = invoke("serve")
    assert result.exit_code == 3 and 'pip install "sr-deploy[serve]"' in result.stderr
