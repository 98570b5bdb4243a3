"""A page with a scan, its labels and a viewer in one file, which asks for nothing from anywhere."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg import atomic
from lowres_seg.errors import InputError
from lowres_seg.view.labelled import Label, in_mm, labelled
from lowres_seg.view.shades import shades
from lowres_seg.volumes.encoded import encoded
from lowres_seg.volumes.volume import Volume
from lowres_seg.wording import sizes

#: Folder of the viewer and of what is put around it.
OWN = Path(__file__).parent
#: Voxels on an axis that every WebGL 2 takes (its least MAX_3D_TEXTURE_SIZE is 256, that of browsers in use 2048).
MOST_VOXELS = 2048
#: Bytes of a page. Chromium holds no text of more than half a billion characters.
MOST_BYTES = 400_000_000


@dataclass(frozen=True)
class Page:
    """A page that was written.

    Attributes
    ----------
    bytes : int
        Its size.
    labels : tuple of Label
        What it shows.
    doubts : tuple of str
        What a reader of it should know.
    """

    bytes: int
    labels: tuple[Label, ...]
    doubts: tuple[str, ...]


def write_page(
    scan: Volume, mask: Volume, path: Path, *, names: Mapping[int, str] | None = None, version: str, force: bool = False
) -> Page:
    """Write a scan and a label map on its grid as one HTML file. It appears whole or not at all.

    Text of the headers, which may name a patient, stays behind. The page has the names of the two files, without their
    folders.

    Parameters
    ----------
    scan, mask : Volume
    path : pathlib.Path
    names : mapping of int to str, optional
        Names of label values.
    version : str
        Of this tool.
    force : bool
        Replace a file that exists.

    Raises
    ------
    InputError
        If the mask is no label map or lies on another grid, if the scan is larger than a browser can show, or if the
        file exists and not `force`, or cannot be written.
    """
    if not scan.grid.same_space(mask.grid):
        raise InputError(
            f"{mask.name}: lies on another grid than {scan.name} ({scan.grid.another_grid(mask.grid)}); give the scan "
            "that the mask was made of"
        )
    if max(scan.grid.shape) > MOST_VOXELS:
        shape = "×".join(map(str, scan.grid.shape))
        raise InputError(f"{scan.name}: {shape} voxels, a browser shows up to {MOST_VOXELS} on an axis; crop the scan")
    found = labelled(mask, names or {})
    intensities, window, doubts = _intensities(scan)
    facts = {
        "window": window,
        "middle_mm": in_mm(scan.grid, found.middle),
        "labels": [asdict(label) for label in found.labels],
    }
    script, style, niivue = _own("page.js"), _own("page.css"), viewer()
    words = {
        "policy": "; ".join(
            (
                "default-src 'none'",
                f"script-src {_digest(niivue)} {_digest(script)}",
                f"style-src {_digest(style)}",
                "img-src data: blob:",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
        "version": html.escape(version),
        "title": html.escape(f"{Path(mask.name).name} on {Path(scan.name).name}"),
        "scan": html.escape(Path(scan.name).name),
        "mask": html.escape(Path(mask.name).name),
        "licences": html.escape(_own("niivue-licences.txt")),
        "facts": json.dumps(facts).replace("<", "\\u003c"),
        "scan_data": intensities,
        "mask_data": _text(encoded(found.places, scan.grid, labels=True)),
        "niivue": niivue,
        "script": script,
        "style": style,
    }
    size = sum(map(len, words.values()))
    if size > MOST_BYTES:
        takes, most = sizes(size, MOST_BYTES)
        raise InputError(f"{scan.name}: its page would take {takes}, a browser opens up to {most}; crop the scan")
    # Bytes of a file name that are not UTF-8 become Python's codes for them.
    content = Template(_own("page.html")).substitute(words).encode("utf-8", "backslashreplace")
    with atomic.file(path, force=force) as staged:
        staged.write_bytes(content)
    return Page(len(content), found.labels, (*scan.doubts, *mask.doubts, *doubts))


def _intensities(scan: Volume) -> tuple[str, tuple[float, float], list[str]]:
    """Voxels for the page, the intensities shown black and white, and doubts. They are kept in 16 bits."""
    data = scan.data
    finite = data[np.isfinite(data)]
    doubts = []
    if finite.size < data.size:
        doubts.append(f"{scan.name}: {data.size - finite.size} voxels are no finite numbers; they are shown black")
    low, high = shades(data)
    if not finite.size:
        return _text(encoded(np.zeros(data.shape, np.uint8), scan.grid)), (low, high), doubts
    limits = np.iinfo(np.int16)
    whole = finite.size == data.size and limits.min <= finite.min() and finite.max() <= limits.max
    if whole and (data == np.rint(data)).all():
        return _text(encoded(data.astype(np.int16), scan.grid)), (low, high), doubts
    # What lies far outside would leave few steps between black and white.
    span = high - low
    clipped: NDArray[Any] = np.nan_to_num(data, nan=float(finite.min()), posinf=np.inf, neginf=-np.inf)
    clipped = np.clip(clipped, max(low - 3 * span, float(finite.min())), min(high + 3 * span, float(finite.max())))
    return _text(encoded(clipped.astype(np.float32), scan.grid, dtype=np.int16)), (low, high), doubts


def viewer() -> str:
    """The script of NiiVue, as it was built.

    Raises
    ------
    InputError
        If it is not.
    """
    script = gzip.decompress((OWN / "niivue.js.gz").read_bytes())
    if hashlib.sha256(script).hexdigest() != json.loads(_own("niivue.json"))["sha256"]:
        raise InputError(
            "niivue.js.gz of this package has changed, its sha256 is not that of niivue.json; install anew"
        )
    return script.decode("ascii")


def _own(name: str) -> str:
    return (OWN / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    """Source of a content security policy that allows one script or style."""
    return f"'sha256-{_text(hashlib.sha256(script.encode('utf-8')).digest())}'"


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
