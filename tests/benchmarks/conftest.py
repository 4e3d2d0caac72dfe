"""Benchmarks are scripts beside each other: they import one another by bare names."""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(FOLDER), str(FOLDER / "gpu_kit"), str(FOLDER / "fuzz")]
