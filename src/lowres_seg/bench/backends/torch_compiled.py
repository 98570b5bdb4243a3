"""The weights that a bundle was exported from, behind ``torch.compile``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lowres_seg.bench.backends.torch_eager import TorchEager
from lowres_seg.bench.spec import Spec

if TYPE_CHECKING:
    from lowres_seg.runtime.engine import Engine


class TorchCompiled(TorchEager):
    """The trained networks behind ``torch.compile``. The first run of each compiles it."""

    def load(self, spec: Spec) -> Mapping[str, Engine]:
        """Load the trained networks."""
        return {name: network.compiled() for name, network in self.trained(spec).items()}


BACKEND = TorchCompiled()
