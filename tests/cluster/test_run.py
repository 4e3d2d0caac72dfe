"""Addresses of clusters that are not there."""

from __future__ import annotations

import socket

import pytest

from sr_deploy.cluster.run import require_answer
from sr_deploy.errors import UsageError


@pytest.mark.parametrize("form", ["ray://{}:{}", "{}:{}"])
def test_a_head_that_does_not_answer_is_one_line(form: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        port = head.getsockname()[1]
        require_answer(form.format("127.0.0.1", port))
    with pytest.raises(UsageError, match=f"{port}: no cluster answers there") as told:
        require_answer(form.format("127.0.0.1", port))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("address", ["head", "ray://head", "ray://:10001", "http://head/x", ""])
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(UsageError, match=r"no address of a cluster; expected ray://HOST:PORT"):
        require_answer(address)


@pytest.mark.parametrize("address", [None, "auto", "local"])
def test_ray_finds_the_others_itself(address: str | None) -> None:
    require_answer(address)
