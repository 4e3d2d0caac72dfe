"""What messages are made of."""

from __future__ import annotations

import logging

import pytest

from sr_deploy.errors import first_line, warn_once


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one  \n"), "one"),
        (ValueError(" \n"), "ValueError"),
        (KeyError(), "KeyError"),
    ],
)
def test_the_first_line_of_a_foreign_error(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_a_warning_is_given_once(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("test_errors")
    for message in ("100 %s", "100 %s", "another"):
        warn_once(log, message)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("test_errors", "100 %s"),
        ("test_errors", "another"),
    ]
