from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest
from click.testing import Result

Invoke = Callable[..., Result]


def test_every_network_is_listed(invoke: Invoke) -> None:
    from sr_deploy.architectures import REGISTRY

    result = invoke("architectures")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()[2:]] == [entry.name for entry in REGISTRY]
    document = json.loads(invoke("architectures", "--json").stdout)["architectures"]
    assert [entry["architecture"] for entry in document] == [entry.name for entry in REGISTRY]
    assert all(entry["paper"] and (entry["recognized_by"]["all"] or entry["recognized_by"]["any"]) for entry in document)


def test_without_torch(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith("sr_deploy.architectures"):
            monkeypatch.delitem(sys.modules, name)

    class NoTorch:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            del path, target
            if name == "torch":
                raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoTorch(), *sys.meta_path])
    result = invoke("architectures")
    assert result.exit_code == 3
    assert result.stderr == (
        'error: this command needs torch, which is not installed here; install it with `pip install "sr-deploy[export]"`\n'
    )
