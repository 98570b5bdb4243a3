"""NOTICE, made of the metadata of the packages that ``pip install lowres-seg`` brings."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

PAGE = Path(__file__).resolve().parents[1] / "NOTICE"
HEAD = """lowres-seg
Licensed under the Apache License, Version 2.0; see LICENSE.

The wheel of lowres-seg holds NiiVue and what it needs, a viewer for the pages of `lowres-seg view`. Their licences
(BSD-2, MIT, ISC) lie in lowres_seg/view/niivue-licences.txt, and in each page. It holds no other code of others.
Installing it without extras brings these packages from their own distributions, each under its own licence. This
file is made by scripts/notice from their metadata. docs/licences.md says what the LGPL of some of them means for
software that embeds lowres-seg.

"""


def main() -> None:
    """Write the file."""
    PAGE.write_text(HEAD + "\n".join(lines()) + "\n", encoding="utf-8")


def lines() -> list[str]:
    """Name, version and licence of each package of the base environment, in the order of names."""
    found = sorted(packages("lowres-seg").values(), key=lambda one: name_of(one).lower())
    return [f"{name_of(one):26} {one.version:12} {licence(one)}" for one in found]


def packages(root: str) -> dict[str, Distribution]:
    """What a package requires without extras, and what that requires, as far as it is installed."""
    found: dict[str, Distribution] = {}
    waiting = [root]
    while waiting:
        for line in distribution(waiting.pop()).requires or []:
            required = Requirement(line)
            if plain(required.name) in found:
                continue
            if required.marker is None or required.marker.evaluate({"extra": ""}):  # else of another system or Python
                found[plain(required.name)] = distribution(required.name)
                waiting.append(required.name)
    return found


def licence(package: Distribution) -> str:
    """Licence of a package, as its metadata has it: as an expression, in a word, or as a classifier."""
    about = package.metadata
    named = about.get("License-Expression") or about.get("License") or ""
    if named and "\n" not in named:
        return named
    classes = [line for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    if not classes:
        raise SystemExit(
            f"{name_of(package)}: its metadata has no licence; look it up, and name it in scripts/notice.py"
        )
    return " and ".join(line.rpartition(" :: ")[2] for line in classes)


def name_of(package: Distribution) -> str:
    """Name of a package as it writes itself."""
    return package.metadata["Name"]


def plain(name: str) -> str:
    """Name of a package as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
