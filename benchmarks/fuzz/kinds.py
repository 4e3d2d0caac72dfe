"""Kinds of input, by name."""

from __future__ import annotations

from cards import Cards
from cases import Kind
from checkpoints import Checkpoints
from graphs import Graphs
from pictures import Pictures
from videos import Videos

KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Pictures, Videos, Checkpoints, Cards, Graphs)}
