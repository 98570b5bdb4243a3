"""The weights that a bundle was exported from, in torch."""

from __future__ import annotations

import importlib.metadata
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowres_seg.bench.axes import Isa
from lowres_seg.bench.backends import Subject, segmenter_of
from lowres_seg.bench.spec import Spec
from lowres_seg.errors import BenchmarkError

if TYPE_CHECKING:
    from lowres_seg.bundle.bundle import Bundle
    from lowres_seg.export.frameworks.torch_network import TorchNetwork
    from lowres_seg.runtime.engine import Engine
    from lowres_seg.runtime.segmenter import Segmenter


class TorchEager:
    """The trained networks in torch, in fp32."""

    extra: str | None = "bench"

    def check(self, subject: Subject) -> None:
        """Check that recipe and weights are those that the bundle was exported from.

        Raises
        ------
        BenchmarkError
            If the recipe is another one, or a file of weights is missing or another one.
        """
        if subject.recipe is None:
            return
        from lowres_seg.bundle.bundle import file_sha256
        from lowres_seg.export import importers

        bundle = subject.bundle
        if importers.digest(subject.recipe) != bundle.manifest.lineage.recipe:
            raise BenchmarkError(
                f"{subject.recipe}: is not the recipe that {bundle.path} was exported from; name that one, or "
                "export the bundle again"
            )
        for name, expected in bundle.manifest.lineage.sources.items():
            file = _weights(subject, name)
            if not file.is_file():
                raise BenchmarkError(f"{file}: not found; name the folder of the weights of {bundle.path.name}")
            if file_sha256(file) != expected:
                raise BenchmarkError(f"{file}: holds other weights than {bundle.path} was exported from")

    def reason_against(self, subject: Subject, isa: Isa, features: Sequence[str]) -> str:  # noqa: ARG002
        """It needs an fp32 bundle, and the recipe that the bundle was exported from."""
        if not subject.is_fp32:
            return "torch runs the trained network in fp32: it is measured beside the fp32 bundle"
        if subject.recipe is None:
            return "torch needs the recipe that the bundle comes from: name it with --recipe and --weights"
        return ""

    def inference_precision(self, bundle: Bundle) -> str:  # noqa: ARG002 - the same for all
        """Always f32."""
        return "f32"

    def networks(self, subject: Subject) -> dict[str, Any]:
        """Recipe and file of weights of each network, the key of its weights, and the digest of re-estimated norms."""
        from lowres_seg.bundle.manifest import NORMS_NAME

        norms = subject.bundle.manifest.files.get(NORMS_NAME)
        keys = _weights_keys(subject.bundle)
        return {
            name.partition("/")[0]: {
                "recipe": str(subject.recipe),
                "weights": str(_weights(subject, name)),
                "norms": norms,
                "weights_key": keys.get(name.partition("/")[0]),
            }
            for name in subject.bundle.manifest.lineage.sources
        }

    def versions(self) -> dict[str, str]:
        """Version of torch."""
        return {"torch": importlib.metadata.version("torch")}

    def load(self, spec: Spec) -> Mapping[str, Engine]:
        """Load the trained networks, with re-estimated statistics of norms if the bundle has some."""
        return self.trained(spec)

    def trained(self, spec: Spec) -> dict[str, TorchNetwork]:
        """Load the trained networks."""
        import numpy as np

        from lowres_seg.bundle.bundle import checked_bytes
        from lowres_seg.bundle.manifest import NORMS_NAME
        from lowres_seg.export import importers
        from lowres_seg.export.frameworks import torch_network
        from lowres_seg.export.loading import load_network

        torch_network.set_threads(spec.threads)
        (recipe,) = {given["recipe"] for given in spec.networks.values()}
        source = importers.read_again(Path(recipe), list(spec.networks))
        networks = {}
        for name, given in spec.networks.items():
            # The file that the bundle was exported from may be another one than the recipe names.
            entry, weights = source.recipe.networks[name], Path(given["weights"])
            if torch_network.kind_of(weights) == "torchscript":
                entry = entry.of_file("torchscript", weights)
            else:
                key = given.get("weights_key") or entry.checkpoint_key
                entry = entry.model_copy(update={"checkpoint_key": key})
            networks[name] = load_network(
                entry, weights, source.home, source.recipe.parts(name), source.recipe.input_shape(name)
            )
        (norms,) = {given.get("norms") for given in spec.networks.values()}
        if norms is not None:
            content = checked_bytes(Path(spec.bundle) / NORMS_NAME, norms)
            arrays = dict(np.load(io.BytesIO(content), allow_pickle=False))
            for name, network in networks.items():
                network.adopt({k.partition("/")[2]: a for k, a in arrays.items() if k.startswith(f"{name}/")})
        return networks

    def segmenter(self, spec: Spec) -> Segmenter:
        """Segmenter on the trained networks."""
        return segmenter_of(self.load(spec), spec)


def _weights(subject: Subject, source: str) -> Path:
    """File of weights for an entry NETWORK/FILE of a lineage, where `export` would find it."""
    from lowres_seg.export import importers, weights

    name, _, file = source.partition("/")
    if subject.weights is not None:
        return weights.located(subject.weights, file, subject.bundle.manifest.lineage.sources[source])
    if subject.recipe is None:
        return subject.bundle.path / file
    path = importers.home(subject.recipe) / file
    if not path.is_file():
        packed = importers.read_again(subject.recipe, [name]).recipe.weights
        if packed is not None and packed.pypi is not None:
            return weights.published(packed, file)
    return path


def _weights_keys(bundle: Bundle) -> dict[str, str | None]:
    """Key of each network's checkpoint, as the report of its export says it; reports are optional."""
    from lowres_seg.bundle.manifest import EXPORT_REPORT

    if EXPORT_REPORT not in bundle.manifest.files:
        return {}
    networks = json.loads(bundle.read(EXPORT_REPORT)).get("networks", {})
    return {name: network.get("weights_key") for name, network in networks.items()}


BACKEND = TorchEager()
