"""A network whose norms were never updated, and the state of one from arrays by other names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn


def build(width: int = 4) -> nn.Module:
    """A convolution, a norm of running statistics, and two scores for each voxel."""
    return nn.Sequential(nn.Conv3d(1, width, 3, padding=1), nn.BatchNorm3d(width), nn.ReLU(), nn.Conv3d(width, 2, 1))


def state(weights: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Names of the network for those of the archive."""
    return {name.replace("/", "."): torch.from_numpy(array) for name, array in weights.items()}
