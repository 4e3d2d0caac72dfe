from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result

from sr_deploy.cli import doctor
from sr_deploy.engines import Backend
from sr_deploy.errors import BackendUnavailableError

Invoke = Callable[..., Result]


def test_a_machine_that_works(invoke: Invoke) -> None:
    result = invoke("doctor")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "upscale: works" in result.stdout
    document = json.loads(invoke("doctor", "--json").stdout)
    assert document["upscale"] is True
    assert document["packages"]["numpy"]
    assert document["machine"]["cores"] >= 1
    backends = {backend["name"]: backend for backend in document["backends"]}
    assert backends["openvino"]["works"] and "fp32" in backends["openvino"]["precisions"]
    for backend in backends.values():
        assert backend["works"] or "pip install" in backend["problem"]


def test_a_machine_without_a_runtime(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Backend) -> tuple[str, ...]:
        raise BackendUnavailableError(f"backend '{self.name}' cannot be loaded; install it with `{self.install}`")

    monkeypatch.setattr(Backend, "usable_precisions", refuse)
    result = invoke("doctor")
    assert result.exit_code == 3
    assert "upscale: does not work" in result.stdout
    assert "pip install openvino" in result.stdout
    assert result.stderr.startswith("error: no inference runtime works here")
    assert json.loads(invoke("doctor", "--json").stdout)["upscale"] is False


def test_a_missing_package(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("tqdm", "torch") else version(name))
    monkeypatch.setattr(doctor, "_absent", lambda _: True)
    result = invoke("doctor")
    assert result.exit_code == 3
    assert 'export: not here; install it with `pip install "sr-deploy[export]"`' in result.stdout
    assert result.stderr == "error: tqdm not installed; install it with `pip install sr-deploy`\n"


def test_another_build_of_a_package_counts(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name.startswith("opencv") else version(name))
    assert invoke("doctor").exit_code == 0
