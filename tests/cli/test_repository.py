from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.graphs import masked_bundle

Invoke = Callable[..., Result]


@pytest.mark.parametrize(("server", "config"), [("triton", "double/config.pbtxt"), ("openvino", "config.json")])
def test_the_folder_is_printed_and_holds_all(invoke: Invoke, bundle: Path, server: str, config: str) -> None:
    result = invoke("repository", bundle, "fast-x2", "-o", "served", "--for", server)
    assert (result.exit_code, result.stdout) == (0, "served\n"), result.stderr
    wanted = {"README.md", "client.py", config, "double/1/model.onnx", "fast-x2/1/model.onnx"}
    assert wanted <= {path.relative_to("served").as_posix() for path in Path("served").rglob("*") if path.is_file()}


def test_what_does_not_go_together_is_refused_before_anything_is_written(invoke: Invoke, bundle: Path) -> None:
    Path("masked").mkdir()
    masked_bundle(Path("masked"))
    for arguments, words in (
        ((bundle, "--for", "openvino", "--batch", "4"), "--batch: for Triton alone"),
        ((bundle, "--for", "openvino", "-g", "0"), "--gpu: for Triton alone"),
        ((bundle, "--for", "triton", "--engines", "gone"), "gone: no such folder"),
        (("masked", "--for", "triton"), "a mask-guided network"),
        ((bundle, bundle, "--for", "triton"), "double: the name of 2 bundles"),
        (("fasst", "--for", "triton"), "did you mean 'fast'"),
    ):
        result = invoke("repository", *arguments, "-o", "served")
        assert result.exit_code == 2 and words in result.stderr, result.stderr
    assert not Path("served").exists()
