"""Versions of what computes, as a dataset records them."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from hieramp.runtime.versions import COMPUTING, computing_versions, version_of


def test_every_package_that_computes_has_a_version() -> None:
    found = computing_versions()
    assert set(found) == set(COMPUTING)
    assert all(found.values())
    assert found["numpy"] == np.__version__


def test_onnxruntime_is_the_module_that_is_imported_whatever_wheel_brought_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(__version__="9.8.7"))
    assert version_of("onnxruntime") == "9.8.7"


def test_what_is_not_installed_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert version_of("onnxruntime") is None
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace())
    assert version_of("onnxruntime") is None
    assert version_of("abacus-of-nobody") is None
