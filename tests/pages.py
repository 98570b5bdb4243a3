"""Pages whose blocks run: what a reader copies, in the order of the page, in one folder, on a terminal.

A block runs unless a comment before it says otherwise. The comments are::

    <!-- run: no: REASON -->      the block does not run
    <!-- numbers: vary -->        numbers that are printed need not be those of the page; digests neither
    <!-- exit: 3 -->              the last command of the block ends with this exit code, not 0
    <!-- file: NAME -->           the block is a file that the reader saves
    <!-- copy: ../PATH NAME -->   no block: the reader saves this file of the checkout, which the page links to
    <!-- after: PAGE.md -->       no block: the page starts with what the folder of another page ends with

Of a ``console`` block the lines that begin with ``$`` are commands, and go on behind a backslash. What follows a command
must be all that it prints; ``...`` stands for anything, and blanks do not count. Nothing is compared where nothing follows. A ``python`` block
that is no file is a program of its own. Blocks of other languages are files, or what a file holds: they do not run.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_PARTS = re.compile(
    r"^<!-- (?P<key>[a-z]+): (?P<value>.*?) -->$|^(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
#: Comments that belong to the next block, and those that stand alone.
_OF_A_BLOCK, _ALONE = ("run", "numbers", "exit", "file"), ("copy", "after")
_NUMBER = re.compile(r"\b[0-9a-f]{12}…|[+-]?\d+(\.\d+)?(e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """A block of a page, with the comments before it; or a comment that stands alone, with an empty language."""

    language: str
    text: str
    line: int
    said: dict[str, str] = field(default_factory=dict)

    def commands(self) -> Iterator[tuple[str, str]]:
        """Yield each command of a console block with the text that follows it."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            lines = part.splitlines(keepends=True)
            last = next(n for n, line in enumerate(lines) if not line.endswith("\\\n"))
            yield "".join(lines[: last + 1]).rstrip(), "".join(lines[last + 1 :])


def blocks(page: Path) -> list[Block]:
    """Read the blocks of a page in their order.

    Raises
    ------
    ValueError
        If a comment is unknown or belongs to no block, or a console block has text before its first command.
    """
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    said: dict[str, str] = {}
    for part in _PARTS.finditer(text):
        line = text.count("\n", 0, part.start()) + 1
        key = part["key"]
        if key in _OF_A_BLOCK:
            said[key] = part["value"]
        elif key in _ALONE:
            found.append(Block("", "", line, {key: part["value"]}))
        elif key is not None:
            raise ValueError(f"{page.name}:{line}: found the comment {key}, expected one of {_OF_A_BLOCK + _ALONE}")
        else:
            if part["language"] == "console" and not part["text"].startswith("$ "):
                raise ValueError(f"{page.name}:{line}: the block does not begin with a command")
            found.append(Block(part["language"], part["text"], line, said))
            said = {}
    if said:
        raise ValueError(f"{page.name}: a comment belongs to no block: {said}")
    return found


def not_run(block: Block) -> str | None:
    """Reason for which a block does not run; None if it runs or is saved."""
    if "run" in block.said:
        answer, _, reason = block.said["run"].partition(": ")
        if answer != "no" or not reason.strip():
            raise ValueError(f"line {block.line}: found run: {block.said['run']}, expected run: no: REASON")
        return reason
    return None


class Reader:
    """A person who follows a page: saves its files and types its commands on a terminal of 80 columns.

    Parameters
    ----------
    folder : pathlib.Path
        Where the person works.
    environment : dict of str to str
        On top of this process's. It lasts from command to command, with what they export.
    elsewhere : sequence of (str, str)
        Patterns of commands that are not typed, and why, for pages that have no comments.
    """

    def __init__(
        self, folder: Path, environment: dict[str, str] | None = None, elsewhere: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.folder = folder
        self.typed = 0
        self.skipped: list[str] = []
        self._elsewhere = elsewhere
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TERM": "dumb",  # lines as a person sees them in the end, without what moves and colours them
            "COLUMNS": "80",
            **(environment or {}),
        }
        self._exports = folder.parent / f"{folder.name}.exports"
        self._exports.touch()

    def follow(self, page: Path, *, start: Callable[[str], Path] | None = None) -> None:
        """Do all that a page says.

        Parameters
        ----------
        page : pathlib.Path
        start : callable, optional
            Gives the folder that another page ends with.

        Raises
        ------
        AssertionError
            If a command ends otherwise or prints something else than the page says.
        """
        for block in blocks(page):
            where = f"{page.name}:{block.line}"
            reason = not_run(block)
            if reason is not None:
                self.skipped.append(f"{where}: {reason}")
            elif "after" in block.said:
                assert start is not None, f"{where}: no other page is at hand"
                shutil.copytree(start(block.said["after"]), self.folder, dirs_exist_ok=True)
            elif "copy" in block.said:
                source, name = block.said["copy"].split()
                assert f"]({source})" in page.read_text(encoding="utf-8"), f"{where}: the page has no link to {source}"
                shutil.copy(page.parent / source, self.folder / name)
            elif "file" in block.said:
                (self.folder / block.said["file"]).write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                self._type(f"python -c {shlex.quote(block.text)}", where)
            elif block.language == "console":
                self._console(block, where)

    def _console(self, block: Block, where: str) -> None:
        pairs = list(block.commands())
        for number, (command, expected) in enumerate(pairs, start=1):
            reason = next((reason for pattern, reason in self._elsewhere if re.match(pattern, command)), None)
            if reason is not None:
                self.skipped.append(f"{where}: {command}: {reason}")
                continue
            code = int(block.said.get("exit", "0")) if number == len(pairs) else 0
            printed = self._type(command, f"{where}: $ {command}", code)
            assert _agree(expected, printed, vary="numbers" in block.said), (
                f"{where}: $ {command}\nthe page says:\n{expected}\nprinted:\n{printed}"
            )

    def _type(self, command: str, where: str, code: int = 0) -> str:
        """Run a command in bash on a terminal of its own, and give what it printed."""
        exports = shlex.quote(str(self._exports))
        script = f". {exports}\n{command}\ncode=$?\nexport -p > {exports}\nexit $code"
        near, far = pty.openpty()
        with subprocess.Popen(
            ["bash", "-c", script], cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=far, stderr=far
        ) as process:  # fmt: skip
            os.close(far)
            printed = b"".join(iter(lambda: _read(near), b"")).decode(errors="replace").replace("\r\n", "\n")
        os.close(near)
        self.typed += 1
        print(f"$ {command}\n{printed}")  # noqa: T201 shown where a test fails
        assert process.returncode == code, f"{where}\nexit code {process.returncode}, expected {code}:\n{printed}"
        return printed


def _agree(expected: str, printed: str, *, vary: bool) -> bool:
    """True if a page says what is printed, or nothing."""
    if vary:
        expected, printed = (_NUMBER.sub("0", text) for text in (expected, printed))
    pieces = [re.escape(" ".join(piece.split())) for piece in re.split(r"\s*\.\.\.(?!\.)\s*", expected)]
    return not expected or re.fullmatch(".*?".join(pieces), " ".join(printed.split()), re.DOTALL) is not None


def _read(terminal: int) -> bytes:
    """What a terminal has to say; nothing when all who write to it have ended."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
