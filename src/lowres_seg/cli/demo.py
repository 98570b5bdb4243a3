"""The command that shows the main job: demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lowres_seg.cli import screen
from lowres_seg.cli.options import AsJson, Threads, app
from lowres_seg.cli.screen import out, print_json, steps


@app.command()
def demo(
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for what the demo writes.")] = Path(
        "demo-output"
    ),
    recipe: Annotated[Path, typer.Option(help="deepbet's recipe, as a checkout has it.")] = Path(
        "export/deepbet/recipe.toml"
    ),
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Do the main job on a real head: export, quantize, segment, compare."""
    from lowres_seg.demo import run

    with steps(quiet=False) as notify:
        result = run(output, recipe, threads=threads, notify=notify)
    if as_json:
        print_json(result.as_dict())
        return
    out.print(screen.comparison(result.rows))
    out.print("INT8 was calibrated on this very scan: a tour of the commands, not a test of accuracy.")
    for what, path in result.files.items():
        out.print(f"{what}: {path}")
