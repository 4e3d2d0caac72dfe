"""A network as another server has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sr_deploy.card import ModelCard, Precision
from sr_deploy.engines.engine import TensorSpec
from sr_deploy.engines.tensorrt.cache import EngineRecord

ServerName = Literal["triton", "openvino"]
GraphForm = Literal["pixels", "float"]
"""Of a graph: bytes (N,H,W,C) in and out with their health, or floats (N,C,H,W) in [0,1]."""

VERSION = "1"
"""The folder of a network's file; both servers run the highest number."""


@dataclass(frozen=True)
class RepositoryNetwork:
    """One network of a repository.

    name: what clients call it.
    file: name of the file that the server loads, with these `contents`.
    inputs, outputs: of that file; -1 where a size may vary.
    most: images at once, where their number may vary; 0 where it may not.
    plan: what TensorRT built the file as; None for a graph.
    """

    name: str
    card: ModelCard
    precision: Precision
    file: str
    contents: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    most: int
    plan: EngineRecord | None = None
