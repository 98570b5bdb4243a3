"""Recipes of networks that a test defines: a folder with a recipe, code that builds its networks, and their weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

ABOUT = """
[bundle]
name = "own"
version = "1"
description = "for tests"
license = "CC0-1.0"
source = "the tests"
intended_use = "tests"

[[labels]]
value = 1
name = "lesion"
"""


def recipe(
    folder: Path,
    text: str,
    networks: Mapping[str, nn.Module],
    factory: Callable[..., nn.Module] | None = None,
    channels: tuple[str, ...] = ("t1", "t1c", "flair", "t2"),
) -> Path:
    """Write ``recipe.toml``, with a checkpoint NAME.pt of each network, and its own class as ``network.py``.

    Parameters
    ----------
    folder : pathlib.Path
    text : str
        Tables of the networks and stages.
    networks : mapping of str to torch.nn.Module
    factory : class, optional
        What ``network.py:build`` calls; by default the class of the networks.
    channels : tuple of str
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, network in networks.items():
        torch.save(network.state_dict(), folder / f"{name}.pt")
    kind = type(next(iter(networks.values()))) if factory is None else factory
    code = f"import torch\nfrom torch import nn\n\n\n{inspect.getsource(kind)}\n\ndef build(**options):\n    return {kind.__name__}(**options)\n"
    (folder / "network.py").write_text(code)
    named = ", ".join(f'"{name}"' for name in channels)
    (folder / "recipe.toml").write_text(f"channels = [{named}]\nmultiple_of = 4\n{ABOUT}{text}")
    return folder / "recipe.toml"


def seeded(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that make every channel and every corner of a kernel count."""
    generator = torch.Generator().manual_seed(seed)
    for value in network.parameters():
        value.data.normal_(0, 0.3, generator=generator)
    return network.eval()
