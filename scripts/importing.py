"""docs/importing.md, made of the tables of the importers and of conversions that are tried here.

With ``--check`` nothing is written, the operators are left out, and the exit code is 1 if the page is not up to date.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lowres_seg.errors import ExportError
from lowres_seg.export import routes
from lowres_seg.export.frameworks.torch_network import TorchNetwork
from lowres_seg.export.importers import monai_bundle, nnunet_stages, nnunet_trainers
from lowres_seg.export.importers.monai_arguments import Arguments
from lowres_seg.export.importers.monai_ensembles import KNOWN
from lowres_seg.export.importers.monai_grids import GRIDS
from lowres_seg.export.importers.monai_intensities import INTENSITIES
from lowres_seg.export.importers.monai_scan import HARMLESS
from lowres_seg.runtime.openvino_engine import OpenVinoEngine

warnings.simplefilter("ignore")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "importing.md"
OPERATORS = "## Operators\n"
SHAPE = (1, 4, 16, 16, 16)


def main() -> None:
    """Write the page, or check it."""
    tables = HEAD + monai() + nnunet()
    if "--check" in sys.argv:
        found = PAGE.read_text(encoding="utf-8").partition(OPERATORS)[0]
        sys.exit("docs/importing.md is not up to date; run: scripts/importing" if found != tables else 0)
    PAGE.write_text(tables + OPERATORS + TRIED_SO + "\n".join(operators()) + "\n", encoding="utf-8")


HEAD = """# What gets in

Made by `scripts/importing` from the importers' own tables. What is not here is refused in one line that names it.

"""
MONAI = """## MONAI bundles

Arguments are taken with the values that have an exact counterpart in a bundle. Others are refused by name.

"""
NNUNET = """## nnU-Net v2 folders

| part | taken |
|---|---|
| configurations | `2d`, `3d_lowres`, `3d_fullres`; `3d_cascade_fullres` with its previous stage; ensembles |
| readers | {readers} |
| trainers that train the network of plans.json | {trainers} |
| trainers with batch norm | {batch_norm} |
| normalisation | ZScore, CT, RescaleTo01, RGBTo01 and NoNormalization |
| resampling | `resample_data_or_seg_to_shape`, `resample_torch_fornnunet`, `no_resampling_hack`; orders 0 to 5 |
| postprocessing | `remove_all_but_largest_component_from_segmentation`, read as data from `.json` or `.pkl` |

Refused by name: readers of pictures ({pictures}), other readers, trainers, preprocessors, label managers and network
classes, and folders of nnU-Net v1.

"""
TRIED_SO = """
Each was tried between two convolutions: the route that export takes, and the largest difference from torch as a share
of the range. `trace` is TorchScript, `export` is torch.export.

| operator | route | difference |
|---|---|---|
"""


def listed(names: Iterable[str]) -> str:
    """Names as code, with commas."""
    return ", ".join(f"`{name}`" for name in names)


def arguments(kind: type[Arguments]) -> str:
    """Arguments of a component that count, and those that are passed over."""
    taken = listed(name for name in kind.model_fields if name != "keys")
    return f"{taken or '–'} | {listed(sorted(kind.ignored.split())) or '–'}"


def table(heading: str, kinds: Mapping[str, type[Arguments]]) -> str:
    """One row for each component."""
    rows = [f"| `{name}` | {arguments(kind)} |" for name, kind in kinds.items() if name not in HARMLESS]
    return "\n".join([f"| {heading} | arguments that count | arguments passed over |", "|---|---|---|", *rows, "", ""])


def monai() -> str:
    """Tables of MONAI bundles."""
    import monai
    from monai import inferers, transforms
    from monai.networks import nets

    known = {*HARMLESS, *GRIDS, *INTENSITIES, *KNOWN}
    theirs = [name for name in dir(transforms) if isinstance(getattr(transforms, name), type)]
    dictionary = [name for name in theirs if name.endswith("d") and name[:-1] in theirs and not name.startswith("Rand")]
    runners = [name for name in dir(inferers) if name.endswith("Inferer") and name != "Inferer"]
    count = sum(
        isinstance(kind, type) and issubclass(kind, nn.Module) for name, kind in vars(nets).items() if name[0] != "_"
    )
    return (
        MONAI
        + table("transform of the scan", GRIDS | INTENSITIES)
        + table("transform of the result", KNOWN)
        + f"Changes nothing here: {listed(sorted(HARMLESS))}.\n\n"
        + table("inferer", monai_bundle.INFERERS)
        + f"Refused by name, of MONAI {monai.__version__}: {listed(n for n in dictionary if n not in known)}; "
        + f"{listed(name for name in runners if name not in monai_bundle.INFERERS)}.\n\n"
        + f"Networks: any of the {count} classes of `monai.networks.nets` that gives one volume of scores.\n\n"
    )


def nnunet() -> str:
    """Table of nnU-Net folders."""
    return NNUNET.format(
        readers=listed(nnunet_stages.READERS),
        trainers=listed(sorted(nnunet_trainers.PLANS_NETWORK)),
        batch_norm=listed(sorted(nnunet_trainers.BATCH_NORM)),
        pictures=listed(nnunet_stages.PICTURE_READERS),
    )


class One(nn.Module):
    """A convolution, one operator, and a convolution."""

    def __init__(self, operator: Callable[..., Any]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv3d(4, 8, 3, padding=1), nn.Conv3d(8, 2, 1)
        self.operator = operator

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores."""
        return self.last(self.operator(self.first(x)))


class Unpooled(nn.Module):
    """MaxUnpool3d behind the MaxPool3d that gives its indices."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The maxima at their places."""
        pooled, indices = F.max_pool3d(x, 2, return_indices=True)
        return F.max_unpool3d(pooled, indices, 2)


def _sampled(x: torch.Tensor) -> torch.Tensor:
    grid = F.affine_grid(torch.eye(3, 4)[None] * 0.9, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def _resized(mode: str, **options: Any) -> Callable[[], Any]:
    return lambda: lambda x: F.interpolate(F.max_pool3d(x, 2), size=SHAPE[2:], mode=mode, **options)


def _padded(mode: str) -> Callable[[], Any]:
    return lambda: lambda x: F.pad(x, (1,) * 6, mode=mode)[..., 1:-1, 1:-1, 1:-1]


def _pooled(kind: str, size: int) -> Callable[[], Any]:
    return lambda: nn.Sequential(getattr(nn, kind)(size), nn.Upsample(size=SHAPE[2:]))


_PLAIN = (
    "ReLU LeakyReLU PReLU RReLU ELU SELU CELU GELU SiLU Mish Hardswish Hardsigmoid Hardtanh Softplus Softsign "
    "Softshrink Hardshrink Tanhshrink Sigmoid LogSigmoid Tanh Dropout3d AlphaDropout FeatureAlphaDropout"
)
TRIED: dict[str, Callable[[], Any]] = {
    **{name: getattr(nn, name) for name in _PLAIN.split()},
    "BatchNorm3d": lambda: nn.BatchNorm3d(8),
    "InstanceNorm3d": lambda: nn.InstanceNorm3d(8, affine=True),
    "GroupNorm": lambda: nn.GroupNorm(2, 8),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(3),
    "ConvTranspose3d": lambda: nn.Sequential(nn.MaxPool3d(2), nn.ConvTranspose3d(8, 8, 2, 2)),
    "MaxUnpool3d": Unpooled,
    "AvgPool3d": lambda: nn.AvgPool3d(3, 1, 1),
    "AdaptiveAvgPool3d to 4": _pooled("AdaptiveAvgPool3d", 4),
    "AdaptiveAvgPool3d to 5": _pooled("AdaptiveAvgPool3d", 5),
    "AdaptiveMaxPool3d to 4": _pooled("AdaptiveMaxPool3d", 4),
    "interpolate nearest": _resized("nearest"),
    "interpolate nearest-exact": _resized("nearest-exact"),
    "interpolate area": _resized("area"),
    "interpolate trilinear": _resized("trilinear"),
    "interpolate trilinear, corners aligned": _resized("trilinear", align_corners=True),
    **{f"pad {mode}": _padded(mode) for mode in ("constant", "replicate", "reflect", "circular")},
    "grid_sample": lambda: _sampled,
    "roll": lambda: lambda x: torch.roll(x, (3, -2), (2, 4)),
    "einsum": lambda: lambda x: torch.einsum("bcdhw,bcdhw->bdhw", x, x)[:, None] + x,
    "scaled_dot_product_attention": lambda: lambda x: F.scaled_dot_product_attention(x, x, x),
    "topk": lambda: lambda x: x - torch.topk(x, 2, dim=1).values[:, :1],
    "a branch on values": lambda: lambda x: x * 2 if x.mean() > 0 else x,
}


def operators() -> Iterator[str]:
    """The route of each operator, tried now."""
    x = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    for name, build in TRIED.items():
        torch.manual_seed(0)
        network = TorchNetwork(One(build()).eval(), 0)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.xml"
            try:
                route, _ = routes.from_torch(network, SHAPE, path)
                expected = network.run(x)
                found = OpenVinoEngine(path, threads=1, inference_precision="f32").run(x)
            except ExportError as error:
                yield f"| {name} | refused | {error} |"
                continue
        yield f"| {name} | {route} | {np.abs(found - expected).max() / np.ptp(expected):.0e} |"


if __name__ == "__main__":
    main()
