"""The flow `draw`: a part of what `python -m pipeline generate --pool` draws, on a worker of the pool."""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any

from prefect import State, flow
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed
from pydantic import Field

from pipeline import dvc
from pipeline.flows.clones import locked_clone
from pipeline.flows.flows import current_root
from pipeline.flows.outcome import failed_state_on_error
from pipeline.flows.over_pool import Job, Pool
from pipeline.flows.watchdog import with_watchdog
from pipeline.generating import manifest
from pipeline.generating.collection import Collection, read_manifest
from pipeline.generating.destination import Destination, open_destination
from pipeline.generating.manifest import GenerateError, Manifest, Record, Shard
from pipeline.generating.workers import Report, draw_shards
from pipeline.models import load_model
from pipeline.run_settings import fingerprint
from stages.common import device
from stages.common.cores import usable_cores
from stages.common.errors import counted

SHARDS_PER_RUN = 32  # 16,384 drawings: a run takes longer to draw them than to start, and its loss costs little


@flow(description="Draws a part of the drawings of `python -m pipeline generate --pool`, which starts it.")
def draw(
    destination: str, run: str, start: Annotated[int, Field(ge=0)], stop: Annotated[int, Field(ge=1)]
) -> State[Any]:
    """Draw shards of a folder that `generate` has begun. Those that are there already are not drawn again.

    Args:
      destination: Folder or URL, which this machine reaches by the same name.
      run: Experiment whose model draws.
      start: Number of the first shard, counted over all classes.
      stop: Number after the last shard.
    """
    with with_watchdog(), locked_clone(), failed_state_on_error() as failure:
        root = current_root()
        if dvc.has_origin(root):
            dvc.fetch_experiments(root, run)
        model = load_model(run)
        place = open_destination(destination)
        there = read_manifest(place)
        if there is None:
            raise GenerateError(f"{place.shown} has no {manifest.FILE} here: name a place that all machines reach")
        wanted = manifest.describe(model, there.classes, there.per_class)
        missing = Collection(place, wanted).missing(list(itertools.islice(wanted.shards(), start, stop)))
        workers = 1 if device.configure("auto") else usable_cores()
        drawn = sum(len(shard) for shard, _ in draw_shards(model, place, missing, workers, lambda number: None))
        return Completed(message=f"{counted(drawn, 'drawing')} in {place.shown}")
    return failure.state


def draw_in_pool(
    pool: str,
    run: str,
    destination: Destination,
    wanted: Manifest,
    missing: Sequence[Shard],
    arrived: Callable[[Sequence[Shard]], Iterable[tuple[Shard, Record]]],
    report: Report,
    finished: Callable[[Shard, Record], None],
) -> None:
    """Draw shards as runs of the flow `draw` in a work pool. Runs that an earlier call has started are waited for.

    Args:
      pool: the work pool.
      run: the experiment whose model draws.
      destination: where.
      wanted: what it shall hold.
      missing: the shards to draw.
      arrived: returns those of the shards that are there.
      report: called with each number of drawings that are done.
      finished: called with each shard that is written, and its record.

    Raises:
      PoolError: there is no such pool, or no deployment in it.
      GenerateError: runs failed, and shards are missing.
    """
    waiting, failures = set(missing), list[str]()

    def look() -> None:
        for shard, record in list(arrived(sorted(waiting))):
            waiting.remove(shard)
            finished(shard, record)
            report(len(shard))

    def end(job: Job, ended: FlowRun) -> None:
        if ended.state and not ended.state.is_completed():
            failures.append(f"{job.name} is {ended.state.name}: {ended.state.message}")

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    Pool(pool, draw.name, say).run(_jobs(run, destination, wanted, waiting), end, polled=look)
    look()
    if waiting:
        missed = f"{counted(sum(map(len, waiting)), 'drawing')} are missing"
        if not failures:
            raise GenerateError(
                f"{missed} in {destination.shown}, and no run failed: name a place that all machines reach"
            )
        failed = f"{counted(len(failures), 'run')} failed, the first: {failures[0]}"
        raise GenerateError(f"{missed}; {failed}; the same command goes on from here")


def _jobs(run: str, destination: Destination, wanted: Manifest, missing: set[Shard]) -> Iterator[Job]:
    """A job for each block of consecutive shards of which one is missing. The same block has the same name again."""
    key = fingerprint({"destination": destination.address, "run": run, "wanted": wanted.render().decode()})
    shards = list(wanted.shards())
    for start in range(0, len(shards), SHARDS_PER_RUN):
        stop = min(start + SHARDS_PER_RUN, len(shards))
        if not missing.isdisjoint(shards[start:stop]):
            parameters = {"destination": destination.address, "run": run, "start": start, "stop": stop}
            yield Job(f"draw-{key}-{start}", parameters)
