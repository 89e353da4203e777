"""Event files of TensorBoard, in the folder `$QUICKDRAW_LOGDIR`, so that one can look at a run while it trains.

TensorFlow writes them. The functions of `tf.summary` for scalars and images need the package tensorboard, which only
those install who look; so the summaries are put together here.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

VARIABLE = "QUICKDRAW_LOGDIR"


def open_log(name: str) -> Events | None:
    """The event files of the run with this name, a folder in `$QUICKDRAW_LOGDIR`; None without that variable."""
    if not (setting := os.environ.get(VARIABLE)):
        return None
    folder = Path(setting).expanduser() / name
    folder.mkdir(parents=True, exist_ok=True)  # TensorFlow's error would not be an `OSError`
    return Events(folder)


class Events:
    """The event files of a run. What is written is on the disk when a method returns."""

    def __init__(self, folder: Path) -> None:
        self._writer = tf.summary.create_file_writer(str(folder))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write numbers by name, of the state after a number of training steps."""
        for name, value in values.items():
            self._write(name, "scalars", tf.constant(value, tf.float32), step)
        self._writer.flush()

    def drawings(self, step: int, images: npt.NDArray[np.uint8]) -> None:
        """Write drawings, (N, height, width, channels), as one image, side by side."""
        sheet = np.concatenate(list(images), axis=1)
        height, width, _ = sheet.shape
        self._write("drawings", "images", tf.stack([str(width), str(height), tf.io.encode_png(sheet)]), step)
        self._writer.flush()

    def _write(self, name: str, plugin: str, value: tf.Tensor, step: int) -> None:
        metadata = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin),
            data_class={"scalars": "DATA_CLASS_SCALAR", "images": "DATA_CLASS_BLOB_SEQUENCE"}[plugin],
        )
        with self._writer.as_default():
            tf.summary.write(name, value, step=step, metadata=metadata)
