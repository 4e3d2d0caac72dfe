"""How long runs take on more machines than are here: a small simulation, fed with what `cluster.py` measured.

    python benchmarks/cluster_model.py [--frame 1.0] [--picture 0.5] [--start 5] [--segment 0.05] [--join 0.002] [--rate 200]

A film of two hours at 25 frames a second, and pictures by the million, on 1 to 1,000 workers. Pieces are handed out in their
order to whoever is free. A piece takes its frames times the seconds of one, spread log-normally by a quarter, as frames and
machines differ. All workers read and write one storage of so many megabytes a second. The join is one process.
"""

from __future__ import annotations

import argparse
import heapq
import random
from dataclasses import dataclass

FRAMES = 2 * 3600 * 25
WORKERS = (1, 10, 100, 1000)
LENGTHS = (12, 24, 60, 120, 240, 1000)
SPREAD = 0.25
FRAME_MEGABYTES = 0.25
"""Of the upscaled stream; a 4K film of 50 Mbit/s."""

PICTURE_MEGABYTES = 2.0


@dataclass(frozen=True)
class Costs:
    """Seconds. start: until a worker computes. piece: for each segment, beyond its frames. join: for each segment.

    rate: megabytes a second of the storage that all share.
    """

    start: float
    piece: float
    join: float
    rate: float


@dataclass(frozen=True)
class Run:
    """Seconds of each stage, and how long on average a worker has nothing to do while others finish."""

    computing: float
    join: float
    tail: float

    @property
    def whole(self) -> float:
        return self.computing + self.join


def film(frames: int, length: int, frame: float, workers: int, costs: Costs) -> Run:
    """A film in segments of `length` frames of `frame` seconds each."""
    chance = random.Random(0)
    count = -(-frames // length)
    free = [costs.start] * workers
    heapq.heapify(free)
    for number in range(count):
        work = min(length, frames - number * length) * frame * chance.lognormvariate(-(SPREAD**2) / 2, SPREAD)
        heapq.heapreplace(free, free[0] + work + costs.piece)
    written = frames * FRAME_MEGABYTES / costs.rate
    computing = max(max(free), written)
    tail = computing - sum(free) / workers
    # The join reads all segments and writes the film.
    return Run(computing, count * costs.join + 2 * written, tail)


def pictures(count: int, picture: float, workers: int, costs: Costs) -> float:
    """Hours of a folder; the storage may be what is waited for."""
    return max(costs.start + count * picture / workers, count * PICTURE_MEGABYTES / costs.rate) / 3600


def clock(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--frame", type=float, default=1.0, help="seconds of a frame on one worker")
    parser.add_argument("--picture", type=float, default=0.5, help="seconds of a picture on one worker")
    parser.add_argument("--start", type=float, default=5.0, help="seconds until a worker computes")
    parser.add_argument("--segment", type=float, default=0.05, help="seconds of a segment beyond its frames")
    parser.add_argument("--join", type=float, default=0.002, help="seconds of the join for a segment")
    parser.add_argument("--rate", type=float, default=200.0, help="megabytes a second of the storage")
    chosen = parser.parse_args()
    costs = Costs(chosen.start, chosen.segment, chosen.join, chosen.rate)
    print(f"A film of {FRAMES} frames, {chosen.frame} s each: computing + join, and the tail.\n")
    print(f"| frames a segment | {' | '.join(f'{workers} workers' for workers in WORKERS)} |")
    print(f"|---|{'---|' * len(WORKERS)}")
    for length in LENGTHS:
        runs = [film(FRAMES, length, chosen.frame, workers, costs) for workers in WORKERS]
        cells = [f"{clock(run.computing)} + {clock(run.join)}, {clock(run.tail)}" for run in runs]
        print(f"| {length} | {' | '.join(cells)} |")
    print(f"\nPictures, {chosen.picture} s each.\n\n| pictures | {' | '.join(f'{workers} workers' for workers in WORKERS)} |")
    print(f"|---|{'---|' * len(WORKERS)}")
    for count in (10**6, 10**9):
        cells = [f"{pictures(count, chosen.picture, workers, costs):,.1f} h" for workers in WORKERS]
        print(f"| {count:.0e} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
