"""Targets that are checked before any work, and files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lowres_seg.atomic import renames
from lowres_seg.atomic.staging import WAS, staging, sweep
from lowres_seg.endings import put_off
from lowres_seg.errors import InputError, one_line

#: What a user can do about an output that cannot be written, by the system's answer.
_CURES = {
    errno.ENOSPC: "free space there or choose another output",
    errno.EDQUOT: "free space there or choose another output",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f) or choose another output",
    errno.ENOENT: "its folder was removed meanwhile; create it and run again",
}


def check_target(target: Path, *, force: bool = False, inputs: Iterable[Path] = (), folder: bool = False) -> None:
    """Check before any work that one output can be put in place, as `check_targets` does."""
    check_targets([target], force=force, inputs=inputs, folder=folder)


def check_targets(
    targets: Sequence[Path],
    *,
    force: bool = False,
    inputs: Iterable[Path] = (),
    folder: bool = False,
    make_folders: bool = False,
) -> None:
    """Check before any work that outputs can be put in place, and remove what killed runs left there.

    Parameters
    ----------
    targets : sequence of pathlib.Path
        The outputs.
    force : bool
        Whether outputs that exist may be replaced.
    inputs : iterable of pathlib.Path
        Files and folders that are read. No output is one of them under any name, lies inside such a folder, or has one
        of them inside itself, also with `force`. An input may be missing.
    folder : bool
        Whether the outputs are folders. A folder never replaces a file, nor a file a folder.
    make_folders : bool
        Make the folders of the outputs that are missing, when all else is right.

    Raises
    ------
    InputError
        If a target is an input, if two targets are one file, if a target exists and not `force`, or if its folder is
        missing or cannot be written.
    """
    _refuse_inputs(targets, list(inputs))
    _refuse_unplaceable(targets, force=force, in_folders=not make_folders)
    for target in targets:
        with _readable(target):
            if not folder:
                _refuse_other_file(target)
            elif target.exists() and not target.is_dir():
                raise InputError(f"{target}: is a file, expected the path of a folder; choose another output")
    for parent, target in {target.parent: target for target in reversed(targets)}.items():
        sweep(parent)
        try:
            if make_folders:
                parent.mkdir(parents=True, exist_ok=True)
            with staging(parent):
                pass
        except OSError as error:
            raise InputError(
                f"{target}: its folder {parent} cannot be written ({error.strerror}); choose another output"
            ) from error


@contextmanager
def directory(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder. It becomes `target` when the block ends without an error.

    With `force` the name means the old folder or the new one at every moment, where the system can exchange two names;
    elsewhere it is missing between two renames, and a process that is killed there has them undone by the next one.

    Raises
    ------
    InputError
        If `target` exists and not `force`, also if it appeared meanwhile, or if it cannot be written.
    """
    _refuse_unplaceable([target], force=force)
    sweep(target.parent)
    with _told(target), staging(target.parent) as folder:
        staged = folder / f".{target.name}.new"
        staged.mkdir()
        yield staged
        staged.chmod(0o755)
        renames.sync(staged)
        with put_off():
            if force and os.path.lexists(target):
                _replace_folder(staged, target, folder / WAS / target.name)
            else:
                renames.place(staged, target)
            renames.sync_names(target.parent)


@contextmanager
def file(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a path with the name of `target`. The file written there becomes `target`.

    Raises
    ------
    InputError
        As of `files`.
    """
    with files([target], force=force) as staged:
        yield staged[0]


@contextmanager
def files(targets: Sequence[Path], *, force: bool = False) -> Iterator[list[Path]]:
    """Yield a path for each of several files of one folder. Together they become the targets, or none does.

    Raises
    ------
    InputError
        If a target exists and not `force`, also if it appeared meanwhile; if it is a folder, or cannot be written.
    """
    _refuse_unplaceable(targets, force=force)
    for target in targets:
        _refuse_other_file(target)
    parent = targets[0].parent
    sweep(parent)
    with _told(targets[0]), staging(parent) as folder:
        staged = [folder / target.name for target in targets]
        yield staged
        for path in staged:
            renames.sync(path)
        with put_off():
            _put(staged, targets, folder / ".old.lowres-seg", force=force)
            renames.sync_names(parent)


def unwritable(target: Path, error: OSError) -> InputError:
    """The error of an output that the system does not let be written."""
    reason = error.strerror or one_line(error)
    number = error.errno or 0
    return InputError(f"{target}: cannot be written ({reason}); {_CURES.get(number, 'choose another output')}")


def _put(staged: Sequence[Path], targets: Sequence[Path], old: Path, *, force: bool) -> None:
    """Give files their names. If one cannot have its name, those before it are taken back."""
    done: list[tuple[Path, Path | None]] = []
    try:
        for path, target in zip(staged, targets, strict=True):
            kept = None
            if force and os.path.lexists(target):
                old.mkdir(exist_ok=True)
                kept = old / target.name
                _keep(target, kept)
                path.replace(target)
            else:
                renames.place(path, target)
            done.append((target, kept))
    except BaseException:
        for target, kept in reversed(done):
            if kept is None:
                target.unlink()
            else:
                kept.replace(target)
        raise


def _keep(target: Path, kept: Path) -> None:
    """Keep a file that is going to be replaced under a second name."""
    try:
        os.link(target, kept, follow_symlinks=False)
    except OSError:  # no hard links there
        shutil.copy2(target, kept, follow_symlinks=False)


def _replace_folder(staged: Path, target: Path, was: Path) -> None:
    if renames.exchange(staged, target):
        return
    was.parent.mkdir()
    target.rename(was)
    try:
        staged.rename(target)
    except BaseException:
        was.rename(target)
        raise


@contextmanager
def _told(target: Path) -> Iterator[None]:
    """Errors of the system become errors that name the target, and not the hidden folder."""
    try:
        yield
    except FileExistsError as error:
        raise InputError(
            f"{os.fsdecode(error.filename2 or error.filename)}: exists already, another process made it meanwhile; "
            "choose another output or pass --force (force=True)"
        ) from error
    except OSError as error:
        raise _told_error(target, error) from error


def _told_error(target: Path, error: OSError) -> InputError:
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    if name and not name.startswith(str(target.parent)):
        return InputError(f"{target}: was not written, because of {name} ({error.strerror}); make that usable first")
    return unwritable(target, error)


@contextmanager
def _readable(target: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{target}: its folder {target.parent} does not exist; create it first") from error
    except OSError as error:
        raise InputError(
            f"{target}: its folder cannot be looked into ({error.strerror}); choose an output in a folder that you may "
            "read and write"
        ) from error


def _refuse_unplaceable(targets: Sequence[Path], *, force: bool, in_folders: bool = True) -> None:
    seen: set[str] = set()
    for target in targets:
        with _readable(target):
            where = os.path.realpath(target)
            if where in seen:
                raise InputError(f"{target}: two outputs have this name; give each a name of its own")
            seen.add(where)
            if in_folders and not stat.S_ISDIR(target.parent.stat().st_mode):
                raise NotADirectoryError
            if not force and os.path.lexists(target):
                raise InputError(
                    f"{target}: exists already; choose another output or pass --force (force=True) to replace it"
                )


def _refuse_other_file(target: Path) -> None:
    """Refuse to replace what is no file that holds data."""
    if target.is_dir():
        raise InputError(f"{target}: is a folder, expected the path of a file")
    if target.exists() and not target.is_file():
        raise InputError(f"{target}: is a device or a pipe, expected the path of a file; choose another output")


def _refuse_inputs(targets: Sequence[Path], inputs: Sequence[Path]) -> None:
    named: dict[tuple[int, int], Path] = {}
    inside: dict[tuple[int, int], Path] = {}
    folders: dict[tuple[int, int], Path] = {}
    for given in inputs:
        if (identity := _identity(given)) is None:
            continue
        named[identity] = given
        if given.is_dir():
            folders[identity] = given
        for parent in Path(os.path.realpath(given)).parents:
            if (around := _identity(parent)) is not None:
                inside[around] = given
    for target in targets:
        identity = _identity(target)
        if identity in named:
            raise InputError(
                f"{target}: is the input {named[identity]}, and an input is never an output; choose another"
            )
        if identity in inside:
            raise InputError(f"{target}: holds the input {inside[identity]}; choose another output, also with --force")
        for parent in Path(os.path.realpath(target)).parents:
            if (around := _identity(parent)) in folders:
                raise InputError(
                    f"{target}: lies inside the input {folders[around]}, which is only read; choose another output"
                )


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and number of a file or folder, the same under each of its names; None if there is none."""
    with suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None
