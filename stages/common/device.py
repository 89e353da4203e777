"""Where TensorFlow computes, and what it takes for the same settings to give the same bytes."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stages.common.errors import SettingsError


def configure(device: str, deterministic: bool = False) -> list[Any]:
    """Make TensorFlow ready: choose the device, and whether it repeats itself to the bit.

    Call it before any tensor exists.

    Args:
      device: "gpu" insists on a GPU, "cpu" hides what there is, "auto" takes a GPU where there is one.
      deterministic: whether a GPU must repeat itself too, which makes some sums slower. A CPU always does.

    Returns:
      The GPUs to compute on; empty on a CPU.

    Raises:
      SettingsError: for "gpu" without one.
    """
    with capture_stderr():
        import tensorflow as tf

        gpus = [] if device == "cpu" else tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise SettingsError(
            "device is gpu, and TensorFlow sees none here; install the extra `gpu` and NVIDIA's driver, "
            "or set device to auto or cpu"
        )
    tf.config.set_visible_devices(gpus, "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if deterministic or not gpus:
        tf.config.experimental.enable_op_determinism()
    if device == "auto":
        names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
        print(f"device: auto took {', '.join(names) or 'the CPU; TensorFlow sees no GPU'}", file=sys.stderr, flush=True)
    return gpus


@contextmanager
def capture_stderr() -> Iterator[None]:
    """Keep back what native code writes to standard error, and write it after all where Python raises.

    TensorFlow's greeting and its notes on the build heed no log level.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            aside.seek(0)
            os.write(kept, aside.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def strategy(gpus: Sequence[Any], batch_size: int) -> Any:
    """The TensorFlow strategy that shares a batch out among several GPUs, or None for one device.

    Raises:
      SettingsError: where the batch cannot be shared out evenly.
    """
    if len(gpus) < 2:
        return None
    if batch_size % len(gpus):
        raise SettingsError(f"batch_size is {batch_size}; permitted with {len(gpus)} GPUs: a multiple of {len(gpus)}")
    import tensorflow as tf

    return tf.distribute.MirroredStrategy()
