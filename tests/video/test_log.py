"""What FFmpeg logs is heard while that is asked for, and not printed before or afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import av.logging
import pytest

from sr_deploy.video.log import heard


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = av.logging.get_level()
    yield
    av.logging.set_level(before)


@pytest.mark.parametrize("before", [None, av.logging.FATAL, av.logging.INFO])
def test_messages_are_heard_and_the_level_is_as_before(before: int | None, capfd: pytest.CaptureFixture[str]) -> None:
    av.logging.set_level(before)
    for number in range(2):
        with heard(av.logging.WARNING) as messages:
            av.logging.log(av.logging.WARNING, "demuxer", f"message {number}")
            av.logging.log(av.logging.INFO, "demuxer", "of no interest")
        assert messages == [(av.logging.WARNING, "demuxer", f"message {number}")]
    assert av.logging.get_level() == before or before is None
    if before is None:
        av.logging.log(av.logging.FATAL, "demuxer", "nobody hears this")
    assert capfd.readouterr() == ("", "")


def test_a_thread_that_logs_when_hearing_ends_finds_a_level() -> None:
    """PyAV compares with it in the thread of a decoder, and prints a traceback where it is None."""
    av.logging.set_level(None)
    with heard(av.logging.ERROR):
        pass
    assert av.logging.get_level() is not None
