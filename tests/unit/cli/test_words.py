"""The words of a command line: those that are wrong, --debug in any place, help, and completion."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lowres_seg.cli import app

SCRIPT = Path(sys.executable).with_name("lowres-seg")
COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
ORDER = [
    "demo",
    "gallery",
    "new-recipe",
    "export",
    "quantize",
    "show",
    "verify",
    "predict",
    "view",
    "bench",
    "compare",
    "report",
    "sign",
    "doctor",
]


def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPT), *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=os.environ | environment
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predict"], "lowres-seg predict: missing argument 'BUNDLE'; see lowres-seg predict --help"),
        (
            ["predict", "b", "s.nii"],
            "lowres-seg predict: missing option '-o' / '--output'; see lowres-seg predict --help",
        ),
        (["verify", "b", "c"], "lowres-seg verify: unexpected: c; see lowres-seg verify --help"),
        (
            ["verify", "b", "--max-ram", "2"],
            "lowres-seg verify: invalid value for --max-ram: '2', expected a number and one of MB, GB; see lowres-seg verify --help",
        ),
        (["verify", "b", "--thread", "1"], "--thread"),
        (["verify", "b", "--threads"], "'--threads'"),
        (["verifi", "b"], "lowres-seg: no such command 'verifi'"),
        (["--surprise"], "lowres-seg: no such option"),
        (["bench", "-o", "s.json"], "name a bundle, or a plan with --plan"),
        (["sign"], "invalid value for BUNDLE and --key: needs both"),
        (["compare", "a.json", "b.json", "--what", "speed"], "'speed', expected time or memory or accuracy"),
    ],
)
def test_wrong_words_are_one_line_that_names_help(words: list[str], says: str) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: lowres-seg")
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr
    assert done.stderr.rstrip().endswith("--help")
    assert "  " not in done.stderr


#: Words of the range and of the kind: ours, or those of a typer that checks them itself.
NUMBERS = {
    ("verify", "b", "--threads", "0"): r"'--threads': ('0', expected at least 1|0 is not in the range x>=1); see",
    ("verify", "b", "--threads", "1.5"): r"'--threads': '1\.5'(, expected a whole number| is not a valid int.*); see",
    (
        "compare",
        "a",
        "b",
        "--max-drop",
        "low",
    ): r"'--max-drop': 'low'(, expected a number| is not a valid float.*); see",
    (
        "compare",
        "a",
        "b",
        "--max-slowdown",
        "-1",
    ): r"('-1', expected at least 0|-1(\.0)? is not in the range x>=0); see",
}


@pytest.mark.parametrize("words", NUMBERS)
def test_a_wrong_number_is_told_with_what_was_found_and_expected(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert re.search(NUMBERS[words], done.stderr), done.stderr


def test_the_help_that_a_usage_error_names_is_there() -> None:
    line = run("predict", "b").stderr.strip()
    named = line[line.index("see ") + 4 :].split()
    assert named == ["lowres-seg", "predict", "--help"]
    assert run(*named[1:]).returncode == 0


def test_no_words_show_help() -> None:
    bare = run()
    assert bare.returncode == 2
    assert all(f"  {command} " in bare.stderr for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_debug_is_taken_after_every_command(command: str) -> None:
    done = run(command, "--debug", "--help")
    assert done.returncode == 0, done.stderr
    assert "--debug" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["--debug", "verify", "none"],
        ["verify", "none", "--debug"],
        ["verify", "--debug", "none"],
        ["predict", "none", "s.nii", "-o", "m.nii", "--debug"],
        ["compare", "none.json", "none.json", "--debug"],
    ],
)
def test_debug_shows_the_traceback_from_any_place(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run([str(SCRIPT), *words], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_commands_are_listed_in_the_order_of_use() -> None:
    lines = run("--help").stdout.split("Commands:")[1].splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert [name for name in listed if name in ORDER] == ORDER
    assert set(listed) == set(COMMANDS)


def test_the_shell_completes_commands_and_options() -> None:
    def completed(line: str) -> list[str]:
        words = line.split(" ")
        done = run(_LOWRES_SEG_COMPLETE="complete_bash", COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1))
        return done.stdout.split()

    assert completed("lowres-seg pre") == ["predict"]
    assert set(completed("lowres-seg ")) == set(COMMANDS)
    assert completed("lowres-seg predict --vol") == ["--volume-table"]
    assert completed("lowres-seg verify --deb") == ["--debug"]


def test_completion_is_installed_by_one_option(tmp_path: Path) -> None:
    shown = run("--help").stdout
    assert "--install-completion" in shown
    assert "--show-completion" not in shown
    done = subprocess.run(
        ["bash", "-c", f"{SCRIPT} --install-completion; true"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    assert "completion installed" in done.stdout
    scripts = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".bashrc"]
    assert any("_LOWRES_SEG_COMPLETE" in path.read_text(encoding="utf-8") for path in scripts)
