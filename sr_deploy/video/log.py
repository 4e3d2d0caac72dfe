"""What FFmpeg says beside its results."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import av.logging
from av.container import InputContainer

Message = tuple[int, str, str]
"""Level, who says it, and the text."""

_ONE_AT_A_TIME = threading.RLock()
"""The level is one for all threads: who restores it must not take it from another."""

_SILENT = -9
"""A level that no message has. A decoder's thread that is about to log when PyAV's own, None, is set fails at it."""


@contextmanager
def heard(level: int) -> Iterator[list[Message]]:
    """What this thread's calls log from that level on, as it comes."""
    with _ONE_AT_A_TIME:
        before, skips = av.logging.get_level(), av.logging.get_skip_repeated()
        av.logging.set_level(level)
        av.logging.set_skip_repeated(False)
        try:
            with av.logging.Capture() as messages:
                # PyAV still holds a message that was repeated before.
                av.logging.log(level, "", "")
                messages.clear()
                yield messages
        finally:
            if before in (None, _SILENT):
                _silence()
            else:
                av.logging.set_level(before)
            av.logging.set_skip_repeated(skips)


def complaints_of(container: InputContainer, messages: list[Message]) -> list[str]:
    """What its demuxer says."""
    return [text.strip() for _, name, text in messages if name == container.format.name]


def _silence() -> None:
    """As PyAV is by default: nothing is logged, and no thread of FFmpeg waits for Python to log it."""
    av.logging.set_level(_SILENT)
    av.logging.set_libav_level(av.logging.PANIC - 1)
    av.logging.restore_default_callback()
