"""The command `generate`: draw very many drawings of each class, and say what to do with them."""

from __future__ import annotations

import functools
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline import dvc
from pipeline.generating import manifest
from pipeline.generating.collection import MARK, Collection, file_name
from pipeline.generating.destination import Destination, open_destination
from pipeline.generating.manifest import GenerateError, Manifest, Record, Shard
from pipeline.generating.workers import Report, draw_shards
from pipeline.models import load_model
from pipeline.server import configured_server, server_answers
from pipeline.subprocesses.supervisor import exit_on_signals
from stages.common import device
from stages.common.cores import usable_cores
from stages.common.errors import counted
from stages.common.progress import progress
from stages.inference.trained_model import TrainedModel
from stages.quickdraw.labels import as_yaml, check_name, explain_unknown
from stages.quickdraw.npy_header import describe_shape, image_shape

Finished = Callable[[Shard, Record], None]
Draw = Callable[[Report, Finished], None]


def generate(
    address: str, per_class: int, run: str | None = None, names: Sequence[str] = (), pool: str | None = None
) -> None:
    """Draw until a folder holds `<class>.npy` with that many drawings of each class, and print what to do with it.

    The drawings of a class are those of `TrainedModel.sample`, from the first on. Those that are there already are
    checked, and not drawn again.

    Args:
      address: a folder, or a URL that fsspec can write.
      per_class: drawings of each class.
      run: a DVC experiment, a Git revision or a folder; None for the checkout.
      names: the classes; empty for all of the model.
      pool: a work pool of Prefect, whose workers draw; None for this machine.

    Raises:
      PoolError: the pool cannot draw.
      GenerateError: the drawings cannot be drawn, or the folder holds something else.
      StageError, DvcError: the run has no model.
    """
    if not 1 <= per_class <= manifest.MAX_PER_CLASS:
        raise GenerateError(f"--per-class is {per_class}; expected: a whole number from 1 to {manifest.MAX_PER_CLASS}")
    if pool is not None:
        run = _experiment_for_pool(run)
        address = address if "://" in address else os.path.abspath(address)
    destination = open_destination(address)
    model = load_model(run)
    wanted = manifest.describe(model, _classes(model, names), per_class)
    workers = 1 if pool is None and device.configure("auto") else usable_cores()
    collection = Collection(destination, wanted)
    with collection.lock(), exit_on_signals():
        try:
            missing = collection.missing()
        except (KeyboardInterrupt, SystemExit):
            _say_interrupted("while the drawings that are there were checked")
            raise
        total = per_class * len(wanted.classes)
        drawn = sum(map(len, missing))
        started = time.monotonic()
        if not collection.is_finished():
            draw: Draw = functools.partial(_draw_here, model, destination, missing, workers)
            if pool is not None and run is not None:
                from pipeline.flows.draw import draw_in_pool

                draw = functools.partial(draw_in_pool, pool, run, destination, wanted, missing, collection.arrived)
            _draw(collection, draw, total - drawn, total)
        _report(wanted, destination, total, drawn, time.monotonic() - started)


def _classes(model: TrainedModel, names: Sequence[str]) -> tuple[str, ...]:
    """The classes to draw, in the model's order."""
    if image_shape(model.image_shape) is None:
        height, width, channels = model.image_shape
        raise GenerateError(f"the model's drawings, {height}×{width}×{channels}, have a shape that no source can have")
    if unknown := sorted(set(names) - set(model.classes)):
        raise GenerateError(f"--class: {explain_unknown(unknown, model.classes, 'the model')}")
    classes = tuple(name for name in model.classes if name in names or not names)
    for name in classes:
        try:
            if check_name(name) != name or file_name(name) == MARK:
                raise ValueError(f"{name!r} cannot be the name of a file")
        except ValueError as error:
            raise GenerateError(f"a class of the model: {error}") from None
    return classes


def _experiment_for_pool(run: str | None) -> str:
    """The experiment whose model the workers of a pool fetch; it is fetched from `origin`, too."""
    if run is None or Path(run).is_dir():
        raise GenerateError("--pool needs --run with the name of an experiment: the workers fetch the model by it")
    address = configured_server()
    if address is None or not server_answers(address):
        where = "is named: export PREFECT_API_URL=…" if address is None else f"answers at {address}"
        raise GenerateError(f"--pool needs a Prefect server, and none {where}")
    root = dvc.project_root(Path.cwd())
    if dvc.has_origin(root):
        dvc.fetch_experiments(root, run)
    return run


def _draw_here(
    model: TrainedModel,
    destination: Destination,
    missing: Sequence[Shard],
    workers: int,
    report: Report,
    finished: Finished,
) -> None:
    for shard, record in draw_shards(model, destination, missing, workers, report):
        finished(shard, record)


def _draw(collection: Collection, draw: Draw, done: int, total: int) -> None:
    """Draw what is missing, and finish the folder. An interrupt prints how far it came."""

    def finished(shard: Shard, record: Record) -> None:
        nonlocal done
        collection.add(shard, record)
        done += len(shard)

    try:
        collection.begin()
        with progress("generate", total, "drawings", done) as add:
            draw(add, finished)
        collection.finish()
    except (KeyboardInterrupt, SystemExit):
        _say_interrupted(f"after {done:,} of {counted(total, 'drawing')}")
        raise


def _say_interrupted(when: str) -> None:
    print(f"\ninterrupted {when}; the same command goes on from here", file=sys.stderr, flush=True)


def _report(wanted: Manifest, destination: Destination, total: int, drawn: int, seconds: float) -> None:
    rate = f", {drawn / seconds:,.0f} a second" if drawn else ""
    of_each = "" if len(wanted.classes) == 1 else f", {wanted.per_class:,} of each of {len(wanted.classes):,} classes"
    print(
        f"{destination.shown} holds {counted(total, 'drawing')} of {describe_shape(wanted.image_shape)}{of_each}; "
        f"{drawn:,} of them are new{rate}"
    )
    address = shlex.quote(destination.shown)
    print(f"`python -m pipeline verify {address}` draws a few of them again, and compares")
    chosen = shlex.quote(f"classes={as_yaml(wanted.classes[:20])}")
    print(f"Learn from them: python -m pipeline run --profile quick --source {address} -S {chosen}", flush=True)
