"""A query that kills whatever shard reads it, and a port that is taken."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence

import numpy as np
import pytest

import dist_attr as da
from dist_attr.cluster import ENVIRONMENT
from dist_attr.config import ReadoutName, ServiceConfig
from dist_attr.errors import ConfigError, UnavailableError
from dist_attr.readout import Along, EncodedQuery, encode_queries
from dist_attr.serving import deploy, lasting, shards
from dist_attr.serving.batcher import Batcher, Kind
from dist_attr.serving.shard import ReadoutShard
from tests.readout.test_basis import queries
from tests.stores import make_store

NAMES = [f"s{n}" for n in range(4)]
QUERIES = queries(4, seed=4)
DEADLY = 2  # the number of the query
EXACT = Kind("linear", None)


class Mortal(ReadoutShard):
    """A shard that dies of the queries with a certain length, as of one that takes all memory."""

    def read(self, queries: Sequence[EncodedQuery], readout: ReadoutName, rank: int | None) -> list[Along]:
        if any(len(query.tokens) == int(os.environ["DEADLY_LENGTH"]) for query in queries):
            os._exit(1)
        return super().read(queries, readout, rank)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> da.InfluenceStore:
    return make_store(tmp_path_factory.mktemp("shards"), NAMES, context=48, seed=0)


def test_a_query_that_kills_its_shard_is_refused_and_the_others_are_answered(
    cluster: None, store: da.InfluenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    attributor = da.Attributor(store)
    encoded, _ = encode_queries(QUERIES, attributor.engine.tokenizer, 48)
    length = len(encoded[DEADLY].tokens)
    assert sum(len(query.tokens) == length for query in encoded) == 1
    monkeypatch.setattr(shards, "ReadoutShard", Mortal)
    monkeypatch.setattr(lasting, "ENVIRONMENT", {**ENVIRONMENT, "DEADLY_LENGTH": str(length)})
    deaths: list[None] = []

    async def ask() -> tuple[list[Along | BaseException], str | None]:
        config = ServiceConfig(store=store.url, shards=2, cpus=0.5)
        asked = shards.Shards(config, 0, 0, store.manifest.identity, ["sources"], lambda: deaths.append(None))
        batcher = Batcher(asked.read, lambda _: None)
        until = asyncio.get_running_loop().time() + 180
        calls = [batcher.submit(query, EXACT, until) for query in encoded]
        return await asyncio.gather(*calls, return_exceptions=True), asked.lost

    found, lost = asyncio.run(ask())
    assert lost is None, "its shards are well, so nothing has to be replaced"
    assert len(deaths) > lasting.DEATHS
    right = attributor.attribute(QUERIES)
    for number, answer in enumerate(found):
        if number == DEADLY:
            assert isinstance(answer, UnavailableError) and "died 3 times" in str(answer)
        else:
            assert isinstance(answer, Along)
            np.testing.assert_allclose(answer.scores, right.token_scores[number], rtol=1e-3, atol=1e-4)


def test_a_port_that_is_taken_is_refused(cluster: None, store: da.InfluenceStore) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: .* choose another --port"):
            deploy(ServiceConfig(store=store.url, shards=1), port=port)
