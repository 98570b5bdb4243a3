"""The command line in a process of its own, under an audit hook that writes down every attempt to reach a network."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_CODE = """
import sys
reached = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"):
        reached.append((event, str(arguments)[:200]))
sys.addaudithook(watch)
sys.argv = ["lowres-seg", *sys.argv[1:]]
from lowres_seg.cli import main
try:
    main()
except SystemExit as end:
    code = end.code
import time; time.sleep(0.5)
print(code or 0, reached, sorted(m for m in {names!r} if sys.modules.get(m) is not None), file=sys.stderr)
"""


def watched(home: Path, *words: object, modules: Sequence[str]) -> str:
    """Exit code, what reached for a network, and which of some modules were imported, in one line."""
    code = _CODE.replace("{names!r}", repr(tuple(modules)))
    environment = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=True, env=environment
    )
    return done.stderr.strip().splitlines()[-1]
