"""What a user imports from `sr_deploy`."""

from __future__ import annotations

import subprocess
import sys


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_export_is_called_alike_before_and_after_its_package_is_loaded() -> None:
    call = "try:\n    export('no.pth')\nexcept CheckpointError as exc:\n    print(exc)"
    before = run_python(f"from sr_deploy import CheckpointError, export\n{call}")
    after = run_python(f"import sr_deploy.export.trace\nfrom sr_deploy import CheckpointError, export\n{call}")
    assert before == after == "no.pth: no such file; check the path"
