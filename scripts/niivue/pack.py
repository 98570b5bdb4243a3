"""Pack the viewer that `build` made: the script, where it is from, and the licences of all that is in it.

    pack.py WORK TARGET

WORK has what esbuild wrote and the packages of npm; the files go to TARGET.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
#: NiiVue's package on npm has no copy of its licence; this one is of its repository.
OWN = {"@niivue/niivue": HERE / "LICENSE-niivue.txt"}
HEAD = """\
The viewer is NiiVue with the packages that it needs, and the letters of the font Roboto (Google, Apache-2.0 as
lowres-seg itself) as a texture. niivue.json has the version and the digest of each package. Their licences:
"""


def main() -> None:
    """Write the files."""
    work, target = map(Path, sys.argv[1:])
    script = (work / "niivue.js").read_bytes()
    lock = json.loads((work / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    (output,) = json.loads((work / "parts.json").read_text(encoding="utf-8"))["outputs"].values()
    used = {of_package(path) for path, part in output["inputs"].items() if part["bytesInOutput"]} - {None}
    parts, licences = {}, [HEAD]
    for name in sorted(used):
        folder = work / "node_modules" / name
        text = OWN.get(name) or next(path for path in folder.iterdir() if path.name.lower().startswith("license"))
        locked = lock[f"node_modules/{name}"]
        parts[name] = {key: locked[key] for key in ("version", "license", "integrity")}
        licences.append(f"{'=' * 80}\n{name} {locked['version']}\n\n{text.read_text(encoding='utf-8').strip()}\n")
    origin = {"sha256": hashlib.sha256(script).hexdigest(), "bytes": len(script), "packages": parts}
    target.mkdir(parents=True, exist_ok=True)
    (target / "niivue.js.gz").write_bytes(gzip.compress(script, 9, mtime=0))
    (target / "niivue.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    (target / "niivue-licences.txt").write_text("\n".join(licences), encoding="utf-8")
    print(f"{target}: {origin['sha256']}, {len(script)} bytes of {', '.join(parts)}")


def of_package(path: str) -> str | None:
    """Name of the package that a file is of, or None of one that is ours."""
    found = re.match(r"node_modules/((?:@[^/]+/)?[^/]+)/", path)
    return found and found[1]


if __name__ == "__main__":
    main()
