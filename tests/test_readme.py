"""The README's commands exist, with the options it gives them; the cheap ones are run."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[1]
# Commands of the reader's own system, taken on trust.
SYSTEM_COMMANDS = {"git", "cd", "pip", "python", "python3", "source", "export", "ls", "cat"}
# Options with which a hieramp-run command needs more than the shipped plan and a CPU.
COSTLY_OPTIONS = {"--engine", "--provider"}


def bash_commands(markdown: str) -> Iterator[list[str]]:
    """The commands of the ```bash blocks as argument lists, comments dropped, continued lines and && taken apart."""
    for block in re.findall(r"^```bash\n(.*?)^```", markdown, flags=re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
                    words.pop(0)
                if words:
                    yield words


def parse_options(command: click.Command, arguments: list[str], name: str) -> None:
    """Parse as click does, without looking at the values; an option that does not exist is a click.UsageError."""
    context = click.Context(command, info_name=name)
    _, rest, _ = command.make_parser(context).parse_args(list(arguments))
    if isinstance(command, click.Group) and rest:
        _, child, arguments = command.resolve_command(context, rest)
        assert child is not None
        parse_options(child, arguments, f"{name} {rest[0]}")


def check(words: list[str]) -> None:
    """Raise unless the command exists and has these options."""
    program, *arguments = words
    if program == "make":
        subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True)
    elif program.startswith("hieramp-"):
        scripts = entry_points(group="console_scripts", name=program)
        assert scripts, f"README names an unknown command: {program}"
        parse_options(scripts[program].load(), arguments, program)
    else:
        assert program in SYSTEM_COMMANDS, f"README names an unknown command: {program}"


COMMANDS = list(bash_commands((ROOT / "README.md").read_text(encoding="utf-8")))
CHEAP_COMMANDS = [words for words in COMMANDS if words[0] == "hieramp-run" and not COSTLY_OPTIONS & set(words)]


def test_the_readme_names_the_two_commands() -> None:
    assert ["make", "run"] in COMMANDS
    assert ["make", "test"] in COMMANDS


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_of_the_readme_exists(words: list[str]) -> None:
    check(words)


@pytest.mark.slow
@pytest.mark.parametrize("words", CHEAP_COMMANDS, ids=" ".join)
def test_a_generating_command_of_the_readme_runs(words: list[str], tmp_path: Path) -> None:
    """As written, but for one image a class and a folder of the test's own."""
    script = Path(sys.executable).parent / words[0]
    command = [str(script), *words[1:], "--ipc", "1", "--out", str(tmp_path / "out")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert list((tmp_path / "out").glob("*/*.png"))


@pytest.mark.parametrize("words", [["make", "coffee"], ["hieramp-run", "--no-such-option"], ["hieramp-parity", "sing"],
                                   ["hieramp-sing"], ["rm", "-r", "x"]], ids=" ".join)
def test_a_wrong_command_is_found(words: list[str]) -> None:
    with pytest.raises((subprocess.CalledProcessError, click.UsageError, AssertionError)):
        check(words)
