"""What `sr-deploy serve` costs and stands, over loopback on this machine.

    python benchmarks/serve.py [--parts encoders,overhead,load,leaks,signals,hostile] [--requests 300] [--hostile 2000]

encoders: milliseconds and bytes of each format, for a result of 512x512. overhead: processor milliseconds of a request
from bytes to bytes, 256x256 by fast-x2, and what of them is not decoding, upscaling and encoding, by the process's own clock
around these; beside it the same work in a process without a server, and a service whose work is left out, in turns. load: so
many clients at once, each asking again as soon as it is answered. leaks: memory and open files over 3,000 requests. signals:
SIGTERM under load, and a job whose process is killed. hostile: requests of `fuzz/hostile.py`; statuses, tracebacks, files
outside of the spool. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import cv2
import numpy as np
from numpy.typing import NDArray

from sr_deploy import Upscaler, decode_image, encode_image, read_image
from sr_deploy.upscaling.image_upscaler import Stats

MODEL = "fast-x2"
PROGRAM = "from sr_deploy.cli import main; main()"
CLIENTS = (1, 8, 32, 128)
LEAK_REQUESTS = 3000
TOKEN = "token-of-the-benchmark"
ROUNDS = 3
_AT_ONCE = 0.3
PHOTO = Path(__file__).parents[1] / "docs" / "demo.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parts", default="encoders,overhead,load,leaks,signals,hostile")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--hostile", type=int, default=2000)
    chosen = parser.parse_args()
    print("| | value |\n|---|---|", flush=True)
    parts: dict[str, Callable[[Path], None]] = {
        "encoders": lambda _: encoders(),
        "overhead": lambda folder: overhead(folder, chosen.requests),
        "load": lambda folder: load(folder, chosen.requests),
        "leaks": leaks,
        "signals": signals,
        "hostile": lambda folder: hostile(folder, chosen.hostile),
    }
    for part in chosen.parts.split(","):
        with tempfile.TemporaryDirectory() as folder:
            parts[part](Path(folder))


def row(what: str, value: str) -> None:
    print(f"| {what} | {value} |", flush=True)


def photo(side: int) -> NDArray[np.uint8]:
    """A square of the demo picture."""
    pixels = read_image(PHOTO).pixels
    return np.ascontiguousarray(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA))


@dataclass
class Service:
    """A service in a process of its own. told: the file of its stderr."""

    process: subprocess.Popen[bytes]
    address: str
    told: Path
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, int]:
        parts = urlsplit(self.address)
        return parts.hostname or "", parts.port or 0

    def ask(self, path: str, body: bytes | None = None, method: str | None = None) -> bytes:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with urlopen(Request(self.address + path, body, headers, method=method), timeout=120) as answer:
            data: bytes = answer.read()
        return data

    @property
    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def megabytes(self) -> float:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0

    @property
    def files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def end(self, number: int) -> float:
        """Seconds until it is gone."""
        began = time.perf_counter()
        self.process.send_signal(number)
        self.process.wait(60)
        return time.perf_counter() - began


@contextmanager
def serving(folder: Path, *options: str, program: str = PROGRAM) -> Iterator[Service]:
    told, home = folder / "stderr.txt", folder / "home"
    command = [sys.executable, "-c", program, "serve", "-m", MODEL, "--port", "0", "--spool", str(folder / "spool"), *options]
    home.mkdir(exist_ok=True)
    with told.open("ab") as errors:
        environment = os.environ | {"HOME": str(home), "SR_DEPLOY_TOKEN": TOKEN}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, cwd=home)
    assert process.stdout is not None
    service = Service(process, process.stdout.readline().decode().strip(), told)
    try:
        service.ask("/ready")
        yield service
    finally:
        process.kill()
        process.wait()


def encoders() -> None:
    """Of what a request ends with."""
    with Upscaler(MODEL) as upscaler:
        large = upscaler(photo(256))
    for name, quality in (
        ("png", None),
        ("webp", None),
        ("webp", 80),
        ("jpeg", None),
        ("tiff", None),
        ("avif", None),
        ("bmp", None),
    ):
        times = []
        for _ in range(20):
            began = time.process_time()
            data = encode_image(large, name, quality=quality)
            times.append(1000 * (time.process_time() - began))
        row(
            f"encoding 512x512 as {name}{f', quality {quality}' if quality else ''}",
            f"{statistics.median(times):.1f} ms, {len(data) // 1000} kB",
        )


def alone(count: int) -> None:
    """In a process without a server: the same work, on a thread as there; prints processor milliseconds for one."""
    data = encode_image(photo(256), "png")
    with Upscaler(MODEL) as upscaler, ThreadPoolExecutor(1) as pool:

        def work() -> bytes:
            return encode_image(upscaler.upscale_picture(decode_image(data)), "png")

        for _ in range(20):
            pool.submit(work).result()
        began = time.process_time()
        for _ in range(count):
            pool.submit(work).result()
        print(1000 * (time.process_time() - began) / count)


def idle() -> None:
    """A service that gives every client the first result again: what is left is what serving costs."""
    from sr_deploy.cli import main
    from sr_deploy.serve import pictures

    pictures.upscale_bytes = lambda *_: results[0]
    with Upscaler(MODEL) as upscaler:
        data = encode_image(upscaler(photo(256)), "png")
    results = [pictures.UpscaledBytes("none", data, "png", 1 << 16, 0.1, Stats(1))]
    main()


def watched(file: str) -> None:
    """A service that writes down how much processor time its work took."""
    from sr_deploy.cli import main
    from sr_deploy.serve import pictures

    upscale_bytes, spent = pictures.upscale_bytes, 0.0
    told = os.open(file, os.O_WRONLY)

    def work(*given: Any) -> pictures.UpscaledBytes:
        nonlocal spent
        began = time.process_time()
        result = upscale_bytes(*given)
        spent += time.process_time() - began
        os.pwrite(told, f"{spent:.6f}".encode(), 0)
        return result

    pictures.upscale_bytes = work  # type: ignore[assignment]
    main()


def overhead(folder: Path, count: int) -> None:
    data = encode_image(photo(256), "png")
    here = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import serve; serve."
    found: dict[str, list[float]] = {"with": [], "beyond": [], "without": [], "idle": []}
    spent = folder / "spent"

    def measured(name: str, program: str, count: int) -> float:
        """Also of the work itself."""
        spent.write_text("0")
        with serving(folder, program=program) as service:
            asyncio.run(ask_often(service, data, 1, 20))
            began, inside = service.processor_seconds, float(spent.read_text())
            asyncio.run(ask_often(service, data, 1, count))
            found[name].append(1000 * (service.processor_seconds - began) / count)
            return 1000 * (float(spent.read_text()) - inside) / count

    for _ in range(ROUNDS):
        measured("idle", f"{here}idle()", 10 * count)
        alone_said = subprocess.run([sys.executable, "-c", f"{here}alone({count})"], capture_output=True, check=True).stdout
        found["without"].append(float(alone_said))
        inside = measured("with", f"{here}watched({str(spent)!r})", count)
        found["beyond"].append(found["with"][-1] - inside)
    row("processor ms of a request, 256x256 PNG to 512x512 PNG", ", ".join(f"{one:.2f}" for one in found["with"]))
    row("of them beyond decoding, upscaling and encoding", ", ".join(f"{one:.2f}" for one in found["beyond"]))
    row("the same work in a process without a server", ", ".join(f"{one:.2f}" for one in found["without"]))
    row("a request whose work is left out", ", ".join(f"{one:.2f}" for one in found["idle"]))


@dataclass
class Load:
    """What clients saw. statuses: 0 stands for a connection that was refused, or closed at once.

    cut: those that were closed in the middle of an answer, or after the request had been waiting for one.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    cut: int = 0

    @property
    def text(self) -> str:
        served = sorted(self.seconds) or [0.0]
        p50, p99 = served[len(served) // 2], served[min(len(served) - 1, len(served) * 99 // 100)]
        counts = ", ".join(f"{count} of {status}" for status, count in sorted(self.statuses.items()))
        return f"{counts}; p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms"


async def ask_often(service: Service, data: bytes, clients: int, count: int, *, until_gone: bool = False) -> Load:
    """`count` requests by so many clients, over connections that are kept; refused ones are asked again after a moment."""
    seen, left = Load(), iter(range(count))
    head = (
        f"POST /v1/upscale HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    )

    async def client() -> None:
        line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for _ in left:
            began, begun = time.perf_counter(), False
            try:
                reader, writer = line or await asyncio.open_connection(*service.place)
                line = reader, writer
                writer.write(head + data)
                await writer.drain()
                answer = await reader.readuntil(b"\r\n\r\n")
                begun = True
                status = int(answer[9:12])
                size = re.search(rb"content-length: (\d+)", answer, re.I)
                await reader.readexactly(int(size[1]) if size else 0)
                if b"connection: close" in answer.lower():
                    writer.close()
                    line = None
            except (OSError, asyncio.IncompleteReadError):
                line, status = None, 0
                seen.cut += begun or time.perf_counter() - began > _AT_ONCE
            seen.statuses[status] += 1
            if status == 200:
                seen.seconds.append(time.perf_counter() - began)
            elif until_gone and status == 0:
                break
            else:
                await asyncio.sleep(0.02)
        if line:
            line[1].close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return seen


def load(folder: Path, count: int) -> None:
    data = encode_image(photo(256), "png")
    for clients in CLIENTS:
        with serving(folder) as service:
            asyncio.run(ask_often(service, data, 1, 20))
            began = time.perf_counter()
            seen = asyncio.run(ask_often(service, data, clients, max(count, 4 * clients)))
            speed = seen.statuses[200] / (time.perf_counter() - began)
            row(f"{clients} clients", f"{seen.text}; {speed:.1f} pictures a second, {service.megabytes:.0f} MB")


def leaks(folder: Path) -> None:
    data = encode_image(photo(128), "png")
    with serving(folder) as service:
        asyncio.run(ask_often(service, data, 8, 300))
        time.sleep(1)
        marks = [(service.megabytes, service.files)]
        for _ in range(3):
            seen = asyncio.run(ask_often(service, data, 8, LEAK_REQUESTS // 3))
            time.sleep(1)
            marks.append((service.megabytes, service.files))
            assert seen.statuses.keys() <= {200, 503}, seen.text
    row("MB after 300, 1300, 2300, 3300 requests", ", ".join(f"{size:.0f}" for size, _ in marks))
    row("open files", ", ".join(f"{files}" for _, files in marks))


def signals(folder: Path) -> None:
    data = encode_image(photo(256), "png")
    with serving(folder, "--queue", "8") as service, ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(lambda: asyncio.run(ask_often(service, data, 32, 100_000, until_gone=True)))
        time.sleep(3)
        seconds = service.end(signal.SIGTERM)
        seen = under_way.result()
        row("SIGTERM under the load of 32 clients", f"exit {service.process.returncode} after {seconds:.1f} s; {seen.text}")
        row("requests that were taken and not answered", str(seen.cut))
        row("lines on stderr", str(len(service.told.read_text().splitlines())))
    film = folder / "film.mkv"
    source = ("-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25", "-frames:v", "1000")
    subprocess.run(["ffmpeg", "-v", "error", "-y", *source, "-c:v", "libx264", "-pix_fmt", "yuv420p", str(film)], check=True)
    with serving(folder) as service:
        job = json.loads(service.ask("/v1/jobs", film.read_bytes()))["id"]
        while (facts := json.loads(service.ask(f"/v1/jobs/{job}")))["done"] < 500:
            time.sleep(0.05)
        service.end(signal.SIGKILL)
    with serving(folder) as service:
        first = None
        while (facts := json.loads(service.ask(f"/v1/jobs/{job}")))["state"] in ("queued", "running"):
            progress = json.loads((folder / "spool" / job / "progress.json").read_bytes())
            first = progress["resumed"] or first
            time.sleep(0.05)
        row(
            "killed in the middle of a job of 1000 frames",
            f"{facts['state']}, {facts['done']} frames, {first} of them kept {facts['error'] or ''}",
        )


def hostile(folder: Path, count: int) -> None:
    sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
    from hostile import answer_to, request

    outside = {path for path in folder.rglob("*") if "spool" not in path.parts}
    statuses: dict[str, Counter[int | None]] = {}
    with serving(folder, "--max-pixels", "1", "--max-bytes", "1", "--max-job", "2", "--timeout", "20") as service:
        before = service.files
        with ThreadPoolExecutor(4) as pool:
            requests = [request(seed, TOKEN) for seed in range(count)]
            for one, status in zip(requests, pool.map(lambda one: answer_to(one, *service.place), requests), strict=True):
                statuses.setdefault(one.kind, Counter())[status] += 1
        alive = service.ask("/live")
        time.sleep(3)
        files, told = service.files, service.told.read_text()
        service.end(signal.SIGTERM)
    new = {path for path in folder.rglob("*") if "spool" not in path.parts} - outside
    new -= {folder / "home", folder / "stderr.txt"}
    for kind, seen in sorted(statuses.items()):
        row(
            f"hostile, {kind}",
            ", ".join(f"{number} of {status or 'no answer'}" for status, number in sorted(seen.items(), key=str)),
        )
    row(
        "alive; tracebacks; 500; files open before, after",
        f"{alive!r}; {told.count('Traceback')}; {sum(seen[500] for seen in statuses.values())}; {before}, {files}",
    )
    row("files outside of the spool", ", ".join(str(path.relative_to(folder)) for path in sorted(new)) or "none")
    if told:
        print(told[-3000:], file=sys.stderr)


if __name__ == "__main__":
    main()
