import click
import pytest

from hieramp_ref.command import OneLineCommand, run_command
from hieramp_ref.errors import DataError, RunError, StoppedError


def failing(error: BaseException) -> OneLineCommand:
    def fail() -> None:
        raise error

    return OneLineCommand("sing", callback=fail)


@pytest.mark.parametrize(("error", "code", "line"), [
    (DataError("no such\n  song"), 2, "sing: error: no such song\n"),
    (FileNotFoundError(2, "No such file", "a.txt"), 2, "sing: error: No such file: a.txt\n"),
    (RunError("the string\n broke"), 1, "sing: error: the string broke\n"),
    (StoppedError("stopped by SIGTERM", 15), 143, "sing: stopped by SIGTERM\n"),
    (click.UsageError("louder"), 2, "sing: error: louder\n"),
    (click.Abort(), 130, "sing: interrupted\n"),
    (KeyboardInterrupt(), 130, "sing: interrupted\n"),
])
def test_an_error_is_one_line_and_an_exit_code(error: BaseException, code: int, line: str,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        failing(error).main([])
    assert ended.value.code == code
    assert capsys.readouterr().err.strip() == line.strip()


def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError()).main([])


def test_a_plain_command_is_run_with_the_processs_arguments(monkeypatch: pytest.MonkeyPatch,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--key", "c"])
    run_command(click.Command("x", params=[click.Option(["--key"])], callback=lambda key: click.echo(key)), "x")
    assert capsys.readouterr().out == "c\n"
