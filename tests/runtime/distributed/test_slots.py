"""One worker a GPU where there are GPUs, else one a node, or one for so many processors."""

import pytest

from hieramp.runtime.distributed.slots import Slot, slots_of


def node(name: str, alive: bool = True, **resources: float) -> dict[str, object]:
    return {"NodeID": name, "NodeManagerAddress": f"address of {name}", "Alive": alive, "Resources": resources}


def test_a_node_without_gpu_has_one_worker_with_all_its_processors() -> None:
    assert slots_of([node("a", CPU=8.0), node("b", CPU=2.0)]) == [
        Slot("a", "address of a", 0, 8, 0), Slot("b", "address of b", 0, 2, 0)]


@pytest.mark.parametrize(("threads", "each"), [(1, [1] * 5), (2, [2, 2]), (5, [5]), (9, [5])])
def test_threads_divide_a_node(threads: int, each: list[int]) -> None:
    slots = slots_of([node("a", CPU=5.0)], threads)
    assert [slot.cpus for slot in slots] == each and [slot.number for slot in slots] == list(range(len(each)))


def test_where_there_are_gpus_only_they_have_workers() -> None:
    nodes = [node("head", CPU=8.0), node("a", CPU=4.0, GPU=2.0)]
    assert slots_of(nodes) == [Slot("a", "address of a", number, 0, 1) for number in (0, 1)]
    assert [slot.node for slot in slots_of(nodes, use_gpus=False)] == ["head", "a"]


def test_dead_nodes_and_nodes_without_processors_have_none() -> None:
    assert slots_of([node("a", alive=False, CPU=4.0), node("b", CPU=0.0), node("c"), node("d", False, GPU=1.0)]) == []


@pytest.mark.parametrize(("cpus", "gpus", "wanted", "cores", "threads"), [
    (4, 0, None, 8, 4), (4, 0, None, 2, 2), (4, 0, 3, 2, 3), (0, 1, None, 8, None), (0, 1, 2, 8, 2)])
def test_a_worker_takes_the_threads_it_was_given_processors_for(cpus: int, gpus: int, wanted: int | None, cores: int,
                                                                threads: int | None) -> None:
    assert Slot("a", "", 0, cpus, gpus).threads(wanted, cores) == threads
