"""Chimera: what a write head does for a view, from the first event to the last.

`python -m benchmarks.projection.ours COUNT`; the log, the store and the views are in the environment. Where the log
holds nothing, the events come from the journal. Prints the events per second after the first batch.
"""

import asyncio
import dataclasses
import gc
import os
import sys
import time

import uvloop

from benchmarks.projection.service import service, view
from chimera.core.keys.seals import Seals
from chimera.journal.feed import Feed
from chimera.ports import Checkpoint, Owner
from chimera.run.engines import context_of, open_engine
from chimera.views.projections import ViewProjection
from chimera.views.projector import Projector


async def main(count: int) -> None:
    log, store, views = (open_engine(kind, os.environ[f"CHIMERA_{kind.upper()}"]) for kind in ("log", "store", "views"))
    keys = [key] if (key := os.environ.get("BENCH_KEY")) else []
    context = dataclasses.replace(context_of(service, log, store, views, _nobody), seals=Seals(keys))
    await context.prepare()
    projector = Projector(context, ViewProjection(view))
    feed = Feed(context, service.name, {partition: Checkpoint() for partition in range(service.partitions)})
    gc.collect()
    gc.freeze()  # as `chimera run` does when it is ready
    done = first = 0
    began = 0.0
    while done < count:
        batch = await feed.next()
        if batch.messages:
            assert await projector.apply(batch)
            done += len(batch.messages)
            if not began:
                began, first = time.perf_counter(), done
    print((done - first) / (time.perf_counter() - began))
    sys.stdout.flush()
    os._exit(0)  # what reads ahead needs no orderly end


def _nobody(name: str) -> Owner:
    raise AssertionError(f"nothing of {name} is used")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1])))
