"""OpenVINO as it is used here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys, threading
import numpy as np
from sr_deploy import Upscaler
with Upscaler("fast-x2", backend="openvino") as upscale:
    upscale(np.zeros((8, 8, 3), np.uint8))
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
print([thread.name for thread in threading.enumerate() if thread is not threading.main_thread()])
"""


def test_nothing_is_told_to_its_maker_and_no_thread_of_that_outlives_us() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, check=True, text=True)
    assert done.stdout.splitlines() == ["[]", "[]"]


STOPPED = """
import os, signal, subprocess, sys
from sr_deploy.engines.openvino import _runtime
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
subprocess.Popen(["sh", "-c", f"sleep 0.2; kill -TERM {os.getpid()}"])
try:
    _runtime()
finally:
    print(hasattr(sys.modules.get("openvino"), "whole"))
"""


def test_a_stop_while_it_is_imported_comes_afterwards(tmp_path: Path) -> None:
    (tmp_path / "openvino.py").write_text("import time\ntime.sleep(1)\nwhole = True\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{STOPPED}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (143, "True\n", "")
