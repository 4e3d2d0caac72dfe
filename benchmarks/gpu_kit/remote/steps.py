"""What the scripts of the kit share: steps in processes of their own, results written as they come, a short table last.

A script registers steps, generators of rows (dicts). `main` runs each step as a process with a time limit, so that one that
crashes, hangs or breaks the GPU's context takes nothing else along. After every row $OUT/NAME.json and $OUT/NAME.md are whole.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
MARK = "@@row "
HERE = Path(__file__).resolve().parent
ROOT = Path(os.environ.get("KIT_TREE") or HERE.parents[1])
STORE = Path(os.environ.get("KIT_STORE", "/tmp/gpukit"))
OUT = Path(os.environ.get("OUT", "gpukit-out"))
STEPS: dict[str, tuple[float, Callable[[argparse.Namespace], Iterator[Row]]]] = {}

PATIENCE = 4
"""How many times its limit a step may take in a try on the CPU."""

for place in (ROOT / "benchmarks", ROOT):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))


def step(seconds: float, name: str = "") -> Callable[[Callable[..., Iterator[Row]]], Callable[..., Iterator[Row]]]:
    """Register a step with its limit in seconds."""

    def register(function: Callable[..., Iterator[Row]]) -> Callable[..., Iterator[Row]]:
        STEPS[name or function.__name__] = (seconds, function)
        return function

    return register


def main(title: str, extend: Callable[[argparse.ArgumentParser], None] | None = None) -> None:
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument(
        "--device", default="cuda:0", choices=["cuda:0", "cpu"], help="cpu is a try; its figures are worth nothing"
    )
    parser.add_argument("--size", default="", help="WIDTHxHEIGHT of frames, by default 960x540 (64x48 on the CPU)")
    parser.add_argument("--minutes", type=float, default=5.0, help="for all steps together")
    parser.add_argument("--only", default="", help="steps, separated by commas")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.set_defaults(needs_stand_in=False)
    if extend:
        extend(parser)
    options = parser.parse_args()
    options.on_gpu = options.device != "cpu"
    options.size = tuple(int(side) for side in (options.size or ("960x540" if options.on_gpu else "64x48")).split("x"))
    if options.step:
        _run_step(options)
    else:
        _run_all(title, options)


def _run_step(options: argparse.Namespace) -> None:
    """In the process of the step: its rows go to stdout, one a line."""
    try:
        with stand_in(options):
            for row in STEPS[options.step][1](options):
                print(MARK + json.dumps(row, default=str), flush=True)
    except Exception as error:
        print(MARK + json.dumps({"failed": one_line(error)}), flush=True)
        traceback.print_exc()
        os._exit(3)
    os._exit(0)  # no library's teardown can turn a good step into a bad one


def _run_all(title: str, options: argparse.Namespace) -> None:
    name = Path(sys.argv[0]).stem
    OUT.mkdir(parents=True, exist_ok=True)
    wanted = [one for one in options.only.split(",") if one] or list(STEPS)
    report: Row = {
        "title": title,
        "command": " ".join([f"{name}.py", *sys.argv[1:]]),
        "device": options.device,
        "size": list(options.size),
        "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "steps": [],
    }
    end = time.monotonic() + options.minutes * 60
    for index, one in enumerate(wanted):
        limit = min(STEPS[one][0] * (1 if options.on_gpu else PATIENCE), end - time.monotonic())
        entry: Row = {"step": one, "status": "running", "seconds": 0.0, "limit": round(limit, 1), "rows": []}
        report["steps"].append(entry)
        if limit < 3:
            entry["status"] = "skipped: no time left"
        else:
            _watch(name, one, limit, entry, report)
        _write(name, report)
        print(f"[{name} {index + 1}/{len(wanted)}] {one}: {entry['status']} in {entry['seconds']} s", flush=True)
    print("\n" + _markdown(report), flush=True)


def _watch(name: str, one: str, limit: float, entry: Row, report: Row) -> None:
    """Run one step and write down its rows as they come."""
    command = [sys.executable, "-u", str(Path(sys.argv[0]).resolve()), *sys.argv[1:], "--step", one]
    log = OUT / f"{name}.log"
    started, late = time.monotonic(), threading.Event()
    with log.open("a") as errors:
        errors.write(f"== {one}\n")
        errors.flush()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)

        def end() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(limit, end)
        timer.start()
        assert process.stdout
        for line in process.stdout:
            if line.startswith(MARK):
                entry["rows"].append(json.loads(line[len(MARK) :]))
                entry["seconds"] = round(time.monotonic() - started, 1)
                _write(name, report)
            else:
                errors.write(line)
        code = process.wait()
        timer.cancel()
    entry["seconds"] = round(time.monotonic() - started, 1)
    failed = any("failed" in row for row in entry["rows"])
    if late.is_set():
        entry["status"] = f"**out of time** after {limit:.0f} s"
    elif code:
        entry["status"] = "**failed**" if failed else f"**ended with code {code}**"
        entry["log"] = log.read_text(errors="replace").splitlines()[-12:]
    else:
        entry["status"] = "done, with failures" if failed else "done"


def _write(name: str, report: Row) -> None:
    for suffix, text in ((".json", json.dumps(report, indent=1, default=str)), (".md", _markdown(report))):
        part = OUT / f"{name}{suffix}.part"
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(OUT / f"{name}{suffix}")


def _markdown(report: Row) -> str:
    lines = [
        f"# {report['title']}",
        "",
        f"`{report['command']}`, {report['started']}, frames {'x'.join(map(str, report['size']))}",
        "",
    ]
    if report["device"] == "cpu":
        lines += ["**Not a GPU: a try on the CPU, no figure here is worth anything.**", ""]
    for entry in report["steps"]:
        lines += [f"## {entry['step']}: {entry['status']}, {entry['seconds']} s", ""]
        columns = list(dict.fromkeys(key for row in entry["rows"] for key in row))
        if columns:
            lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
            lines += ["| " + " | ".join(_cell(row.get(key, "")) for key in columns) + " |" for row in entry["rows"]]
            lines.append("")
        lines += [f"    {line[:200]}" for line in entry.get("log", [])[-1:]]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        value = f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return " ".join(str(value).replace("|", "/").split())[:240]


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:600]


@contextlib.contextmanager
def guarded(rows: list[Row], **labels: Any) -> Iterator[None]:
    """What fails inside the block becomes a row."""
    try:
        yield
    except Exception as error:
        rows.append({**labels, "failed": one_line(error)})


def drained(rows: list[Row]) -> Iterator[Row]:
    while rows:
        yield rows.pop(0)


def drop(large: Any) -> None:
    del large


@contextlib.contextmanager
def stand_in(options: argparse.Namespace) -> Iterator[None]:
    """With --device cpu, where sr_deploy is used: ONNX Runtime and Warp on the CPU in the place of the GPU's."""
    if options.on_gpu or not options.needs_stand_in:
        yield
        return
    from gpu_session import stand_in as inside

    with inside():
        yield


def frame(height: int, width: int) -> Any:
    """(H,W,3) uint8: a picture of the tree."""
    import cv2

    image: Any = cv2.imread(str(ROOT / "docs" / "comparison.png"))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)[..., ::-1].copy()


def difference(found: Any, wanted: Any) -> Row:
    """How two 8-bit images differ."""
    import numpy as np

    error = np.abs(found.astype(np.int16) - wanted.astype(np.int16))
    mse = float((error.astype(np.float64) ** 2).mean())
    return {
        "equal": bool((error == 0).all()),
        "bytes differing": f"{int((error > 0).sum())} of {error.size}",
        "max LSB": int(error.max()),
        "PSNR dB": round(10 * float(np.log10(255**2 / mse)), 2) if mse else "inf",
    }


def bundle(name: str) -> Any:
    """From the store, or of those in the package."""
    from sr_deploy import open_bundle

    own = STORE / "bundles" / name
    return open_bundle(own if own.exists() else ROOT / "sr_deploy" / "models" / name)


def gpu_backends(options: argparse.Namespace, wanted: str = "") -> list[str]:
    """Backends that use the GPU here, best first; the stand-in on the CPU."""
    from sr_deploy import engines

    if not options.on_gpu:
        return ["stand-in"]
    problems = {
        one.name: one.problem() for one in engines.BACKENDS if one.device == "cuda" and one.name in (wanted or one.name)
    }
    if usable := [name for name, problem in problems.items() if not problem]:
        return usable
    raise RuntimeError("; ".join(f"{name}: {problem[:180]}" for name, problem in reversed(problems.items())))


def milliseconds(run: Callable[[], object], wait: Callable[[], object], *, seconds: float = 0.5, warm: int = 3) -> float:
    """Median over groups of calls that are put on a stream one after the other and then waited for; once each in a try."""
    groups = 7
    if "cpu" in sys.argv:
        groups = warm = 1
        seconds = 0.0
    for _ in range(warm):
        run()
    wait()
    started = time.perf_counter()
    run()
    wait()
    once = max(time.perf_counter() - started, 1e-6)
    count, times = max(1, int(seconds / groups / once)), []
    for _ in range(groups):
        started = time.perf_counter()
        for _ in range(count):
            run()
        wait()
        times.append((time.perf_counter() - started) / count * 1e3)
    return statistics.median(times)
