"""The load test's own rounds, small: nobody is left without an answer."""

from __future__ import annotations

import asyncio
import os

from benchmarks.trained import serve_load
from tests.serve.conftest import Live


def test_good_streams_go_on_among_cut_ones_nonsense_and_slow_readers(shared: Live) -> None:
    found = asyncio.run(serve_load.measure(shared.port, os.getpid(), streams=20, tokens=4, rounds=1))
    assert found["all_done"] and found["same_text_as_alone"]
    (seen,) = found["rounds"]
    assert (seen["good_streams_done"], seen["good_texts_as_alone"]) == (20, True)
    assert seen["streams_cut"] > 40 and seen["slow_readers"] == 20
    assert sum(seen["malformed"].values()) == 100 and seen["malformed"].keys() <= {"400", "404", "413"}
    assert seen["rows_free_after"], "no row is leaked"
