"""Explanations: what is read for one is enough for it."""

import asyncio

from hypothesis import given, settings

from fleetd.api.v2.explain_reports import describe_explanation
from fleetd.api.v2.explanations import make_relevant, read_relevant
from fleetd.registry.registry import Registry
from fleetd.registry.snapshots import make_snapshot
from fleetd.store.embedded import EmbeddedStore
from fleetd.store.protocol import MAX_OPERATIONS
from tests.unit.drawn_clusters import clusters as resting_clusters
from tests.unit.rolling_cluster import RollingCluster
from tests.unit.test_ranking_properties import clusters


async def check(cluster: RollingCluster) -> None:
    """Each explanation is the same as from a snapshot of everything."""
    store = EmbeddedStore(":memory:")
    registry = Registry(store)
    snapshot = cluster.snapshot
    puts = [registry.put(each, name) for name, each in (snapshot.units | snapshot.machines | snapshot.settings).items()]
    puts += [registry.put(each, name) for name, each in (snapshot.decisions | snapshot.reboots).items()]
    for records in (snapshot.placements, snapshot.states):
        puts += [registry.put(each, where, name) for name, found in records.items() for where, each in found.items()]
    for first in range(0, len(puts), MAX_OPERATIONS):
        await store.transact([], puts[first : first + MAX_OPERATIONS])
    found = await registry.everything()
    whole = make_snapshot(registry, found.items)
    for name in whole.units:
        items, revision = await read_relevant(registry.at_one_revision(), name)
        assert revision == found.revision
        part = make_relevant(registry, items, name)
        assert describe_explanation(part, name, revision) == describe_explanation(whole, name, revision)
    await store.close()


@settings(max_examples=40, deadline=None)
@given(clusters())
def test_what_is_read_is_enough_in_any_cluster(cluster: RollingCluster) -> None:
    asyncio.run(check(cluster))


@settings(max_examples=20, deadline=None)
@given(resting_clusters())
def test_what_is_read_is_enough_in_a_cluster_at_rest(cluster: RollingCluster) -> None:
    asyncio.run(check(cluster))
