"""Work on files from elsewhere in a process of its own: where it crashes or takes too long, it takes nothing with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sr_deploy.errors import first_line


def run_apart(module: str, *arguments: Path, seconds: int | None = None) -> str:
    """Run a module of ours with these arguments, and a file for its words as the last one.

    seconds: of computing, on all cores together; None is as many as it takes.

    Returns why it failed in one line, '' when it did not.
    """
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    if seconds is not None:
        environment[_SECONDS] = str(seconds)
    with tempfile.TemporaryDirectory(prefix="sr-deploy-") as folder:
        words = Path(folder, "words.txt")
        done = subprocess.run(
            [sys.executable, "-m", module, *(str(path.absolute()) for path in arguments), str(words)],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            return ""
        return words.read_text(encoding="utf-8") if words.exists() else _death(done.returncode)


def main(work: Callable[..., None]) -> None:
    """What a module does when it is run apart: `work` with its arguments; what that raises is told in one line."""
    *arguments, words = map(Path, sys.argv[1:])
    if (seconds := os.environ.get(_SECONDS)) and sys.platform != "win32":
        import resource

        limit = int(time.process_time()) + int(seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    try:
        work(*arguments)
    except Exception as exc:
        words.write_text(first_line(exc), encoding="utf-8")
        sys.exit(1)


_SECONDS = "SR_DEPLOY_SECONDS"


def _death(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return "it takes far too long" if name == "SIGXCPU" else f"it crashed its process ({name})"
