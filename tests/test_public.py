"""What a user imports from `sr_deploy`."""

from __future__ import annotations

import subprocess
import sys

import sr_deploy

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None\n"


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_everything_public_is_shown_and_comes_with_a_star() -> None:
    assert set(sr_deploy.__all__) <= set(dir(sr_deploy))
    names = run_python("from sr_deploy import *\nprint(*dir())").split()
    assert set(sr_deploy.__all__) - {"__version__"} <= set(names)


def test_without_torch_all_of_it_comes_and_export_says_what_is_missing() -> None:
    call = "try:\n    export_bundle('no.pth')\nexcept MissingDependencyError as exc:\n    print(exc)"
    said = run_python(f"{WITHOUT_TORCH}from sr_deploy import *\n{call}")
    assert said == 'export needs torch; install it with `pip install "sr-deploy[export]"`'


def test_the_package_and_the_function_that_exports_have_names_of_their_own() -> None:
    call = "try:\n    export_bundle('no.pth')\nexcept CheckpointError as exc:\n    print(exc)"
    said = run_python(f"import sr_deploy.export.trace\nfrom sr_deploy import CheckpointError, export_bundle\n{call}")
    assert said == "no.pth: no such file; check the path"
