"""Networks that a MONAI bundle's own code builds. It runs in a process of its own, and only if the user trusts it.

The process builds the network from its arguments, loads its weights, and writes it as TorchScript. Only that file comes
back.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowres_seg.bundle.bundle import file_sha256
from lowres_seg.errors import ExportError, one_line
from lowres_seg.export.importers import monai_network, monai_weights
from lowres_seg.export.importers.monai_config import Config
from lowres_seg.export.importers.monai_files import whereabouts
from lowres_seg.export.importers.monai_network import Definition
from lowres_seg.export.recipe import NetworkSource

#: Folders of TorchScript; they are removed when this process ends.
_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def traced(config: Config, network: Definition, shape: Sequence[int]) -> tuple[NetworkSource, dict[str, str]]:
    """Build the network by the bundle's own code, in another process, and trace it.

    Parameters
    ----------
    config : Config
        A note is added to it.
    network : Definition
    shape : sequence of int
        Of the input.

    Returns
    -------
    source : NetworkSource
        The TorchScript.
    code : dict of str to str
        Digests of the bundle's files of code, by path.

    Raises
    ------
    ExportError
        If there are no weights, or the network cannot be built or traced.
    """
    monai_network.plain(config, network)
    checkpoint, keys = monai_weights.weights(config, network.role, network.place, network.count)
    where = config.where(network.role.key)
    if not checkpoint.is_file():
        raise ExportError(f"{checkpoint}: is missing{whereabouts(config.folder, checkpoint)}")
    root = config.folder.resolve()
    code = {file.relative_to(root).as_posix(): file_sha256(file) for file in monai_network.own_code(root)}
    folder = tempfile.TemporaryDirectory(prefix="lowres-seg-")
    _KEPT.append(folder)
    request, script = Path(folder.name) / "request.json", Path(folder.name) / "network.ts"
    request.write_text(
        json.dumps({
            "root": str(root),
            "target": network.target,
            "arguments": network.arguments,
            "checkpoint": str(checkpoint.resolve()),
            "keys": list(keys),
            "shape": list(shape),
            "script": str(script),
        }),
        encoding="utf-8",
    )  # fmt: skip
    paths = [str(Path(path).resolve()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    child = subprocess.run(  # noqa: S603 - this interpreter; the user trusts what it runs
        [sys.executable, "-m", __name__, str(request)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0 or not script.is_file():
        said = [line.strip() for line in child.stderr.splitlines() if line.strip()]
        raise ExportError(
            f"{where}: {network.target} gave no network ({said[-1][:400] if said else 'it said nothing'})"
        )
    weights = checkpoint.relative_to(config.folder).as_posix()
    config.notes.append(
        f"{where}: code of the bundle built {network.target}, as --trust-code allows, with the weights of {weights} "
        f"(sha256 {file_sha256(checkpoint)})"
    )
    return NetworkSource(torchscript=str(script)), code


def _build(request: Mapping[str, Any]) -> None:
    """Write the TorchScript that a request asks for."""
    from lowres_seg.export.frameworks import checkpoints, torch_network
    from lowres_seg.export.frameworks.slices import takes_slices
    from lowres_seg.export.importers import monai_classes

    root = Path(request["root"])
    sys.path.insert(0, str(root))

    def find(target: str, where: str) -> Callable[..., Any]:
        if not monai_network.is_own(root, target):
            return monai_classes.layer_class(target, where)
        module, _, name = target.rpartition(".")
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return found

    entry = {**request["arguments"], "_target_": request["target"]}
    module, shape = monai_classes.built(entry, "network", find), tuple(request["shape"])
    if 1 in shape[2:]:
        module = takes_slices(module)
    path = Path(request["checkpoint"])
    content = checkpoints.checkpoint(path)
    key = monai_weights.checkpoint_key(content, request["keys"])
    loaded = torch_network.with_state(module, content, key, path, request["target"])
    loaded.script(shape).save(request["script"])


if __name__ == "__main__":
    try:
        _build(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except Exception as error:  # noqa: BLE001 - the bundle's code may raise anything
        sys.exit(f"{type(error).__name__}: {one_line(error)}")
