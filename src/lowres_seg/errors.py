"""The errors that `lowres_seg` raises on purpose.

::

    LowresSegError
    ├── BundleError             a bundle cannot be used
    │   ├── ManifestError       its manifest.json is not a valid manifest
    │   └── IntegrityError      a file is missing, has changed, or lies outside; or it is not signed
    ├── InputError              a scan, a path or an argument is unusable (also a ValueError)
    ├── EngineError             OpenVINO could not compile or run a network
    ├── CancelledError          a prediction was cancelled by its caller
    ├── DeadlineError           a prediction was not done in the time that its caller allowed
    ├── ExportError             a source could not become a bundle
    │   └── ParityError         the converted network gives other numbers than its source
    ├── QuantizationError       a bundle could not be quantized
    │   └── AccuracyDropError   no attempt kept the limits on Dice and HD95
    ├── BenchmarkError          something could not be measured or compared
    │   └── RegressionError     a suite is slower, fatter or worse than its base
    └── MissingExtraError       an optional package is not installed (also an ImportError)

A message says in one line where the problem is, what was found, what was expected and what to do. Line breaks and
other control characters, as of the name of a file, are shown as their escapes. Exceptions of other packages are
translated in the one module that imports the package.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

#: First characters of a key's text.
PEM = "-----BEGIN"
#: Categories of characters that break a line or steer a terminal.
_CONTROLS = ("Cc", "Zl", "Zp")


class Lines(str):
    """A message of several lines: of a gate that was not met with its table, or of several faults of one file."""

    __slots__ = ()

    @classmethod
    def of(cls, lines: Iterable[str]) -> Lines:
        """Message of some lines, each of them one."""
        return cls("\n".join(map(in_one_line, lines)))


class LowresSegError(Exception):
    """Root of the tree. Catch it to catch every error of this package."""

    def __init__(self, *args: object) -> None:
        plain = (in_one_line(one) if isinstance(one, str) and not isinstance(one, Lines) else one for one in args)
        super().__init__(*plain)


class BundleError(LowresSegError):
    """A bundle cannot be used."""


class ManifestError(BundleError):
    """A manifest is not valid, or has a newer schema version than this code reads."""


class IntegrityError(BundleError):
    """A file of a bundle is missing, has changed, or lies outside the bundle; or the required key has not signed it."""


class InputError(LowresSegError, ValueError):
    """A scan, a path or an argument from the caller is unusable."""


class EngineError(LowresSegError):
    """OpenVINO could not compile or run a network."""


class CancelledError(LowresSegError):
    """A prediction was cancelled by its caller. There is no result."""


class DeadlineError(LowresSegError):
    """A prediction was not done in the time that its caller allowed. There is no result."""


class ExportError(LowresSegError):
    """A source could not be turned into a bundle."""


class ParityError(ExportError):
    """The converted network gives other numbers than its source. No bundle was written."""


class QuantizationError(LowresSegError):
    """A bundle could not be quantized."""


class AccuracyDropError(QuantizationError):
    """No attempt kept the limits on Dice and HD95. No bundle was written."""


class BenchmarkError(LowresSegError):
    """Something could not be measured, or suites cannot be compared."""


class RegressionError(BenchmarkError):
    """A suite is slower, fatter or less accurate than its base, beyond the limits."""


class MissingExtraError(LowresSegError, ImportError):
    """An optional package is not installed. The message has the command that installs it."""


def one_line(error: BaseException, *, most: int = 300) -> str:
    """Text of a foreign exception in one line of at most `most` characters, for the message of ours."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def last_line(error: BaseException, *, most: int = 300) -> str:
    """Last line of a foreign exception. OpenVINO and torch put file names and stack frames before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:most] if lines else type(error).__name__


def in_one_line(text: str) -> str:
    r"""Text whose line breaks and other control characters are shown as their escapes.

    Examples
    --------
    >>> print(in_one_line("head\\nfoot.nii"))
    head\nfoot.nii
    """
    if text.isprintable():
        return text
    return "".join(ascii(one)[1:-1] if unicodedata.category(one) in _CONTROLS else one for one in text)


def shown(value: object, *, most: int = 80) -> str:
    """Repr of a value from elsewhere, for a message: in one line, without control characters, shortened."""
    lines = (line.strip() for line in repr(value).splitlines())
    text, begins, _ = in_one_line(" ".join(lines)).partition(PEM)
    if begins:  # a key is not repeated
        return f"{text}{PEM}…"
    return text if len(text) <= most else f"{text[: most - 1]}…"
