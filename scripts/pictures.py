"""Pictures of the documentation, under docs/pictures/: a mask on a head, a terminal, a report, the site, a page.

    scripts/pictures BUNDLE SCAN SUITE HEAD

BUNDLE segments the brain on SCAN, whose licence lets a slice be shown. SUITE is a file that `bench` wrote. HEAD is
a scan that may be given away whole, for the page of `view`; BUNDLE segments it too. The site is built anew. Needs a
Chromium.
"""

from __future__ import annotations

import base64
import html
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from lowres_seg import Segmenter, Volume
from lowres_seg.bench.html.pictures import three_planes

HERE = Path(__file__).resolve().parents[1]
PICTURES = HERE / "docs" / "pictures"
#: Widths of a page, and the height of what is shown of it.
WIDTHS, HEIGHT = (1100, 400), 1500
#: Chromium draws the page of `view` without a GPU.
DRAWING = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
TERMINAL = """<body style="margin:0;background:#0d1117"><pre style="margin:0;padding:18px 22px;width:80ch;color:#e6edf3;
font:15px/1.45 'DejaVu Sans Mono',monospace;white-space:pre-wrap">{}</pre></body>"""


def main() -> None:
    """Make all pictures."""
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    bundle, scan, suite, head = map(Path, sys.argv[1:])
    PICTURES.mkdir(exist_ok=True)
    mask(bundle, scan)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as play:
        folder = Path(name)
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=DRAWING)
        page = browser.new_page(viewport={"width": 800, "height": 10})
        terminal(page, bundle, scan, folder)
        view(page, bundle, head, folder)
        lowres_seg("report", suite, "-o", folder / "report.html")
        subprocess.run([HERE / "scripts" / "site"], check=True)
        for width in WIDTHS:
            for what, path in (("report", folder / "report.html"), ("site", HERE / "site" / "index.html")):
                page.set_viewport_size({"width": width, "height": HEIGHT})
                page.goto(path.as_uri())
                save(page.screenshot(), f"{what}-{width}.png")
        browser.close()


def mask(bundle: Path, scan: Path) -> None:
    """A scan in three planes, with the outline of its mask."""
    volume = Volume.load(scan)
    found = Segmenter.load(bundle).predict(volume).labels.data.astype(np.uint8)
    planes = three_planes(volume, found, np.zeros_like(found))
    pictures = [Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB") for png in planes.values()]
    whole = Image.new("RGB", (sum(one.width for one in pictures), max(one.height for one in pictures)))
    left = 0
    for one in pictures:
        whole.paste(one, (left, (whole.height - one.height) // 2))
        left += one.width
    stream = io.BytesIO()
    whole.save(stream, "PNG")
    save(stream.getvalue(), "mask.png")


def terminal(page: Page, bundle: Path, scan: Path, folder: Path) -> None:
    """What a terminal of 80 columns shows of three commands."""
    for path, name in ((bundle, "deepbet-int8"), (scan, "head.nii.gz")):
        (folder / name).symlink_to(path.resolve())
    commands = (
        ("show", "deepbet-int8"),
        ("predict", "deepbet-int8", "head.nii.gz", "-o", "mask.nii.gz"),
        ("verify", "deepbet-int8"),
    )
    shown = [f"<b>$ lowres-seg {' '.join(one)}</b>\n{html.escape(lowres_seg(*one, at=folder))}" for one in commands]
    page.set_content(TERMINAL.format("\n".join(shown)))
    save(page.locator("pre").screenshot(), "terminal.png")


def view(page: Page, bundle: Path, head: Path, folder: Path) -> None:
    """The picture of `predict --picture` and the page of `view`, with the mask of a head."""
    (folder / "T1w.nii.gz").symlink_to(head.resolve())
    lowres_seg("predict", bundle.resolve(), "T1w.nii.gz", "-o", "T1w_mask.nii.gz", "--picture", at=folder)
    save((folder / "T1w_mask.png").read_bytes(), "picture.png")
    lowres_seg("view", "T1w.nii.gz", "T1w_mask.nii.gz", "--bundle", bundle.resolve(), "-o", "view.html", at=folder)
    page.set_viewport_size({"width": 1100, "height": 700})
    page.goto((folder / "view.html").as_uri())
    page.wait_for_selector("body[data-state=shown]", timeout=300_000)
    save(page.screenshot(timeout=300_000), "view.png")


def lowres_seg(*words: str | Path, at: Path = HERE) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "lowres_seg", *map(str, words)]
    environment = os.environ | {"COLUMNS": "80"}
    return subprocess.check_output(command, cwd=at, env=environment, stderr=subprocess.STDOUT, text=True)


def save(png: bytes, name: str) -> None:
    """Write a picture with few colours, because it travels with the sources."""
    Image.open(io.BytesIO(png)).convert("RGB").quantize(128).save(PICTURES / name, "PNG", optimize=True)
    print(f"docs/pictures/{name}: {(PICTURES / name).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
