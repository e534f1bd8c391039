"""Which library, and one line where it is not there."""

import sys

import pytest

from hieramp.runtime.gpu.errors import LibraryError
from hieramp.runtime.tensorrt.library import load_library


def test_an_unknown_library() -> None:
    with pytest.raises(LibraryError, match="target must be one of tensorrt, tensorrt_rtx, got 'trt'"):
        load_library("trt")


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(LibraryError, match=r"target tensorrt cannot be imported .*JetPack"):
        load_library("tensorrt")
