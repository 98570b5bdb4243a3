"""Every error that `lowres_seg` raises on purpose.

::

    LowresSegError
    ├── BundleError             a bundle cannot be used
    │   ├── ManifestError       its manifest.json is not a valid manifest
    │   └── IntegrityError      a file is missing, changed, or outside the bundle
    ├── InputError              a scan, a path or an argument is unusable (also a ValueError)
    ├── EngineError             OpenVINO could not compile or run a network
    ├── ExportError             a source could not become a bundle
    │   └── ParityError         the converted network gives other numbers than its source
    ├── QuantizationError       a bundle could not be quantized
    │   └── AccuracyDropError   no attempt kept the limits on Dice and HD95
    ├── BenchmarkError          something could not be measured or compared
    │   └── RegressionError     a suite is slower, fatter or worse than its base
    └── MissingExtraError       an optional package is not installed (also an ImportError)

A message says where, what was found, what was expected and what to do, in one line. Exceptions of other
packages are translated in the one module that imports the package, and nowhere else.
"""

from __future__ import annotations


class LowresSegError(Exception):
    """Root of the tree: catch this to catch everything the package raises on purpose."""


class BundleError(LowresSegError):
    """A bundle cannot be used."""


class ManifestError(BundleError):
    """A manifest is not valid, or of a newer schema version than this code reads."""


class IntegrityError(BundleError):
    """A file of a bundle is missing, has changed, or lies outside the bundle."""


class InputError(LowresSegError, ValueError):
    """A scan, a path or an argument from the caller is unusable."""


class EngineError(LowresSegError):
    """OpenVINO could not compile or run a network."""


class ExportError(LowresSegError):
    """A source could not be turned into a bundle."""


class ParityError(ExportError):
    """The converted network gives other numbers than its source; no bundle was written."""


class QuantizationError(LowresSegError):
    """A bundle could not be quantized."""


class AccuracyDropError(QuantizationError):
    """No attempt kept the limits on Dice and HD95; no bundle was written."""


class BenchmarkError(LowresSegError):
    """Something could not be measured, or suites cannot be compared."""


class RegressionError(BenchmarkError):
    """A suite is slower, fatter or less accurate than its base, beyond the limits."""


class MissingExtraError(LowresSegError, ImportError):
    """An optional package is not installed; the message has the command that installs it."""


def one_line(error: BaseException, *, last: bool = False, most: int = 300) -> str:
    """Text of a foreign exception as one line, for the message of ours.

    Parameters
    ----------
    error : BaseException
    last : bool
        Take the last line only: OpenVINO and torch put file names and stack frames before it.
    most : int
        Number of characters kept.
    """
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return (lines[-1] if last else " ".join(lines))[:most]
