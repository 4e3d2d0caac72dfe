"""Check and measure everything on a machine with an NVIDIA GPU, and write a Markdown report.

python benchmarks/gpu.py BUNDLES... [--checkpoints FILES...] [-o report.md] [--minutes 8] [--only speed,tiles]

BUNDLES are bundles or folders of bundles. It runs with whatever runtimes are installed and says what is missing. Each part is a
process of its own with a share of the time, its start among it, so that a part that fails or hangs is a line of the report,
and each line is written as it comes. `--device cpu` runs the same code where there is no GPU, on NVIDIA Warp's CPU device and
on tiny frames; its figures are those of no GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import inspect
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gpu_checks
import gpu_masked
import gpu_speed
import gpu_video
from gpu_session import NOT_A_GPU, OutOfTimeError, Session, find_bundles, one_line, stand_in

TINY = (64, 48)
STARTUP = 8.0
"""Seconds of each share for imports and for opening engines, before the rest is shared out by weight."""

GRACE = 20.0
"""Seconds that a part may take beyond its share before it is ended."""


@dataclass(frozen=True)
class Part:
    """One section of the report, and its share of the time."""

    name: str
    title: str
    run: Callable[[Session], Iterator[str]]
    weight: float


PARTS = (
    Part("machine", "Machine", gpu_checks.machine, 1),
    Part("kernels", "Kernels against numpy", gpu_checks.kernels, 1),
    Part("arrays", "Device arrays against host arrays", gpu_checks.arrays, 2),
    Part("certificate", "Engines against the certificate", gpu_checks.certificate, 3),
    Part("rtx", "TensorRT for RTX on this GPU", gpu_checks.rtx, 2),
    Part("speed", "Speed and roofline", gpu_speed.speed, 8),
    Part("contenders", "Side by side", gpu_speed.contenders, 5),
    Part("masked", "Mask-guided networks", gpu_masked.masked, 5),
    Part("video", "Video", gpu_video.video, 2),
    Part("tiles", "Tiles, batches, frames in flight", gpu_speed.tiles, 8),
)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.part:
        for line in run_part(options):
            print(line, flush=True)
        return
    report = [f"# GPU report of {datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')}", ""]
    if options.device == "cpu":
        report += [f"**{NOT_A_GPU}: no figure here is one of a GPU.**", ""]
    report += [f"`python benchmarks/gpu.py {shlex.join(given(arguments))}`", ""]
    deadline = time.monotonic() + options.minutes * 60
    parts = [part for part in PARTS if not options.only or part.name in options.only]
    for index, part in enumerate(parts):
        share = share_of_first(parts[index:], deadline - time.monotonic())
        report += [f"## {part.title}", "", inspect.cleandoc(part.run.__doc__ or ""), ""]
        for line in in_own_process(part, share, arguments):
            report.append(line)
            write(report, options.output)
        report.append("")
    if options.output is None:
        print("\n".join(report))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundles", type=Path, nargs="+", help="bundles, or folders of bundles")
    parser.add_argument(
        "--checkpoints", type=Path, nargs="*", default=[], help="files, or folders of files, that they were made of"
    )
    parser.add_argument("-o", "--output", type=Path, help="the report; by default it is printed")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    parser.add_argument("--seconds", type=float, help="for one measurement; by default 1, and next to nothing on the CPU")
    parser.add_argument("--only", type=names, default=[], help=f"of {','.join(part.name for part in PARTS)}")
    parser.add_argument("--networks", type=names, default=[], help="names of bundles")
    parser.add_argument("--size", type=size, help="WIDTHxHEIGHT of frames, by default 960x540")
    parser.add_argument("--device", default="cuda:0", choices=["cuda:0", "cpu"], help="cpu is for a try without a GPU")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=[part.name for part in PARTS], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if unknown := set(options.only) - {part.name for part in PARTS}:
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    return options


def run_part(options: argparse.Namespace) -> Iterator[str]:
    """The lines of one part; what ends it early is the last of them."""
    part = next(part for part in PARTS if part.name == options.part)
    on_cpu = options.device == "cpu"
    with stand_in() if on_cpu else contextlib.nullcontext():
        try:
            session = Session(
                device_name=options.device,
                bundles=find_bundles(options.bundles, options.networks),
                checkpoints=find_files(options.checkpoints),
                size=options.size or (TINY if on_cpu else (960, 540)),
                seconds=options.seconds or (1e-3 if on_cpu else 1.0),
                deadline=time.monotonic() + (options.until - time.time() if options.until else options.minutes * 60),
            )
            yield from part.run(session)
        except OutOfTimeError as exc:
            yield f"\n**{exc}**"
        except Exception as exc:
            yield f"\n**failed**: {one_line(exc)}"


def share_of_first(parts: Sequence[Part], seconds: float) -> float:
    """Seconds of the first of the parts that are left, its start-up among them."""
    startup = min(STARTUP, seconds / len(parts))
    return startup + (seconds - startup * len(parts)) * parts[0].weight / sum(part.weight for part in parts)


def in_own_process(part: Part, seconds: float, arguments: list[str] | None) -> Iterator[str]:
    """The lines of one part as they come; a crash or a hang is told in them."""
    own = ["--part", part.name, "--until", str(time.time() + seconds)]
    command = [sys.executable, "-u", str(Path(__file__).resolve()), *given(arguments), *own]
    late = threading.Event()

    def end() -> None:
        late.set()
        _kill(process)

    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace", start_new_session=True
        )
        timer = threading.Timer(max(seconds, 0) + GRACE, end)
        timer.start()
        with process:
            yield from (line.rstrip("\n") for line in process.stdout or ())
        timer.cancel()
        errors.seek(0)
        last = (errors.read().splitlines() or ["it said nothing"])[-1]
    if late.is_set():
        yield from ["", "**ended: its time was up**"]
    elif process.returncode:
        yield from ["", f"**ended with code {process.returncode}**: {last[:300]}"]


def _kill(process: subprocess.Popen[str]) -> None:
    """The part, and what it started, which may hold its output open."""
    if sys.platform == "win32":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)


def given(arguments: list[str] | None) -> list[str]:
    return sys.argv[1:] if arguments is None else arguments


def write(report: list[str], path: Path | None) -> None:
    """The report so far, whole under its name, so that nothing is lost if the machine goes away."""
    if path is not None:
        part = path.with_name(f"{path.name}.part")
        part.write_text("\n".join(report) + "\n", encoding="utf-8")
        part.replace(path)


def find_files(paths: list[Path]) -> list[Path]:
    """Files, and those in folders."""
    return [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path]) if file.is_file()]


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def size(text: str) -> tuple[int, int]:
    width, height = (int(side) for side in text.lower().split("x"))
    return width, height


if __name__ == "__main__":
    main()
