"""A network that plain INT8 ruins: one channel of one layer is two thousand times as large as the others.

The first convolution blurs; its channel 0 carries the outlier, which the second convolution scales back. In fp32
nothing comes of it. In INT8 one step of the second convolution's input is wider than all the other channels' range.
"""

import torch
from torch import nn

OUTLIER = 2000.0
CHANNELS = 8


class Outlier(nn.Module):
    """(1, 1, D, H, W) to two softmax channels: bright regions, blurred a little."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, CHANNELS, 3, padding=1)
        self.second = nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1)
        self.rest = nn.ModuleList(nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(depth))
        self.last = nn.Conv3d(CHANNELS, 2, 1)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.first, self.second, *self.rest):
            x = nn.functional.leaky_relu(layer(x))
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.last(self.features(x)), dim=1)


def build(depth: int = 6) -> Outlier:
    return Outlier(depth)


def state(depth: int = 6) -> dict[str, torch.Tensor]:
    """Weights by construction, not by training: the boundary lies at half of the brightest tissue's intensity."""
    network = Outlier(depth)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        gains = torch.linspace(0.6, 1.4, CHANNELS)
        for c in range(CHANNELS):
            network.first.weight[c, 0] = gains[c] / 27
            network.first.weight[c, 0, 1, 1, 1] += 2 * gains[c]
            for layer in (network.second, *network.rest):
                layer.weight[c, :, 1, 1, 1] = 1 / CHANNELS
                layer.weight[c] += 0.002 * torch.randn(CHANNELS, 3, 3, 3, generator=generator)
        network.first.weight[0] *= OUTLIER
        network.second.weight[:, 0] /= OUTLIER
        network.last.weight[0, :, 0, 0, 0], network.last.weight[1, :, 0, 0, 0] = -5.0, 5.0
        grey = torch.full((1, 1, *(2 * depth + 9,) * 3), 0.51)
        features = network.features(grey)[0, :, depth + 4, depth + 4, depth + 4]
        network.last.bias[:] = torch.tensor([1.0, -1.0]) * 5 * features.sum()
    return network.state_dict()
