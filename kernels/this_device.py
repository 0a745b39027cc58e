"""The constants of the GPU that a tensor lies on, for whoever chooses between kernels there."""

from functools import cache

import torch

from .device_cost import Device, device_or_nearest


@cache
def constants_of(device: torch.device) -> Device:
    """Measured on it, else from its data sheet, else those of the nearest known device."""
    there = device.type == "cuda" and torch.cuda.is_available()
    return device_or_nearest(torch.cuda.get_device_name(device) if there else "")
