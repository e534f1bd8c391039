"""Parts beside one another."""

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest

from hieramp.runtime import OnnxRuntimeBackend, PictureKey, Plan, batch_inputs, draw_batch, resolve_settings
from hieramp.runtime.lanes import Lanes, lane_count
from hieramp.runtime.plan import shipped_plan


@pytest.mark.parametrize(("threads", "images", "at_once", "lanes"), [
    (2, 8, 6, 2), (1, 8, 6, 1), (2, 1, 6, 1), (2, 8, 1, 1), (3, 20, 32, 3), (16, 20, 32, 4),
    (16, 3, 32, 3), (16, 8, 2, 2),
])
def test_as_many_lanes_as_threads_pictures_and_memory_allow_up_to_four(threads: int, images: int, at_once: int,
                                                                       lanes: int) -> None:
    assert lane_count(threads, images, at_once) == lanes


def test_parts_are_drawn_at_the_same_time_and_come_in_order() -> None:
    """The first two wait for each other, and the first one of them for the other's end."""
    together, second_done = threading.Barrier(2), threading.Event()

    def draw(lane: str, part: int) -> int:
        if part < 2:
            together.wait(10)
        if part == 0:
            assert second_done.wait(10)
        if part == 1:
            second_done.set()
        return 10 * part

    assert Lanes("ab").draw(draw, range(5)) == [0, 10, 20, 30, 40]


def test_no_lane_has_two_parts_at_a_time() -> None:
    busy = {lane: threading.Lock() for lane in "abc"}
    used: set[str] = set()

    def draw(lane: str, part: int) -> None:
        assert busy[lane].acquire(blocking=False)
        used.add(lane)
        threading.Event().wait(0.001)
        busy[lane].release()

    Lanes(busy).draw(draw, range(60))
    assert used == set(busy)


def test_one_lane_draws_in_the_thread_that_asks() -> None:
    assert Lanes("a").draw(lambda lane, part: threading.get_ident(), range(2)) == [threading.get_ident()] * 2


def test_a_part_that_fails_fails_the_batch_when_nothing_is_drawn_any_more() -> None:
    both, ended = threading.Barrier(2), threading.Event()

    def draw(lane: str, part: int) -> None:
        both.wait(10)
        if part == 0:
            raise ValueError("the first part")
        threading.Event().wait(0.05)
        ended.set()

    with pytest.raises(ValueError, match="the first part"):
        Lanes("ab").draw(draw, range(2))
    assert ended.is_set()


def test_a_lane_that_one_batch_leaves_idle_draws_the_next() -> None:
    """The only part of the first batch waits for one of the second; both of that are drawn in the other lane."""
    lanes, first_begun, second_done = Lanes("ab"), threading.Event(), threading.Event()
    used: list[str] = []

    def wait_for_second(lane: str, part: int) -> int:
        used.append(lane)
        first_begun.set()
        assert second_done.wait(10)
        return part

    def note(lane: str, part: int) -> int:
        used.append(lane)
        return part

    with ThreadPoolExecutor(1) as other:
        first = other.submit(lanes.draw, wait_for_second, [7])
        assert first_begun.wait(10)
        assert lanes.draw(note, [8, 9]) == [8, 9]
        second_done.set()
        assert first.result(10) == [7]
    assert used[1] == used[2] != used[0]


def test_closed_lanes_drop_what_is_not_begun_and_wait_for_the_rest() -> None:
    lanes, begun, go_on = Lanes("ab"), threading.Semaphore(0), threading.Event()
    drawn: list[int] = []

    def draw(lane: str, part: int) -> None:
        begun.release()
        go_on.wait(10)
        drawn.append(part)

    with ThreadPoolExecutor(2) as others:
        batch = others.submit(lanes.draw, draw, range(4))
        assert begun.acquire(timeout=10) and begun.acquire(timeout=10)
        closing = others.submit(lanes.close)
        with pytest.raises(TimeoutError):
            closing.result(0.2)
        go_on.set()
        closing.result(10)
        assert sorted(drawn) == [0, 1]
        with pytest.raises(CancelledError):
            batch.result(10)


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_a_plan_draws_the_same_in_lanes(plan: Plan, provider: str, request: pytest.FixtureRequest) -> None:
    if provider == "openvino":
        request.getfixturevalue("openvino")
    model, settings = plan.manifest.model, resolve_settings(plan.manifest)
    inputs = batch_inputs([PictureKey(i % model.num_classes, i) for i in range(7)], model, 0)
    with OnnxRuntimeBackend.open(plan, provider, threads=2) as backend:
        whole = draw_batch(backend, plan, settings, *inputs)
    with OnnxRuntimeBackend.open(plan, provider, threads=2, lanes=2) as backend:
        cache = backend.new_cache(7)
        for _ in range(3):
            drawing = draw_batch(backend, plan, settings, *inputs, cache=cache)
            np.testing.assert_array_equal(drawing.image_B3SS, whole.image_B3SS)
            for ours, theirs in zip(drawing.tokens, whole.tokens, strict=True):
                np.testing.assert_array_equal(ours, theirs)
    assert [lane.shape[1] for lane in cache.each] == [2 * 4, 2 * 4]


def test_lanes_share_the_memory_of_a_batch(plan: Plan) -> None:
    with OnnxRuntimeBackend.open(plan, threads=2, lanes=2, at_once=6) as backend:
        assert backend.images_at_once == 3
        assert [lane.shape[1] for lane in backend.new_cache(8).each] == [2 * 3, 2 * 3]
        assert [lane.shape[1] for lane in backend.new_cache(1).each] == [2]


def test_the_shipped_plan_draws_the_same_bytes_in_lanes() -> None:
    plan = Plan.open(shipped_plan())
    inputs = batch_inputs([PictureKey(i, 0) for i in range(10)], plan.manifest.model, 5)
    drawn = []
    for lanes in (1, 2, 3):
        with OnnxRuntimeBackend.open(plan, threads=lanes, lanes=lanes) as backend:
            drawn.append(draw_batch(backend, plan, resolve_settings(plan.manifest), *inputs).image_B3SS)
    np.testing.assert_array_equal(drawn[1], drawn[0])
    np.testing.assert_array_equal(drawn[2], drawn[0])
