"""The cause of a failed conversion, in one line: what is left of a foreign exception without its frames and advice."""

from __future__ import annotations

import re

#: Exceptions of torch.onnx list their causes after this, the first one first.
_SUMMARY = "## Exception summary"
_SUMMARISED = re.compile(r"<class '([\w.]+)'>: (.+)")
#: Lines that say where in the other package it happened, or what to read.
_NOISE = re.compile(
    r"^(Exception from |Check '.*' failed at|FrontEnd API failed|Summary:|Traceback|File \"|\(?Refer to the full stack"
    r"|While executing|Original traceback|The following operation failed|~+ <--- HERE|from user code|Model wasn't fully"
    r"|Set TORCH|The error above occurred|For more|To fix|You can)",
    re.IGNORECASE,
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def cause_of(error: BaseException, *, most: int = 300) -> str:
    """Cause that a foreign exception names, in one line of at most `most` characters."""
    text = _COLOUR.sub("", str(error))
    if "data-dependent" in text:
        return "it branches on values of its input, or cuts by them"
    _, summary, after = text.partition(_SUMMARY)
    if summary and (found := _SUMMARISED.search(after)):
        kind = found[1].rpartition(".")[2]
        return _short(found[2] if kind.endswith(("DispatchError", "ConversionError")) else f"{kind}: {found[2]}", most)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if "not supported" in line.lower() or "No conversion rule" in line]
    if named:
        return _short(named[-1].removeprefix("-- "), most)
    here = [place for place, line in enumerate(lines) if line.endswith("<--- HERE")]
    if here and here[-1] + 1 < len(lines):
        rest = "\n".join(lines[here[-1] + 1 :])
        return _short(rest, most)
    told = [line for line in lines if not _NOISE.match(line)]
    return _short((told or [type(error).__name__])[-1], most)


def _short(text: str, most: int) -> str:
    return " ".join(text.split())[:most]
