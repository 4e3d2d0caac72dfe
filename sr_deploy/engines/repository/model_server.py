"""`config.json`: what OpenVINO Model Server wants to know of all networks."""

from __future__ import annotations

import json
from collections.abc import Iterable

from sr_deploy.engines.repository.network import RepositoryNetwork

CONFIG_FILE = "config.json"


def config_of(networks: Iterable[RepositoryNetwork], *, instances: int) -> str:
    """The text; paths are relative to the file. Sizes and batches that may vary are in the graphs.

    Everything is computed in fp32: left alone, OpenVINO takes bf16 where a CPU has it, and the first convolution would read
    pixels with 8 bits of mantissa.
    """
    plugin = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": str(instances)}
    entries = [
        {"config": {"name": network.name, "base_path": network.name, "nireq": instances, "plugin_config": plugin}}
        for network in networks
    ]
    return json.dumps({"model_config_list": entries}, indent=1, ensure_ascii=False) + "\n"
