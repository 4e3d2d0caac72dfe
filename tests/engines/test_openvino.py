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


STOPPED = """
import signal, sys, threading, time
from sr_deploy.engines.openvino import _runtime
threading.Timer(0.02, signal.raise_signal, (signal.SIGTERM,)).start()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
try:
    _runtime()
    time.sleep(5)
finally:
    print("openvino" in sys.modules and sys.modules["openvino"].__name__)
"""


def test_a_stop_while_it_is_imported_comes_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (143, "openvino\n", "")
