"""The command that signs bundles: sign."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lowres_seg.cli.options import AsJson, Debug, Force, Quiet, app
from lowres_seg.cli.screen import importing, out, plain, print_json


@app.command()
def sign(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.", show_default=False)
    ] = None,
    *,
    key: Annotated[Path | None, typer.Option(metavar="KEY", help="Private key to sign with (PEM, Ed25519).")] = None,
    new_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Make a pair of keys in its place: FILE and FILE.pub.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Sign a bundle, so that a workstation takes no other one.

    With --new-key, make the keys.
    """
    with importing():
        from lowres_seg.bundle import signature
        from lowres_seg.bundle.bundle import sign as run

    if new_key is not None:
        if bundle is not None or key is not None:
            raise typer.BadParameter("goes alone; sign with the new key in a second command", param_hint="--new-key")
        identity = signature.new_key(new_key)
        done = f"{new_key}: written, private, readable by you alone; {new_key}.pub is its public key"
    elif bundle is None or key is None:
        raise typer.BadParameter("needs both, or --new-key alone", param_hint="BUNDLE and --key")
    else:
        identity = run(bundle, key, force=force)
        done = f"{bundle}: signed"
    if as_json:
        print_json({"path": str(new_key or bundle), "key": identity})
    elif not quiet:
        out.print(plain(f"{done}, key {identity[:16]}…"))
