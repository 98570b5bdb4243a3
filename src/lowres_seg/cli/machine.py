"""The command that looks at the machine: doctor."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from lowres_seg import __version__, extras
from lowres_seg.cli.options import AsJson, Debug, app
from lowres_seg.cli.screen import importing, out, plain, print_json, print_row
from lowres_seg.errors import InputError


@app.command()
def doctor(
    *,
    clear_cache: Annotated[
        bool, typer.Option("--clear-cache", help="Remove the compiled networks that are kept, and do nothing else.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show cores, memory, instruction sets and versions.

    Also the speed of each precision, and where compiled networks are kept.
    """
    with importing():
        from importlib.metadata import version as version_of

        from lowres_seg import host
        from lowres_seg.runtime.compiled_cache import CompiledCache
        from lowres_seg.runtime.openvino_engine import version
        from lowres_seg.runtime.probe import convolution_seconds

    cache, fault = None, ""
    try:
        cache = CompiledCache.of_user()
    except InputError as error:
        fault = str(error)
    if clear_cache:
        if fault:
            raise InputError(f"{fault}; nothing was removed")
        size = 0 if cache is None else cache.clear()
        kept = {"folder": None if cache is None else str(cache.folder), "removed_bytes": size}
        if as_json:
            print_json({"cache": kept})
        else:
            out.print(plain(f"{kept['folder'] or 'no cache'}: {size / 1e6:.1f} MB of compiled networks removed"))
        return
    machine = host.inspect()
    omp = host.about_omp(machine)
    average, before = host.load_average(), host.load()
    seconds = convolution_seconds(threads=machine.threads)
    doubts = host.crowded(machine, average) + host.busy(before, host.load())
    gains = {precision: seconds["f32"] / value for precision, value in seconds.items()}
    versions = {"lowres-seg": __version__, "openvino": version()}
    versions |= {name: version_of(name) for name in ("numpy", "nibabel")}
    missing = {extra: extras.missing(extra) for extra in extras.EXTRAS}
    held: dict[str, Any] | None = {"fault": fault} if fault else None
    if cache is not None:
        held = {"folder": str(cache.folder), "bytes": cache.size_bytes()}
    if as_json:
        print_json(
            {
                **asdict(machine),
                "threads": machine.threads,
                "omp_num_threads": omp or None,
                "versions": versions,
                "gain_over_f32": gains,
                "load_average": average,
                "doubts": doubts,
                "cache": held,
                "missing": missing,
            }
        )
        return
    quota = "none" if machine.quota is None else f"{machine.quota:g} {'core' if machine.quota == 1 else 'cores'}"
    rows = {
        "CPU": machine.cpu,
        "system": f"{machine.system}, Python {machine.python}",
        "cores": f"{machine.physical_cores} physical, {machine.logical_cores} logical, "
        f"{machine.affinity} granted; quota {quota}",
        "threads": f"{machine.threads} (what lowres-seg will use)" + (f"; {omp}" if omp else ""),
        "memory": f"{machine.memory_limit_bytes / 2**30:.1f} of {machine.memory_bytes / 2**30:.1f} GiB granted",
        "instruction sets": " ".join(machine.features) or "unknown on this system",
        "compiled networks": fault or "not kept: no folder of your own can be written"
        if cache is None
        else f"{cache.size_bytes() / 1e6:.1f} MB",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "extras": ", ".join(
            f"{extra}: {'missing ' + ' '.join(names) if names else 'installed'}" for extra, names in missing.items()
        ),
    }
    rows |= {
        f"convolutions in {precision}": f"{gain:.1f}× the speed of f32" + _verdict(precision, gain)
        for precision, gain in gains.items()
        if precision != "f32"
    }
    rows["load"] = f"{average:.1f} processes on average of the last minute"
    left = max(map(len, rows)) + 2
    for name, value in rows.items():
        print_row(name, value, left=left)
    if cache is not None:
        out.print(plain(f"{'kept in':{left}}{cache.folder}"))  # in one line, so that it can be copied
    for doubt in doubts:
        out.print(plain(f"doubt: {doubt}"))


def _verdict(precision: str, gain: float) -> str:
    if gain < 1.1:
        return f": {precision} is no faster on this CPU"
    return f": {precision} is faster on this CPU"
