"""A plan is packed in pieces, unpacked whole once a node, and never taken damaged."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hieramp.runtime.distributed import shipment
from hieramp.runtime.distributed.shipment import Shipment, find_plan, pack, unpack
from hieramp.runtime.errors import PlanError
from hieramp.runtime.plan import Plan


class Store:
    """Stands for the object store: references are numbers."""

    def __init__(self) -> None:
        self.objects: list[bytes] = []
        self.fetched: list[int] = []

    def put(self, data: bytes) -> int:
        self.objects.append(data)
        return len(self.objects) - 1

    def get(self, reference: int) -> bytes:
        self.fetched.append(reference)
        return self.objects[reference]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    monkeypatch.setattr(shipment, "_PIECE_BYTES", 1000)
    monkeypatch.setattr(shipment, "default_memory", lambda: tmp_path / "verified.json")
    return Store()


@pytest.fixture
def packed(plan: Plan, store: Store) -> Shipment:
    return pack(plan, store.put)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_plan_arrives_as_it_was_and_is_fetched_once(plan: Plan, packed: Shipment, store: Store,
                                                      tmp_path: Path) -> None:
    assert max(map(len, store.objects)) == 1000
    depot = tmp_path / "depot"
    there = unpack(packed, depot, store.get)
    assert there.folder == depot / plan.digest and files(there.folder) == files(plan.folder)
    assert store.fetched == list(range(len(store.objects)))
    assert unpack(packed, depot, store.get).folder == there.folder and len(store.fetched) == len(store.objects)
    assert [path for path in depot.iterdir() if path.name.endswith(".partial")] == []


def test_a_damaged_arrival_is_refused_and_leaves_nothing_under_its_name(packed: Shipment, store: Store,
                                                                        tmp_path: Path) -> None:
    right = store.objects[-1]
    store.objects[-1] = bytes(len(right))
    with pytest.raises(PlanError, match="has changed"):
        unpack(packed, tmp_path / "depot", store.get)
    assert not (tmp_path / "depot" / packed.digest).exists()
    store.objects[-1] = right
    assert unpack(packed, tmp_path / "depot", store.get).digest == packed.digest


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_damaged_plan_in_the_depot_is_replaced(damage: Callable[[Path], None], plan: Plan, packed: Shipment,
                                                 store: Store, tmp_path: Path) -> None:
    there = unpack(packed, tmp_path / "depot", store.get)
    damage(there.path("decoder.onnx"))
    assert find_plan(tmp_path / "nowhere", plan.digest, tmp_path / "depot") is None
    assert files(unpack(packed, tmp_path / "depot", store.get).folder) == files(plan.folder)


def test_a_plan_is_found_at_its_own_place_first_and_only_if_it_is_the_same(plan: Plan, packed: Shipment, store: Store,
                                                                           tmp_path: Path) -> None:
    depot, own = tmp_path / "depot", tmp_path / "own.plan"
    assert find_plan(own, plan.digest, depot) is None
    sent = unpack(packed, depot, store.get)
    shutil.copytree(plan.folder, own)
    places = []
    for digest in (plan.digest, "another"):
        found = find_plan(own, digest, depot)
        places.append(found and found.folder)
    assert places == [own, None]
    (own / "manifest.json").write_text((own / "manifest.json").read_text() + "\n")
    found = find_plan(own, plan.digest, depot)
    assert found is not None and found.folder == sent.folder
