"""A worker that would compute other bytes than the rest is refused."""

from dataclasses import replace

import pytest

from hieramp.runtime.backend_choice import Choice
from hieramp.runtime.distributed.worker import check_choice, check_versions
from hieramp.runtime.errors import ProviderError
from hieramp.runtime.plan import Plan
from hieramp.runtime.recipe import resolve_recipe


def test_versions_have_to_be_the_same() -> None:
    check_versions({"numpy": "2.1", "onnxruntime": None}, {"numpy": "2.1", "onnxruntime": None})
    for here in ({"numpy": "2.2"}, {"numpy": None}, {}):
        with pytest.raises(ProviderError, match=r"numpy is (2\.2|missing) there and 2\.1 here"):
            check_versions({"numpy": "2.1"}, here)


def test_the_back_end_has_to_be_that_of_the_dataset(plan: Plan) -> None:
    recipe = replace(resolve_recipe(plan)[0], backend="onnxruntime", provider="cuda")
    check_choice(recipe, Choice("onnxruntime", "cuda", "another reason"))
    with pytest.raises(ProviderError, match=r"another node took onnxruntime \(cuda\).*--backend or --provider"):
        check_choice(recipe, Choice("onnxruntime", "cpu", "which needs no GPU"))
