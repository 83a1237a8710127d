"""Networks of other packages, by their names: what they say of themselves, and their weights."""

from amc.models.packages import hf_networks, timm_networks, torchvision_networks
from amc.models.packages.facts import Facts, Package

PACKAGES = {
    "timm": Package(timm_networks.facts, timm_networks.build),
    "torchvision": Package(torchvision_networks.facts, torchvision_networks.build),
    "hf": Package(hf_networks.facts, hf_networks.build),
}
"""By what stands before the colon."""

__all__ = ["PACKAGES", "Facts", "Package"]
