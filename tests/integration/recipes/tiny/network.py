"""A network small enough to export in a second, with what real ones have: norms with running statistics."""

import torch
from torch import nn


class Tiny(nn.Module):
    """(1, 1, 32, 32, 32) to two softmax channels of the same size."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, filters, 3, padding=1)
        self.first_norm = nn.InstanceNorm3d(filters, affine=True, track_running_stats=True)
        self.second = nn.Conv3d(filters, filters, 3, padding=1)
        self.second_norm = nn.InstanceNorm3d(filters, affine=True, track_running_stats=True)
        self.last = nn.Conv3d(filters, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.leaky_relu(self.first_norm(self.first(x)))
        x = x + nn.functional.leaky_relu(self.second_norm(self.second(x)))
        return torch.softmax(self.last(x), dim=1)


class Restless(Tiny):
    """Gives other numbers each time: no conversion of it can have parity."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + 0.1 * torch.rand_like(x))


class TwoHeads(Tiny):
    """Gives two tensors by name."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = super().forward(x)
        return {"scores": scores, "edges": scores[:, 1:]}


class DeeplySupervised(Tiny):
    """Gives the scores at two resolutions."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        scores = super().forward(x)
        return [scores, scores[..., ::2, ::2, ::2]]


class LowestFirst(Tiny):
    """Gives the scores at two resolutions, the full one last."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = super().forward(x)
        return scores[..., ::2, ::2, ::2], scores


def build(filters: int = 4) -> Tiny:
    return Tiny(filters)


def restless(filters: int = 4) -> Restless:
    return Restless(filters)


def two_heads(filters: int = 4) -> TwoHeads:
    return TwoHeads(filters)


def deeply_supervised(filters: int = 4) -> DeeplySupervised:
    return DeeplySupervised(filters)


def lowest_first(filters: int = 4) -> LowestFirst:
    return LowestFirst(filters)


def nothing(filters: int = 4) -> int:
    return filters
