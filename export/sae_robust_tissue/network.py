"""SAE robust tissue: dilated convolutions at full and half resolution, for inference.

Convolutions of 16 channels with growing dilations, of 32 channels at half resolution, and of 16 again, with SiLU after
each but the last, and no norm. The names of the parameters are those of the published weights, so that their state
loads unchanged.
"""

from __future__ import annotations

from torch import nn

FILTERS = 16
BEFORE = (1, 2, 4, 6, 8)
HALF = (10, 12, 16, 12, 10)
AFTER = (8, 6, 4, 2, 1)


def build() -> nn.Sequential:
    """(N, 1, D, H, W) with even sizes to (N, 3, D, H, W); the scores are not activated."""

    def dilated(given: int, width: int, dilation: int) -> list[nn.Module]:
        return [nn.Conv3d(given, width, 3, padding=dilation, dilation=dilation), nn.SiLU()]

    layers: list[nn.Module] = []
    for index, dilation in enumerate(BEFORE):
        layers += dilated(FILTERS if index else 1, FILTERS, dilation)
    layers += [nn.Conv3d(FILTERS, 2 * FILTERS, 3, stride=2, padding=1), nn.SiLU()]
    for dilation in HALF:
        layers += dilated(2 * FILTERS, 2 * FILTERS, dilation)
    layers.append(nn.ConvTranspose3d(2 * FILTERS, FILTERS, 2, stride=2))
    for dilation in AFTER:
        layers += dilated(FILTERS, FILTERS, dilation)
    layers.append(nn.Conv3d(FILTERS, 3, 1))
    return nn.Sequential(*layers)
