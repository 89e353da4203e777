"""The record of a training run, which grows while it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages.outputs import film, losses
from stages.outputs.film import Film
from stages.outputs.losses import Loss

if TYPE_CHECKING:
    from stages.outputs.events import Events

SPLITS = ("train", "heldout")


class Log:
    """What is recorded of a training run: the losses and the film, which grow in a folder, and TensorBoard's events.

    Args:
      folder: where loss.csv and film.safetensors are written anew when they grow; None writes nothing.
      film_steps: the steps after which the film has a frame.
      draw: returns a frame, (classes, height, width, channels), of the current weights.
      events: TensorBoard's event files, or None.

    Attributes:
      losses: the recorded losses.
      frames: the frames of the film by their steps.
    """

    def __init__(
        self,
        folder: Path | None = None,
        film_steps: Sequence[int] = (),
        draw: Callable[[], npt.NDArray[np.uint8]] | None = None,
        events: Events | None = None,
    ) -> None:
        self.losses: list[Loss] = []
        self.frames: dict[int, npt.NDArray[np.uint8]] = {}
        self._folder, self._film_steps, self._draw, self._events = folder, frozenset(film_steps), draw, events
        self._write()

    def add(self, loss: Loss, **values: float) -> None:
        """Record a loss; TensorBoard shows the other values too, by their names."""
        self.losses.append(loss)
        self._write()
        if self._events:
            self._events.scalars(loss.step, {f"bits_per_dim/{loss.split}": loss.bits_per_dim} | values)

    def draw_frame(self, step: int) -> None:
        """Record a frame of the film if there is one after this step."""
        if self._draw is None or step not in self._film_steps:
            return
        self.frames[step] = self._draw()
        self._write()
        if self._events:
            self._events.drawings(step, self.frames[step])

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays of a checkpoint, by name."""
        rows = [(*row[:2], SPLITS.index(row.split), row.bits_per_dim) for row in self.losses]
        steps, drawings = self._film()
        return {"losses": np.array(rows), "film_steps": steps, "film_drawings": drawings}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from the arrays of a checkpoint."""
        self.losses = [
            Loss(int(step), int(drawings), SPLITS[int(split)], bits)
            for step, drawings, split, bits in state["losses"].tolist()
        ]
        self.frames = dict(zip(state["film_steps"].tolist(), state["film_drawings"], strict=True))
        self._write()

    def _write(self) -> None:
        if self._folder:
            losses.write(self._folder / losses.FILE, self.losses)
            film.write(self._folder / film.FILE, self._film())

    def _film(self) -> Film:
        if not self.frames:
            return Film(np.zeros(0, np.int64), np.zeros((0,) * 5, np.uint8))
        return Film(np.array(list(self.frames), np.int64), np.stack(list(self.frames.values())))
