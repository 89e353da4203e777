"""Draws shards: on a GPU in this process, on a CPU in a process for each core.

The small products of the sampler leave much of the time to Python, of which a process runs one thread at a time. So a
process for each core draws faster than threads in one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from pipeline.generating.collection import write_part
from pipeline.generating.destination import Destination, open_destination
from pipeline.generating.manifest import GenerateError, Record, Shard
from stages.common import device
from stages.common.errors import UserError
from stages.inference.processor import processor
from stages.inference.trained_model import TrainedModel

START_SECONDS = 5.0  # that this process draws alone: to start others takes as long

Report = Callable[[int], object]


def draw_shard(model: TrainedModel, destination: Destination, shard: Shard, report: Report) -> Record:
    """Draw a shard and write it as a part.

    Args:
      report: called with each number of drawings that are done.
    """
    pixels = []
    for start in range(shard.start, shard.stop, model.batch_capacity):
        number = min(model.batch_capacity, shard.stop - start)
        pixels.append(model.sample(shard.name, number, first=start).tobytes())
        report(number)
    return write_part(destination, shard, b"".join(pixels), processor())


def draw_shards(
    model: TrainedModel, destination: Destination, shards: Sequence[Shard], workers: int, report: Report
) -> Iterator[tuple[Shard, Record]]:
    """Draw shards and write them as parts.

    Args:
      workers: how many processes draw; with 1, it is this one. So it is in the first seconds.
      report: called with each number of drawings that are done.

    Yields:
      Each shard as soon as it is written, in any order, and its record.

    Raises:
      GenerateError: a worker was killed.
      UserError, OSError: a part cannot be written.
    """
    waiting = deque(shards)
    started = time.monotonic()
    while waiting and (workers == 1 or time.monotonic() - started < START_SECONDS):
        yield (shard := waiting.popleft()), draw_shard(model, destination, shard, report)
    workers = min(workers, len(waiting))
    in_work: dict[Connection, Shard] = {}

    def assign(connection: Connection) -> None:
        if waiting:
            in_work[connection] = shard = waiting.popleft()
            connection.send(shard)

    with _processes(workers) as connections:
        for connection in connections:
            connection.send((destination.address, model))
            assign(connection)
        while in_work:
            for connection in [connection for connection in in_work if connection in wait(list(in_work))]:
                match _receive(connection):
                    case int(number):
                        report(number)
                    case Record() as record:
                        yield in_work.pop(connection), record
                        assign(connection)
                    case error:
                        raise error


def _receive(connection: Connection) -> Any:
    try:
        return connection.recv()
    except (EOFError, ConnectionResetError):
        raise GenerateError(
            "a process that draws was killed, perhaps because memory ran out: run the same command again, which goes "
            "on from here; `taskset --cpu-list 0` before it uses one core and less memory"
        ) from None


@contextmanager
def _processes(number: int) -> Iterator[list[Connection]]:
    """Start processes that draw, and end them at once when the block ends."""
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    processes: list[BaseProcess] = []
    connections: list[Connection] = []
    resource_tracker.ensure_running()  # else the first process starts it, which unblocks the signals for all of them
    # The processes inherit this: what ends the command can reach them too, but this process ends them.
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        try:
            for index in range(number):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, index), daemon=True)
                process.start()
                theirs.close()
                processes.append(process)
                connections.append(ours)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        yield connections
    finally:
        for started in processes:
            started.kill()
        for started in processes:
            started.join()
        for connection in connections:
            connection.close()


def _work(connection: Connection, index: int) -> None:
    """Draw the shards that come from the connection, on one core, until the process at its other end ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[index % len(cores)]})
    with device.capture_stderr():  # this imports TensorFlow
        address, model = connection.recv()
        device.configure("cpu")
    destination = open_destination(address)
    try:
        while True:
            shard = connection.recv()
            connection.send(draw_shard(model, destination, shard, connection.send))
    except (UserError, OSError) as error:
        connection.send(error)
    except EOFError:
        pass


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
