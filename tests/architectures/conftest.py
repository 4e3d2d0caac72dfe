"""One small config for every form of every network, and weights that leave nothing near zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from sr_deploy.architectures import REGISTRY, Architecture, Config
from sr_deploy.architectures.abpn import ABPNConfig
from sr_deploy.architectures.bsrn import BSRNConfig
from sr_deploy.architectures.bsrn_s import BSRNSConfig
from sr_deploy.architectures.compact import CompactConfig
from sr_deploy.architectures.disp import DISPConfig
from sr_deploy.architectures.dscf import DSCFConfig
from sr_deploy.architectures.ecbsr import ECBSRConfig
from sr_deploy.architectures.ecbsr_et import ECBSRETConfig
from sr_deploy.architectures.efdn import EFDNConfig
from sr_deploy.architectures.espan import ESPANConfig
from sr_deploy.architectures.espcn import ESPCNConfig
from sr_deploy.architectures.etds import ETDSConfig
from sr_deploy.architectures.fmen import FMENConfig
from sr_deploy.architectures.fsrcnn import FSRCNNConfig
from sr_deploy.architectures.imdn import IMDNConfig
from sr_deploy.architectures.mga import MGAConfig
from sr_deploy.architectures.msrn import MSRNConfig
from sr_deploy.architectures.pan import PANConfig
from sr_deploy.architectures.plain import PlainConfig
from sr_deploy.architectures.plainrfdn import PlainRFDNConfig
from sr_deploy.architectures.plainusr import PlainUSRConfig
from sr_deploy.architectures.plainusr_ultra import PlainUSRUltraConfig
from sr_deploy.architectures.reprfn import RepRFNConfig
from sr_deploy.architectures.reprlfn import RepRLFNConfig
from sr_deploy.architectures.rfdn import RFDNConfig
from sr_deploy.architectures.rlfn import RLFNConfig
from sr_deploy.architectures.rt4ksr import RT4KSRConfig
from sr_deploy.architectures.rvsr import RVSRConfig
from sr_deploy.architectures.safmnpp_light import SAFMNPPLightConfig
from sr_deploy.architectures.span import SPANConfig
from sr_deploy.architectures.spanf import SPANFConfig
from sr_deploy.architectures.spanv2 import SPANV2Config

CONFIGS: tuple[tuple[str, Config], ...] = (
    ("rfdn", RFDNConfig(scale=4, colors=3, channels=8, distilled=3, esa=2, blocks=2)),
    ("rfdn", RFDNConfig(scale=2, colors=1, channels=6, distilled=4, esa=3, blocks=1, inner_skips=False)),
    ("rlfn", RLFNConfig(scale=3, colors=3, channels=6, inner=8, esa=4, blocks=2)),
    ("rlfn", RLFNConfig(scale=2, colors=1, channels=6, inner=6, esa=4, blocks=3)),
    ("reprfn", RepRFNConfig(scale=4, colors=3, channels=6, esa=4, blocks=2, merged=True)),
    ("reprfn", RepRFNConfig(scale=2, colors=3, channels=6, esa=4, blocks=2, merged=False)),
    ("bsrn", BSRNConfig(scale=3, colors=3, channels=8, distilled=4, esa=2, cca=2, blocks=2)),
    ("bsrn", BSRNConfig(scale=2, colors=1, channels=6, distilled=3, esa=3, cca=1, blocks=3)),
    ("bsrn_s", BSRNSConfig(scale=4, colors=3, channels=8, distilled=4, esa=2, blocks=2)),
    ("bsrn_s", BSRNSConfig(scale=2, colors=1, channels=6, distilled=3, esa=3, blocks=1)),
    ("pan", PANConfig(scale=2, colors=3, channels=8, split=4, width=6, blocks=2)),
    ("pan", PANConfig(scale=3, colors=3, channels=8, split=3, width=6, blocks=1)),
    ("pan", PANConfig(scale=4, colors=1, channels=8, split=4, width=5, blocks=2)),
    ("msrn", MSRNConfig(scale=2, colors=3, channels=4, blocks=2)),
    ("msrn", MSRNConfig(scale=3, colors=3, channels=4, blocks=1)),
    ("msrn", MSRNConfig(scale=8, colors=1, channels=4, blocks=1)),
    ("ecbsr", ECBSRConfig(scale=2, colors=3, channels=4, blocks=2, merged=True)),
    ("ecbsr", ECBSRConfig(scale=4, colors=1, channels=4, blocks=0, merged=True)),
    ("ecbsr", ECBSRConfig(scale=3, colors=1, channels=4, blocks=2, merged=False, identity=False)),
    ("ecbsr", ECBSRConfig(scale=2, colors=1, channels=4, blocks=1, merged=False, identity=True)),
    ("compact", CompactConfig(scale=4, colors=3, channels=6, blocks=2)),
    ("compact", CompactConfig(scale=2, colors=1, channels=5, blocks=0)),
    ("compact", CompactConfig(scale=1, colors=3, channels=4, blocks=1)),
    ("compact", CompactConfig(scale=3, colors=3, channels=4, blocks=2, activation="relu")),
    ("compact", CompactConfig(scale=2, colors=3, channels=4, blocks=1, activation="lrelu")),
    ("span", SPANConfig(scale=4, colors=3, channels=5, joined=4, blocks=2)),
    ("span", SPANConfig(scale=3, colors=3, channels=4, joined=4, blocks=1, merged=False, mean="half", img_range=1.0)),
    ("span", SPANConfig(scale=2, colors=3, channels=4, joined=4, blocks=2, mean="stored")),
    ("span", SPANConfig(2, 1, channels=4, joined=6, blocks=2, merged=False, mean="none", img_range=1.0, no_norm=True)),
    ("spanf", SPANFConfig(scale=4, colors=3, channels=5, joined=4, blocks=3)),
    ("spanf", SPANFConfig(scale=2, colors=1, channels=4, joined=5, blocks=1)),
    ("pds", SPANFConfig(scale=4, colors=3, channels=5, joined=3, blocks=2)),
    ("pds", SPANFConfig(scale=3, colors=1, channels=4, joined=4, blocks=2)),
    ("espan", ESPANConfig(scale=4, colors=3, channels=5, blocks=2)),
    ("espan", ESPANConfig(scale=2, colors=1, channels=4, blocks=1)),
    ("disp", DISPConfig(scale=4, colors=3, channels=5, blocks=2)),
    ("disp", DISPConfig(scale=3, colors=1, channels=4, blocks=1)),
    ("spanv2", SPANV2Config(scale=4, colors=3, channels=5, blocks=2)),
    ("spanv2", SPANV2Config(scale=2, colors=1, channels=4, blocks=1)),
    ("dscf", DSCFConfig(scale=4, colors=3, channels=5, blocks=3)),
    ("dscf", DSCFConfig(scale=2, colors=3, channels=4, blocks=2)),
    ("rfdn_mga", MGAConfig(scale=4, colors=3, channels=8, blocks=2, refine_blocks=1)),
    ("rfdn_mga", MGAConfig(scale=2, colors=1, channels=8, blocks=1, refine_blocks=2)),
    ("pan_mga", MGAConfig(scale=4, colors=3, channels=8, blocks=3, refine_blocks=1)),
    ("pan_mga", MGAConfig(scale=3, colors=1, channels=8, blocks=2, refine_blocks=1)),
    ("dipnet", RLFNConfig(scale=4, colors=3, channels=6, inner=5, esa=4, blocks=4)),
    ("dipnet", RLFNConfig(scale=3, colors=1, channels=6, inner=6, esa=3, blocks=4)),
    ("reprlfn", RepRLFNConfig(scale=4, colors=3, channels=6, esa=4, blocks=2, merged=True)),
    ("reprlfn", RepRLFNConfig(scale=2, colors=3, channels=6, esa=4, blocks=2, merged=False)),
    ("reprlfn", RepRLFNConfig(scale=3, colors=1, channels=5, esa=3, blocks=1, merged=False)),
    ("efdn", EFDNConfig(scale=4, colors=3, channels=6, distilled=4, esa=2, merged=True)),
    ("efdn", EFDNConfig(scale=2, colors=1, channels=5, distilled=2, esa=3, merged=True)),
    ("efdn", EFDNConfig(scale=4, colors=3, channels=6, distilled=3, esa=2, merged=False, branches="plain")),
    ("efdn", EFDNConfig(scale=3, colors=1, channels=4, distilled=2, esa=2, merged=False, branches="expanded")),
    ("efdn", EFDNConfig(scale=2, colors=3, channels=4, distilled=2, esa=2, merged=False, branches="identity")),
    ("efdn", EFDNConfig(scale=2, colors=3, channels=4, distilled=2, esa=2, merged=False, branches="expanded_identity")),
    ("efdn", EFDNConfig(scale=2, colors=1, channels=4, distilled=2, esa=2, merged=False, branches="converted")),
    ("plainrfdn", PlainRFDNConfig(scale=4, colors=3, channels=8, distilled=3, esa=2, blocks=2)),
    ("plainrfdn", PlainRFDNConfig(scale=2, colors=1, channels=6, distilled=4, esa=3, blocks=1)),
    ("imdn", IMDNConfig(scale=4, colors=3, channels=8, distilled=2, blocks=2)),
    ("imdn", IMDNConfig(scale=3, colors=1, channels=6, distilled=2, blocks=1)),
    ("fmen", FMENConfig(scale=4, colors=3, channels=6, blocks=2, warmup=4, attention=3)),
    ("fmen", FMENConfig(scale=2, colors=1, channels=5, blocks=1, warmup=3, warmup_pairs=1, attention=4, attention_pairs=2)),
    ("safmnpp_light", SAFMNPPLightConfig(scale=4, colors=3, channels=6, hidden=9, blocks=2)),
    ("safmnpp_light", SAFMNPPLightConfig(scale=2, colors=1, channels=4, hidden=5, blocks=2)),
    ("plain", PlainConfig(scale=4, colors=3, channels=6, blocks=2)),
    ("plain", PlainConfig(scale=3, colors=1, channels=5, blocks=1)),
    ("etds", ETDSConfig(scale=2, colors=3, channels=6, blocks=2)),
    ("etds", ETDSConfig(scale=3, colors=3, channels=6, blocks=1)),
    ("etds", ETDSConfig(scale=4, colors=3, channels=8, blocks=2, residual=3)),
    ("etds", ETDSConfig(scale=3, colors=1, channels=7, blocks=1, residual=2)),
    ("ecbsr_et", ECBSRETConfig(scale=2, colors=3, channels=6, blocks=2)),
    ("ecbsr_et", ECBSRETConfig(scale=3, colors=3, channels=5, blocks=0)),
    ("abpn", ABPNConfig(scale=4, colors=3, channels=6, blocks=2)),
    ("abpn", ABPNConfig(scale=3, colors=1, channels=5, blocks=1)),
    ("espcn", ESPCNConfig(scale=3, colors=3, channels=6, inner=5)),
    ("espcn", ESPCNConfig(scale=2, colors=1, channels=6, inner=4, sigmoid=False)),
    ("fsrcnn", FSRCNNConfig(scale=2, colors=3, channels=8, shrunk=3, blocks=2)),
    ("fsrcnn", FSRCNNConfig(scale=3, colors=1, channels=6, shrunk=4, blocks=1)),
    ("fsrcnn", FSRCNNConfig(scale=4, colors=3, channels=6, shrunk=3, blocks=2)),
    ("rvsr", RVSRConfig(scale=4, colors=3, channels=6, attention=4, blocks=2)),
    ("rvsr", RVSRConfig(scale=3, colors=1, channels=5, attention=3, blocks=1, merged=False)),
    ("rt4ksr", RT4KSRConfig(scale=2, colors=3, channels=6, blocks=2)),
    ("rt4ksr", RT4KSRConfig(scale=3, colors=1, channels=5, blocks=1, unused=False)),
    ("rt4ksr", RT4KSRConfig(scale=2, colors=3, channels=5, blocks=2, merged=False)),
    ("plainusr", PlainUSRConfig(scale=4, colors=3, channels=8, middle=6, inner=4, attention=3)),
    ("plainusr", PlainUSRConfig(scale=2, colors=1, channels=6, middle=5, inner=2, attention=2, convs=3)),
    ("plainusr", PlainUSRConfig(scale=3, colors=3, channels=6, middle=4, inner=3, attention=2, merged=False)),
    ("plainusr", PlainUSRConfig(scale=2, colors=3, channels=4, middle=3, inner=2, attention=2, convs=3, merged=False)),
    ("plainusr_ultra", PlainUSRUltraConfig(scale=4, colors=3, channels=6, inner=3)),
    ("plainusr_ultra", PlainUSRUltraConfig(scale=2, colors=1, channels=5, inner=3, merged=False)),
)


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Small convs are slower on several threads, above all when other processes keep the cores busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=CONFIGS, ids=[f"{name}-{number}" for number, (name, _) in enumerate(CONFIGS)])
def built(request: pytest.FixtureRequest) -> tuple[Architecture[Any], Config]:
    """An architecture of the registry and one of its configs."""
    name, config = request.param
    return next(entry for entry in REGISTRY if entry.name == name), config


@pytest.fixture
def randomize() -> Callable[[nn.Module], nn.Module]:
    """Give a network random float64 weights: outputs of about one, biases and branches that all matter."""

    def apply(network: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(7)
        network.double()
        with torch.no_grad():
            for parameter in network.parameters():
                inputs = math.prod(parameter.shape[1:]) if parameter.ndim == 4 else parameter.shape[-1]
                spread = 1.5 / math.sqrt(inputs) if parameter.ndim > 1 else 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * spread)
        return network.eval()

    return apply
