"""Fixtures for tests of video."""

from __future__ import annotations

import pytest

from tests.video.clips import Clips


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """Tiny clips by name, each made when it is first asked for."""
    return Clips(tmp_path_factory.mktemp("clips"))
