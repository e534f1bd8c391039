"""Pictures that are not finite are named, whatever the value and the back end, and spoil no other."""

from collections.abc import Callable

import numpy as np
import pytest

from hieramp.runtime import OnnxRuntimeBackend, PictureKey, Plan, resolve_settings
from hieramp.runtime.drawing import Picture, try_keys
from hieramp.runtime.errors import ProviderError
from hieramp.runtime.fault import Fault, describe
from hieramp.runtime.plan import shipped_plan
from hieramp.runtime.providers import find_provider

LABELS = (0, 3, 9, 3, 5)
FAULT = Fault(3, 8, 5, "logits", 2, "fp16")


def outcomes(plan: Plan, labels: tuple[int, ...], provider: str = "cpu") -> list[Picture | Fault]:
    keys = [PictureKey(label, index) for index, label in enumerate(labels)]
    with OnnxRuntimeBackend.open(plan, provider, threads=1) as backend:
        cache = backend.new_cache(len(keys))
        draw = [try_keys(backend, plan, resolve_settings(plan.manifest), part, seed=4, batch_size=len(keys),
                         cache=cache) for part in (keys, keys[:1] * len(keys))]
    return [*draw[0], draw[1][0]]  # a batch in the same cache, after one with faults


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_class_of_a_batch_is_named_and_the_others_are_as_ever(poisoned_plan: Callable[[int, float], Plan],
                                                                  value: float, provider: str) -> None:
    try:
        find_provider(provider)
    except ProviderError as error:
        pytest.skip(str(error))
    found, wanted = outcomes(poisoned_plan(3, value), LABELS, provider), outcomes(Plan.open(shipped_plan()), LABELS,
                                                                                  provider)
    assert [outcome for outcome in found if isinstance(outcome, Fault)] == [
        Fault(3, index, 4, "logits", 0, "fp32") for index in (1, 3)]
    for outcome, picture in zip(found, wanted, strict=True):
        assert isinstance(picture, Picture)
        if isinstance(outcome, Picture):
            np.testing.assert_array_equal(outcome.tokens_L, picture.tokens_L)
            np.testing.assert_array_equal(outcome.image_3SS, picture.image_3SS)


def test_the_sentence_names_picture_place_and_precision() -> None:
    assert describe([FAULT]) == (
        "picture 8 of class 3 (seed 5) is not finite: NaN or infinity in the logits of scale 2, precision fp16; with "
        "--safer-plan PLAN, a plan of the same model exported with --precision fp32, the same command goes on; or try "
        "smaller --cfg and --beta, which makes another dataset")


@pytest.mark.parametrize(("count", "words"), [(2, "; so is 1 more of its batch"), (3, "; so are 2 more of its batch")])
def test_more_faults_of_a_batch_are_counted(count: int, words: str) -> None:
    assert words in describe([FAULT] * count)


def test_nothing_is_safer_than_fp32() -> None:
    twice = Fault(3, 8, 5, "latent", 0, "fp16", "cat", Fault(3, 8, 5, "decoded image", None, "fp32"))
    assert describe([twice]) == (
        "picture 8 of class 3 'cat' (seed 5) is not finite: NaN or infinity in the latent of scale 0, precision fp16, "
        "and again in the decoded image, precision fp32; try smaller --cfg and --beta, which makes another dataset")
