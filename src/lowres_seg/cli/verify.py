"""The command that checks a bundle: verify."""

from __future__ import annotations

from dataclasses import asdict

import typer

from lowres_seg.cli.options import (
    EXIT_GATE,
    AsJson,
    BundlePath,
    Debug,
    MaxRam,
    NoCache,
    Quiet,
    RequireKey,
    Threads,
    app,
    compiled_cache,
    ram_bytes,
)
from lowres_seg.cli.screen import importing, out, plain, print_json, steps
from lowres_seg.wording import counted


@app.command()
def verify(
    bundle: BundlePath,
    *,
    threads: Threads = None,
    max_ram: MaxRam = None,
    require_key: RequireKey = None,
    no_cache: NoCache = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check every file of a bundle, and run its reference case."""
    with importing():
        from lowres_seg.bundle.bundle import Bundle
        from lowres_seg.bundle.contents import SIGNATURE_NAME
        from lowres_seg.runtime.segmenter import Segmenter

    bound_bytes = ram_bytes(max_ram)
    with steps(quiet=quiet) as notify:
        notify("checking files")
        opened = Bundle.open(bundle, require_key=require_key)
        cache = compiled_cache(no_cache=no_cache, key=opened.signed_by)
        segmenter = Segmenter.load(opened, threads=threads, lean=True, max_ram_bytes=bound_bytes, cache=cache)
        notify("running the reference case")
        result = segmenter.self_test()
    bound = segmenter.manifest.reference
    if as_json:
        print_json(
            {
                "bundle": str(bundle),
                "sha256": opened.digest,
                "files": len(segmenter.manifest.files),
                "signed_by": opened.signed_by,
                "bound": bound.model_dump(),
                **asdict(result),
            }
        )
    elif not quiet or not result.passed:
        worst = max(result.max_abs_diff.values(), default=0.0)
        by = "" if opened.signed_by is None else f", signed by the key {opened.signed_by[:16]}…"
        if opened.signed_by is None and (bundle / SIGNATURE_NAME).exists():
            by = "; its signature was not checked, name the key with --require-key"
        files = counted(len(segmenter.manifest.files), "file")
        out.print(plain(f"{bundle}: sha256 {opened.digest[:12]}…, {files} as listed{by}"))
        flips = f", {100 * result.flipped:.4f}% of the voxels flip (allowed {100 * bound.max_flipped:g}%)"
        out.print(
            f"reference case: scores differ by up to {worst:.2g} (allowed {bound.max_abs_diff:g})"
            + (flips if segmenter.manifest.labels else "")
        )
        out.print(
            "[green]passed[/]"
            if result.passed
            else "[bold red]failed[/]: this machine does not give what the bundle promises"
        )
    if not result.passed:
        raise typer.Exit(EXIT_GATE)
