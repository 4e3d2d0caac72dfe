"""Run the calls that prepare.py planned, one after the other, on this machine's CPU: as they will run, in trees of their own.

python benchmarks/gpu_kit/dry_run.py --python VENV/bin/python3 [--folder .gpu/dry] [--only 1,3]

The interpreter must be of the version that prepare.py was told, with torch, onnx, numpy and OpenCV, and nothing of the project.
Each call gets a fresh copy of the tree with what it carries, as a transfer makes it; what it unpacks stays in FOLDER/store, and
its results in FOLDER/out. No figure that comes out is one of a GPU.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from calls import Call, read_calls
from pieces import tree_files

ROOT = Path(__file__).resolve().parents[2]
CLANG = "warp/bin/warp-clang.so"
"""Warp compiles kernels for CPUs with it; it does not travel, since GPUs do without."""

FAILURES = re.compile(r"^.*(?:\*\*(?:failed|ended|time is up|out of time)|\| failed \|).*$", re.M)
"""Lines of a report that tell of what did not run."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", type=Path, required=True, help="the interpreter that stands for the other machine's")
    parser.add_argument("--folder", type=Path, default=ROOT / ".gpu" / "dry", help="emptied first, unless --only is given")
    parser.add_argument("--cache", type=Path, default=ROOT / ".gpu" / "cache", help="that of prepare.py")
    parser.add_argument("--only", default="", help="numbers of calls")
    options = parser.parse_args(arguments)
    calls = read_calls(ROOT / ".gpu" / "calls.json")
    chosen = [int(one) for one in options.only.split(",") if one] or list(range(1, len(calls) + 1))
    folder: Path = options.folder.resolve()
    if not options.only:
        shutil.rmtree(folder, ignore_errors=True)
    put_clang(options.cache, folder / "store")
    rows = ["| call | MiB | s | ended with | told as failed |", "|---|---|---|---|---|"]
    failed = False
    for number in chosen:
        call = calls[number - 1]
        log = folder / f"{number}.log"
        seconds, code = run_call(call, folder, options.python.absolute(), log)
        bad = len(FAILURES.findall(log.read_text(encoding="utf-8", errors="replace")))
        failed = failed or bool(code)
        rows.append(f"| {call.title} | {call.mib:.2f} | {seconds:.0f} | {code} | {bad} |")
        print(rows[-1], flush=True)
    print("\n" + "\n".join(rows))
    sys.exit(int(failed))


def run_call(call: Call, folder: Path, python: Path, log: Path) -> tuple[float, int]:
    """Seconds and exit status of the call, in a fresh tree; what it says goes to the log."""
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    send(call, tree)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PATH": f"{python.parent}:{environment['PATH']}", "KIT_DEVICE": "cpu"}
    environment |= {"KIT_STORE": str(folder / "store"), "OUT": str(folder / "out")}
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        command = ["bash", "-c", call.command]
        done = subprocess.run(command, cwd=tree, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    return time.monotonic() - started, done.returncode


def send(call: Call, tree: Path) -> None:
    """A copy of the tree and of what the call carries."""
    carried = {path for name in call.carry for path in (ROOT / name).rglob("*") if path.is_file()}
    for path in tree_files(ROOT) | carried:
        target = tree / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)


def put_clang(cache: Path, store: Path) -> None:
    for wheel in cache.glob("wheels-*/warp_lang-*.whl"):
        with zipfile.ZipFile(wheel) as contents:
            contents.extract(CLANG, store / "site")
        return


if __name__ == "__main__":
    main()
