"""The hosts that train together: each runs the same command, with the variable `TF_CONFIG` in its environment.

TensorFlow defines that variable, and the training operators of Kubernetes set it: the addresses of all hosts, and which
of them this one is. The first host is the chief, which writes the outputs and the checkpoints. TensorFlow runs a
collective operation, such as a sum over all hosts, when every host has asked for it, so all hosts must ask for the same
ones in the same order. What only the chief does contains none, and the others wait for it at the next one.

TensorFlow's coordination service notices within about ten seconds that a host is gone, and fails the operation that the
others wait for.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.common.device import capture_stderr
from stages.common.errors import SettingsError, StageError, one_line

VARIABLE = "TF_CONFIG"
# The types of the hosts that train, the chief's first; without one, the first worker is the chief.
TYPES = ("chief", "worker")

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Hosts:
    """The hosts that train together.

    Attributes:
      addresses: `host:port` of each, the chief's first; at most one if this host trains alone.
      index: which of them this one is.
      strategy: TensorFlow's strategy that splits a batch over the devices of all hosts; None for one device.
    """

    addresses: Sequence[str] = ()
    index: int = 0
    strategy: Any = None

    @property
    def several(self) -> bool:
        """Whether more than one host trains."""
        return len(self.addresses) > 1

    @property
    def is_chief(self) -> bool:
        """Whether this host writes the outputs."""
        return self.index == 0

    def from_chief(self, arrays: Arrays) -> Arrays:
        """Return the chief's arrays on every host: a collective operation.

        Args:
          arrays: by name; their names, shapes and types are the same on all hosts.
        """
        if not self.several:
            return arrays
        import tensorflow as tf

        with self.strategy.scope():  # a new variable has the chief's initial value on every host
            return {name: tf.Variable(array).numpy() for name, array in arrays.items()}

    def check_same(self, key: str) -> None:
        """Check that all hosts do the same, which they must before any operation that depends on it.

        Args:
          key: hexadecimal digits, a hash of what this host does.

        Raises:
          StageError: the chief does something else.
        """
        own = np.frombuffer(bytes.fromhex(key), np.int64)
        if not np.array_equal(self.from_chief({"key": own})["key"], own):
            raise StageError(
                f"{self.describe(self.index)}, differs from the chief, {self.addresses[0]}, in the settings, the "
                "drawings, the code, the packages or the number of GPUs: check out the chief's commit with its "
                "params.yaml, run `dvc pull data/filter`, and run the same command on all hosts again"
            )

    def end(self) -> None:
        """Wait until the chief ends well; on the chief, let the others end."""
        if not self.several:
            return
        import tensorflow as tf

        try:
            self.from_chief({"end": np.zeros(1, np.float32)})
        except tf.errors.OpError:
            if not self.is_chief:  # which has written everything, so it does not matter to it who is gone
                raise

    @contextmanager
    def reporting_lost(self, resumption: Callable[[], str]) -> Iterator[None]:
        """Raise a `StageError` that names the hosts that are gone if a collective operation fails in the block.

        Args:
          resumption: returns from where the same command goes on, such as `from step 100`.
        """
        if not self.several:
            yield
            return
        import tensorflow as tf

        try:
            yield
        except tf.errors.OpError as error:
            if (lost := self._lost(error)) is None:
                raise
            raise StageError(
                f"{lost} gone: run the same command on all hosts again, which goes on {resumption()}"
            ) from error

    def describe(self, index: int) -> str:
        """Return `host 2 of 2, worker-0.example:2222`."""
        return f"host {index + 1} of {len(self.addresses)}, {self.addresses[index]}"

    def _lost(self, error: Any) -> str | None:
        """Return which hosts an error of TensorFlow says are gone, with a verb; None for any other error."""
        import tensorflow as tf

        message = str(error)
        if "CoordinationService" in message:  # it is on the chief
            message += "/task:0"
        elif "NCCL" not in message and not isinstance(
            error, (tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.AbortedError)
        ):
            return None
        lost = {int(index) for index in re.findall(r"/task:(\d+)", message)} - {self.index}
        named = [self.describe(index) for index in sorted(lost) if index < len(self.addresses)]
        return f"{' and '.join(named)}, {'is' if len(named) == 1 else 'are'}" if named else "another host is"


ALONE = Hosts()


def connect(gpus: Sequence[Any], batch_size: int) -> Hosts:
    """Wait for all hosts of `TF_CONFIG`, and return them. Call this before any other operation of TensorFlow.

    Args:
      gpus: the GPUs that this host computes on, as many on each host; none for a CPU.
      batch_size: drawings per step, on all hosts together.

    Raises:
      SettingsError: `TF_CONFIG` cannot be used, or the batch cannot be split evenly.
      StageError: another host ended, or this one cannot be reached.
    """
    addresses, index = read(os.environ.get(VARIABLE, ""))
    replicas = max(len(gpus), 1) * max(len(addresses), 1)
    if batch_size % replicas:
        devices = [f"{len(addresses)} hosts"] * (len(addresses) > 1) + [f"{len(gpus)} GPUs"] * (len(gpus) > 1)
        raise SettingsError(
            f"batch_size is {batch_size}; expected with {' of '.join(devices)}: a multiple of {replicas}"
        )
    if replicas == 1:
        return ALONE
    import tensorflow as tf

    if len(addresses) < 2:
        return Hosts(strategy=tf.distribute.MirroredStrategy())
    alone = Hosts(addresses, index)
    with alone.reporting_lost(lambda: "from the chief's last checkpoint"):
        return replace(alone, strategy=_strategy(alone, len(gpus)))


def read(text: str) -> tuple[list[str], int]:
    """Return the addresses of the hosts in the text of `TF_CONFIG`, the chief's first, and the index of this host.

    Raises:
      SettingsError: this host does not train, or the text is not what TensorFlow defines.
    """
    example = '{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}'
    expected = f"expected: JSON such as {example}, or no variable to train on this host alone"
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        raise SettingsError(f"{VARIABLE} is {one_line(text)}, which is not JSON; {expected}") from None
    cluster, task = (value.get(name) for name in ("cluster", "task")) if isinstance(value, dict) else (None, None)
    if value == {} or cluster == {}:
        return [], 0
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise SettingsError(f"{VARIABLE} is {one_line(text)}, without a cluster or a task; {expected}")
    kind, index = str(task.get("type", "none")), task.get("index")
    if others := sorted({kind, *cluster} - {*TYPES}):
        raise SettingsError(
            f"{VARIABLE} has the task type {one_line(', '.join(others))}; expected: {' or '.join(TYPES)}, "
            "because every host trains: start the job without hosts of other types"
        )
    for name, addresses in cluster.items():
        if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
            raise SettingsError(f"{VARIABLE}: {name} is {one_line(addresses)}; expected: a list of host:port")
    hosts = [(name, number) for name in TYPES for number in range(len(cluster.get(name, ())))]
    if type(index) is not int or (kind, index) not in hosts:
        raise SettingsError(
            f"{VARIABLE} says that this host is {kind} {one_line(index)}; "
            f"expected: one of {one_line(', '.join(f'{name} {number}' for name, number in hosts))}"
        )
    addresses = [cluster[name][number] for name, number in hosts]
    if len(set(addresses)) < len(addresses):
        raise SettingsError(f"{VARIABLE} lists {one_line(', '.join(addresses))}; expected: each address once")
    return addresses, hosts.index((kind, index))


def _is_address(text: object) -> bool:
    """Whether a text is `host:port`; the host is a name, an IPv4 address or an IPv6 address in brackets."""
    match = re.fullmatch(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})", text) if isinstance(text, str) else None
    return bool(match) and 0 < int(match[1]) < 65536 if match else False


def _strategy(hosts: Hosts, gpus: int) -> Any:
    """Wait for all hosts, and return the strategy over them."""
    import tensorflow as tf

    print(f"train: {hosts.describe(hosts.index)}, waits until all have started", file=sys.stderr, flush=True)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(hosts.addresses)}),
        task_type="worker",
        task_id=hosts.index,
        num_accelerators={"GPU": gpus},
        rpc_layer="grpc",
    )
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # Python handles no signal while TensorFlow waits, so let an interrupt end the process; nothing is written yet.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with capture_stderr():
            try:
                return tf.distribute.MultiWorkerMirroredStrategy(resolver)
            except tf.errors.OpError as raised:  # what TensorFlow printed is not shown
                error = raised
    finally:
        for number, handler in handlers.items():  # TensorFlow has set one that ignores SIGTERM
            signal.signal(number, handler)
    if isinstance(error, tf.errors.UnknownError):
        raise StageError(
            f"{hosts.describe(hosts.index)}, cannot accept connections ({one_line(error.message)}): "
            "end the process that uses this port, or name another one on all hosts"
        )
    raise error
