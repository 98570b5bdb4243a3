"""Hooks of the documentation site: what is made while it is built.

- A comment such as ``<!-- made: commands -->`` in a page becomes what its function here makes of the program: the help
  of every command, the keys of a JSON Schema, or the table of README.md.
- Pages that lie outside docs/ are on the site too, in the folder of their name. A link from page to page is written as
  it is in the repository, and is turned into the one that the site needs. A link to a file that the site has not
  becomes its text.
- A pattern in the navigation, such as ``docs/adr/*.md``, stands for the pages that it finds.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from lowres_seg.cli.application import app

CHECKOUT = Path(__file__).resolve().parents[1]
#: Files outside docs/ that the site has. One without a suffix gets one, so that a browser shows it.
OUTSIDE = [
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "NOTICE", "benchmarks/README.md", "benchmarks/RESULTS.md"),
    *(path.relative_to(CHECKOUT).as_posix() for path in CHECKOUT.glob("export/*/MODEL_CARD.md")),
    *(path.relative_to(CHECKOUT).as_posix() for path in CHECKOUT.glob("benchmarks/results/*.txt")),
]
ON_SITE = {name: name if Path(name).suffix else f"{name}.txt" for name in OUTSIDE}
IN_CHECKOUT = {there: here for here, there in ON_SITE.items()}
#: A block of code, code in a line, or a link: its text and its target.
CODE_OR_LINK = re.compile(r"^```.*?^```|`[^`\n]*`|\[([^\[\]]*)\]\(([^()\s]+)\)", re.MULTILINE | re.DOTALL)
MADE = re.compile(r"^<!-- made: (\w+)(?: (\w+))? -->$", re.MULTILINE)
#: What makes a browser ask another host as soon as a page is opened.
FOREIGN = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\ssrc=\"(?:https?:)?//|<link\b[^>]*\shref=\"(?:https?:)?//")


def on_config(config: MkDocsConfig) -> None:
    """Put pages in place of the patterns of the navigation."""
    config.nav = [_found(item) for item in config.nav or []]


def _found(item: Any) -> Any:
    if isinstance(item, str):
        return item
    [(title, value)] = item.items()
    if isinstance(value, list):
        return {title: [_found(one) for one in value]}
    if "*" not in value:
        return item
    return {
        title: [path.relative_to(CHECKOUT).as_posix().removeprefix("docs/") for path in sorted(CHECKOUT.glob(value))]
    }


def on_files(files: Files, *, config: MkDocsConfig) -> None:
    """Add the pages outside docs/."""
    for here, there in ON_SITE.items():
        files.append(File.generated(config, there, abs_src_path=str(CHECKOUT / here)))


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Make what a page asks for, and turn its links."""
    there = page.file.src_uri
    here = IN_CHECKOUT.get(there, f"docs/{there}")
    makers = {"commands": commands, "keys": keys, "measured": measured}
    text = MADE.sub(lambda found: makers[found[1]](*filter(None, [found[2]])), markdown)
    return CODE_OR_LINK.sub(lambda found: turned(found, here, there), text)


def turned(found: re.Match[str], here: str, there: str) -> str:
    """A link of a page that is `here` in the repository and `there` on the site."""
    text, target = found[1], found[2]
    if target is None or target.startswith("#") or ":" in target:
        return found[0]
    path, mark, anchor = target.partition("#")
    goal = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
    if goal.startswith("docs/"):
        goal = goal.removeprefix("docs/")
    elif goal in ON_SITE:
        goal = ON_SITE[goal]
    else:  # what is in neither place stays a link, and MkDocs refuses it
        return text if (CHECKOUT / goal).exists() else found[0]
    return f"[{text}]({posixpath.relpath(goal, posixpath.dirname(there) or '.')}{mark}{anchor})"


def on_post_page(output: str, *, page: Page, **_: Any) -> str:
    """Check that a page asks no other host."""
    if found := FOREIGN.search(output):
        msg = f"{page.file.src_uri}: a reader's browser would ask another host: {output[found.start() :][:120]}"
        raise PluginError(msg)
    return output


def commands() -> str:
    """Help of every command, in the order of the application's help."""
    root: Any = typer.main.get_command(app)
    parent = root.context_class(root, info_name="lowres-seg")
    parts = [f"## lowres-seg\n\n{_help(root, parent)}"]
    for name, command in root.commands.items():
        context = command.context_class(command, info_name=name, parent=parent)
        parts.append(f"## {name}\n\n{_help(command, context)}")
    return "\n\n".join(parts)


def _help(command: Any, context: Any) -> str:
    usage = " ".join(command.collect_usage_pieces(context))
    shown = [one for one in command.get_params(context) if one.name != "show_completion"]  # help hides it too
    rows = [record for one in shown if (record := one.get_help_record(context)) is not None]
    table = "\n".join(f"| `{cell(names)}` | {cell(' '.join(said.split()))} |" for names, said in rows)
    paragraphs = "\n\n".join(" ".join(one.split()) for one in command.help.split("\n\n"))
    return f"```text\n{context.command_path} {usage}\n```\n\n{paragraphs}\n\n| option | meaning |\n|---|---|\n{table}"


def cell(text: str) -> str:
    """Text as a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")


def keys(name: str) -> str:
    """Keys of a JSON Schema of docs/, a table for each object."""
    schema = json.loads((CHECKOUT / "docs" / f"{name}.schema.json").read_text(encoding="utf-8"))
    objects = {
        schema["title"]: schema,
        **{title: part for title, part in schema["$defs"].items() if "properties" in part},
    }
    return "\n\n".join(f"## {title}\n\n" + "\n".join(_object(part)) for title, part in objects.items())


def _object(part: dict[str, Any]) -> Iterator[str]:
    about, *_ = part.get("description", "").split("\n\nAttributes\n")
    said = dict(re.findall(r"^(\w+) : .*\n((?: {4}.*\n?)+)", part.get("description", ""), re.MULTILINE))
    yield re.sub(r"``", "`", about) + "\n"
    yield (
        "| key | value | default | meaning |\n|---|---|---|---|" if said else "| key | value | default |\n|---|---|---|"
    )
    required = part.get("required", ())
    for key, value in part["properties"].items():
        default = "required" if key in required else _default(value.get("default"))
        meaning = " ".join(value.get("description", said.get(key, "")).split())
        yield f"| `{key}` | {_value(value)} | {default} |" + (f" {cell(meaning)} |" if said else "")


def _default(default: Any) -> str:
    return "–" if default is None else f"`{json.dumps(default, ensure_ascii=False)}`"


def _value(value: dict[str, Any]) -> str:
    """What a key may hold, in words, with links to the objects."""
    for choices in ("anyOf", "oneOf"):
        if choices in value:
            return " or ".join(dict.fromkeys(_value(one) for one in value[choices]))
    if "$ref" in value:
        title = value["$ref"].rpartition("/")[2]
        return f"[{title}](#{title.lower()})"
    if "enum" in value or "const" in value:
        return ", ".join(f"`{one}`" for one in value.get("enum", [value.get("const")]))
    match value.get("type"):
        case "array":
            items = value.get("prefixItems")
            return f"({', '.join(map(_value, items))})" if items else f"list of {_value(value.get('items', {}))}"
        case "object":
            held = value.get("additionalProperties") or next(iter(value.get("patternProperties", {}).values()), {})
            return f"table of {_value(held)}" if isinstance(held, dict) else "table"
        case "string":
            return "text"
        case "integer" | "number" as kind:
            return ("whole number" if kind == "integer" else "number") + _bounds(value)
        case "boolean":
            return "true or false"
        case "null":
            return "nothing"
    return "any value"


def _bounds(value: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {value[name]:g}" for name, sign in signs.items() if name in value]
    return f" {', '.join(found)}" if found else ""


def measured() -> str:
    """The table under the heading Measured of README.md."""
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    [table] = re.findall(r"^(?:\|.*\n)+", readme.partition("\n## Measured\n")[2].partition("\n## ")[0], re.MULTILINE)
    return str(table)
