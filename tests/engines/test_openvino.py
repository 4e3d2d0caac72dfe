"""OpenVINO as it is used here."""

from __future__ import annotations

import subprocess
import sys

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
