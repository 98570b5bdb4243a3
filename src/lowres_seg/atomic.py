"""Outputs that appear whole or not at all.

An output is written under a temporary name beside its target, and one rename puts it in place. A failure or an
interruption leaves the target as it was.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lowres_seg.errors import InputError


def check_target(target: Path, *, force: bool = False) -> None:
    """Check before any work that an output can be put in place.

    Raises
    ------
    InputError
        If `target` exists and not `force`, or its folder is missing or cannot be written.
    """
    if target.exists() and not force:
        raise InputError(f"{target}: exists already; choose another output or pass --force to replace it")
    parent = target.parent
    if not parent.is_dir():
        raise InputError(f"{target}: its folder {parent} does not exist; create it first")
    try:
        descriptor, probe = tempfile.mkstemp(dir=parent, prefix=f".{target.name}.")
    except OSError as error:
        raise InputError(f"{target}: its folder {parent} cannot be written ({error.strerror})") from error
    os.close(descriptor)
    Path(probe).unlink()


@contextmanager
def directory(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder. It becomes `target` when the block ends without an error."""
    check_target(target, force=force)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield staging
        staging.chmod(0o755)
        if target.exists():
            retired = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
            target.rename(retired / "was")
            staging.rename(target)
            shutil.rmtree(retired)
        else:
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def file(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a path with the suffixes of `target`. The file written there becomes `target`."""
    check_target(target, force=force)
    if target.is_dir():
        raise InputError(f"{target}: is a folder, expected the path of a file")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        staged = Path(folder) / target.name
        yield staged
        staged.replace(target)
