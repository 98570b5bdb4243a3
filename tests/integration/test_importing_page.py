from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_page_of_what_gets_in_is_the_importers_own(checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, checkout / "scripts" / "importing.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
