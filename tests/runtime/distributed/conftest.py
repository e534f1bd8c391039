"""A Ray cluster of two nodes on this machine, with one processor each."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest

SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
SMALL = {"num_cpus": 1, "object_store_memory": 80 << 20}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What Ray and its workers read; plans that are sent to workers are kept in a folder of the tests."""
    # A stopped worker is woken with SIGHUP when its node dies; under nohup it would outlive that, and draw on.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SETTINGS, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def cluster(environment: None) -> Iterator[Any]:
    """`ray.cluster_utils.Cluster`; `address` is what --ray takes."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    head = {**SMALL, "include_dashboard": False, "_system_config": {"health_check_period_ms": 1000}}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(**SMALL)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def second_node(cluster: Any) -> Any:
    """The node that is not the head, in place of one that an earlier test lost and that the cluster has given up."""
    node = next(iter(cluster.worker_nodes), None) or cluster.add_node(**SMALL)
    cluster.wait_for_nodes()  # no more and no fewer than there are
    return node
