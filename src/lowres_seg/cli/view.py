"""The command that shows a mask on its scan: view."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lowres_seg import __version__
from lowres_seg.cli.options import AsJson, Debug, Force, Quiet, app
from lowres_seg.cli.screen import err, importing, out, plain, print_json, steps
from lowres_seg.errors import InputError
from lowres_seg.wording import counted, sizes

#: Size of a page from which on a browser takes long to open it.
_LARGE_BYTES = 150_000_000


@app.command()
def view(
    scan: Annotated[Path, typer.Argument(metavar="SCAN", help="The scan (.nii.gz, .nii, .mgz, .nrrd).")],
    mask: Annotated[Path, typer.Argument(metavar="MASK", help="A label map on the scan's grid.")],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="HTML", help="Page to write.", show_default="beside the mask, named like it"
        ),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="Name the labels as this bundle does.", show_default=False)
    ] = None,
    in_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write one page that shows a mask on its scan, to look through in a browser.

    It works offline and asks for nothing. It holds the scan: share it as you would share the scan.
    """
    with importing():
        from lowres_seg import atomic
        from lowres_seg.bundle.bundle import Bundle
        from lowres_seg.view.page import write_page
        from lowres_seg.volumes.files import stem
        from lowres_seg.volumes.volume import Volume

    target = mask.with_name(f"{stem(mask)}.html") if output is None else output
    if target.suffix.lower() not in (".html", ".htm"):
        raise typer.BadParameter(f"{target}, expected a name that ends in .html", param_hint="--output")
    atomic.check_target(target, force=force, inputs=[scan, mask, *([] if bundle is None else [bundle])])
    names = {} if bundle is None else Bundle.open(bundle).manifest.label_names
    with steps(quiet=quiet) as notify:
        notify("reading the scan and the mask")
        volumes = Volume.load(scan), Volume.load(mask)
        notify("writing the page")
        page = write_page(*volumes, target, names=names, version=__version__, force=force)
    for doubt in page.doubts:
        err.print(f"[yellow]note:[/] {plain(doubt)}")
    if not page.labels:
        err.print(f"[yellow]note:[/] {plain(str(mask))}: no voxel is labelled")
    if as_json:
        print_json({"path": str(target), "bytes": page.bytes, "labels": [asdict(label) for label in page.labels]})
    elif not quiet:
        slow = ", which a browser takes long to open" if page.bytes > _LARGE_BYTES else ""
        (size,) = sizes(page.bytes)
        out.print(plain(f"{target}: {counted(len(page.labels), 'label')}, {size}{slow}; open it in a browser"))
    if in_browser:
        import webbrowser

        if not webbrowser.open(target.absolute().as_uri()):
            raise InputError(f"{target}: is written, and no browser was found here; open it yourself")
