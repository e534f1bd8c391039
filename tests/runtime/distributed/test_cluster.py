"""What cannot be joined is refused in one line, soon, before anything is written."""

import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from hieramp.runtime.cli import main
from hieramp.runtime.distributed.cluster import joined
from hieramp.runtime.errors import ProviderError
from hieramp.runtime.plan import Plan


class StandIn(SimpleNamespace):
    """A module ray that notes what is asked of it."""

    def __init__(self, initialized: bool = False, waits_for: threading.Event | None = None):
        super().__init__(calls=[], initialized=initialized, waits_for=waits_for)

    def is_initialized(self) -> bool:
        return self.initialized

    def init(self, address: str, **options: Any) -> None:
        self.calls.append(address)
        if self.waits_for:
            self.waits_for.wait(30)

    def shutdown(self) -> None:
        self.calls.append("shutdown")


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(("address", "said"), [
    ("127.0.0.1:1", "no Ray cluster can be reached at '127.0.0.1:1' ("), ("127.0.0.1:no", "can be reached at"),
    ("ray://127.0.0.1:1", "takes the host:port"), ("somewhere", "must be auto, local or host:port, got 'somewhere'")])
def test_a_wrong_address_is_one_line(address: str, said: str, plan: Plan, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    words = ["--engine", str(plan.folder), "--out", str(tmp_path / "out"), "--ray", address]
    result = CliRunner().invoke(main, words, prog_name="hieramp-run")
    assert result.exit_code == 2 and said in result.stderr
    assert result.stderr.count("\n") == 1 and result.stdout == "" and not (tmp_path / "out").exists()


def test_without_ray_the_extra_is_named(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["--engine", str(plan.folder), "--out", str(tmp_path / "out"), "--ray", "auto"]
    result = CliRunner().invoke(main, words, prog_name="hieramp-run")
    assert result.exit_code == 2 and "pip install 'hieramp[ray]'" in result.stderr and result.stderr.count("\n") == 1


def test_what_listens_and_never_answers_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setitem(sys.modules, "ray", StandIn(waits_for=released))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ProviderError, match=r"no answer within 0 s.*RAY_AUTH_MODE"), joined(address, patience=0.1):
            pass
    released.set()


def test_auto_takes_the_address_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = StandIn()
    monkeypatch.setitem(sys.modules, "ray", ray)
    with joined("auto") as found:
        assert found is ray and ray.calls == ["auto"]
    assert ray.calls == ["auto", "shutdown"]
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ProviderError, match=r"127\.0\.0\.1:1"), joined("auto"):
        pass


def test_a_connection_of_the_process_is_used_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = StandIn(initialized=True)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with joined("auto") as found:
        assert found is ray
    assert ray.calls == []
