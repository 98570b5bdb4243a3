"""The command line: parse, one library call, format, exit code.

`application` has the application and its exit codes, and the commands are in one module for each group.
`options` has what commands share, `screen` what a person sees.
"""

from typing import TYPE_CHECKING

from lowres_seg.extras import on_demand

if TYPE_CHECKING:
    from lowres_seg.cli.application import app, main

__all__ = ["app", "main"]

__getattr__, __dir__ = on_demand(__name__, {"app": "application", "main": "application"})
