"""The command that shows the main job: demo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lowres_seg.cli.options import AsJson, Debug, Threads, app
from lowres_seg.cli.screen import importing, out, plain, print_json, steps
from lowres_seg.wording import columns

if TYPE_CHECKING:  # the demo needs every extra, its help none
    from lowres_seg.demo import Row


@app.command()
def demo(
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for what the demo writes.")] = Path(
        "demo-output"
    ),
    threads: Threads = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Export, quantize, segment and compare, on a real head."""
    with importing():
        from lowres_seg.demo import run

    with steps(quiet=False, lines=True) as notify:
        result = run(output, threads=threads, notify=notify)
    if as_json:
        print_json(result.as_dict())
        return
    for line in _table(result.rows):
        out.print(plain(line))
    out.print("INT8 was calibrated on this very scan: a tour of the commands, not a test of accuracy.")
    for name, path in result.files.items():
        out.print(plain(f"{name}: {path}"))


def _table(rows: Sequence[Row]) -> list[str]:
    """Table of the demo's measurements, with a column for each bundle."""
    table = [["Whole-head T1 template, 1 mm, 182×218×182"], ["", *(row.bundle for row in rows)]]
    table.append(["Dice with the template's mask", *(f"{row.dice:.4f}" for row in rows)])
    table.append(["HD95 with it, inner cavities filled", *(f"{row.hd95_mm:.2f} mm" for row in rows)])
    table.append(["Dice with the fp32 mask", *(f"{row.dice_with_fp32:.4f}" for row in rows)])
    table += [[step, *(f"{row.timings_s[step]:.3f} s" for row in rows)] for step in rows[0].timings_s]
    table.append(["whole command", *(f"{row.wall_s:.2f} s" for row in rows)])
    table.append(["peak memory (RSS)", *(f"{row.peak_rss_bytes / 2**20:.0f} MiB" for row in rows)])
    table.append(["size of the bundle", *(f"{row.bundle_bytes / 2**20:.1f} MiB" for row in rows)])
    return columns(table)
