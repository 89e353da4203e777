"""The pen that draws doodles: random numbers per row, a few kinds of strokes, and random distortions of each stroke.

A `Pen` draws one recipe for many rows at a time. A length is a float, the same for every row, or a column of shape
(n, 1), one number per row; so a recipe reads as if it drew a single doodle. The paper extends from about -1 to 1, with
x to the right and y down. Strokes outside are kept, because the doodle is scaled to fit the bitmap at the end. Angles
are in turns: 0 points right, 0.25 points down.

The same row gives the same bytes on every machine: random numbers come from integer arithmetic, and everything else
uses only operations that IEEE 754 defines to the last bit (+, -, ×, ÷, √), not the sine of a mathematical library.
"""

import hashlib
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Length: TypeAlias = float | Floats
Point: TypeAlias = tuple[Length, Length]
When: TypeAlias = bool | Bools

# The first three are multiplied by a random number per row, 0.5 to 2.
_OFFSET = 0.022  # the maximum shift of a stroke
_BEND = 0.035  # the maximum bend of a stroke, as a share of its size
_OMIT_PROBABILITY = 0.08  # of omitting a stroke smaller than _SMALL
_SMALL = 0.28
_RETRACE_PROBABILITY = 0.09  # of drawing a stroke twice


def wave(turns: Length) -> Floats:
    """The sine of an angle in turns, to within 0.0011: a parabola, corrected by a second one."""
    t = np.asarray(turns - np.rint(turns))
    rough = 8 * t - 16 * t * np.abs(t)
    return np.asarray(rough * (0.775 + 0.225 * np.abs(rough)))


def around(turns: Length, radius: Length, x: Length = 0.0, y: Length = 0.0) -> Point:
    """The point at the angle `turns` and the distance `radius` from (x, y)."""
    return x + radius * wave(turns + 0.25), y + radius * wave(turns)


class Pen:
    """Draws rows of one class. Each row has its own random numbers.

    Args:
      name: with which the random numbers are seeded.
      rows: the row numbers, (n,).
    """

    def __init__(self, name: str, rows: npt.NDArray[np.uint64]) -> None:
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        self._seeds = _mix(_mix(rows.reshape(-1, 1) + np.array([key], np.uint64)))
        self._zeros = np.zeros(self._seeds.shape)  # added to a length to make it a column
        self._numbers_used = 0
        self._side = 1
        self._strokes: list[tuple[Floats, Floats, Bools]] = []
        self._distortion = self.between(0.5, 2.0)

    # Random numbers

    def between(self, low: float, high: float, many: int = 1) -> Floats:
        """Uniform random numbers (n, many): SplitMix64 (Steele, Lea and Flood, 2014), one stream per row."""
        steps = np.arange(self._numbers_used + 1, self._numbers_used + many + 1, dtype=np.uint64)
        self._numbers_used += many
        whole = _mix(self._seeds + steps * np.array([0x9E3779B97F4A7C15], np.uint64))
        return np.asarray(low + (high - low) * ((whole >> np.uint64(11)) * 2.0**-53))

    def chance(self, probability: float) -> Bools:
        return np.asarray(self.between(0, 1) < probability)

    def count(self, low: int, high: int) -> Floats:
        """A random integer from `low` to `high`, both included, for each row."""
        return np.asarray(np.floor(self.between(low, high + 1)))

    def both_sides(self) -> Iterator[int]:
        """A loop that draws its body twice, first mirrored, then not. The random numbers differ between the two."""
        for self._side in (-1, 1):
            yield self._side

    # Strokes

    def line(self, *corners: Point, closed: bool = False, when: When = True) -> None:
        """Straight lines from corner to corner."""
        x, y = self._columns(*corners, *corners[: int(closed)])
        self._stroke(_straight(x), _straight(y), when)

    def box(self, left: Length, top: Length, right: Length, bottom: Length, when: When = True) -> None:
        self.line((left, top), (right, top), (right, bottom), (left, bottom), closed=True, when=when)

    def curve(self, *points: Point, closed: bool = False, when: When = True) -> None:
        """A smooth line through all points: a Catmull-Rom spline."""
        before, after = (points[-1:], points[:2]) if closed else (points[:1], points[-1:])
        x, y = self._columns(*before, *points, *after)
        self._stroke(_spline(x), _spline(y), when)

    def arc(
        self, x: Length, y: Length, wide: Length, high: Length, start: Length, end: Length, when: When = True
    ) -> None:
        """An arc of the ellipse around (x, y) with semi-axes `wide` and `high`, from angle `start` to angle `end`."""
        angle = start + (end - start) * np.arange(15) / 14
        self._stroke(x + wide * wave(angle + 0.25), y + high * wave(angle), when)

    def ring(self, x: Length, y: Length, wide: Length, high: Length | None = None, when: When = True) -> None:
        """An ellipse that starts at a random angle, and ends a little before or after its start."""
        start, extra = self.between(0, 1), self.between(-0.03, 0.12)
        self.arc(x, y, wide, wide if high is None else high, start, start + 1 + extra, when)

    def leaf(self, base: Point, tip: Point, fat: Length, when: When = True) -> None:
        """An ellipse from base to tip and back, `fat` times as thick as long: a wing, an ear or a foot."""
        (x0, y0), (x1, y1) = base, tip
        half_x, half_y = (x1 - x0) / 2, (y1 - y0) / 2
        angle = np.arange(15) / 14
        along, across = 1 - wave(angle + 0.25), wave(angle) * fat
        self._stroke(x0 + half_x * along - half_y * across, y0 + half_y * along + half_x * across, when)

    def cloud(
        self,
        x: Length,
        y: Length,
        wide: Length,
        high: Length,
        bumps: Length,
        start: Length = 0.0,
        end: Length = 1.0,
        when: When = True,
    ) -> None:
        """Bumps along an ellipse, from angle `start` to angle `end`."""
        t = np.arange(49) / 48
        angle = start + (end - start) * t
        out = 0.8 + self.between(0.24, 0.36) * np.abs(wave(bumps * t / 2))
        self._stroke(x + wide * out * wave(angle + 0.25), y + high * out * wave(angle), when)

    def scribble(self, x: Length, y: Length, wide: Length, high: Length, legs: int, when: When = True) -> None:
        """A zigzag of `legs` lines that roughly fills an ellipse."""
        across = (np.arange(legs) + 0.5) / legs * 2 - 1 + self.between(-0.5, 0.5, legs) / legs
        reach = np.sqrt(np.maximum(1 - across * across, 0)) * self.between(0.7, 1.0, legs)
        down = np.where(np.arange(legs) % 2, reach, -reach)
        corners = [(x + wide * across[:, i : i + 1], y + high * down[:, i : i + 1]) for i in range(legs)]
        self.line(*corners, when=when)

    def dot(self, x: Length, y: Length, when: When = True) -> None:
        """A dot, such as an eye or a seed: a very short line."""
        size = self.between(0.01, 0.05)
        self.line((x - size, y), (x + size, y + size), when=when)

    # The drawing

    def drawing(self, tilt: float) -> tuple[Floats, Floats, Bools]:
        """The points x and y, (n, t), and whether the pen is down between each point and the next, (n, t - 1).

        The whole drawing is randomly distorted: curved, stretched, slanted, mirrored with probability 0.5, and rotated
        by up to `tilt` turns to either side.
        """
        x, y, drawn = self._distorted_strokes()
        bow_x, bow_y, swell_x, swell_y = (self.between(-0.09, 0.09) for _ in range(4))
        x, y = x + bow_x * y * y + swell_x * x * x, y + bow_y * x * x + swell_y * y * y
        slant, stretch = self.between(-0.16, 0.16), self.between(0.8, 1.32)
        x = (x * stretch + slant * y) * np.where(self.chance(0.5), 1, -1)
        angle = self.between(-tilt, tilt)
        cosine, sine = wave(angle + 0.25), wave(angle)
        return x * cosine - y * sine, x * sine + y * cosine, drawn

    def _distorted_strokes(self) -> tuple[Floats, Floats, Bools]:
        """The points of all strokes, each stroke randomly shifted and bent; some are omitted, some drawn twice."""
        for x, y, when in self._strokes[:]:
            self._stroke(x, y, when & self.chance(_RETRACE_PROBABILITY))
        lengths = np.array([x.shape[1] for x, _, _ in self._strokes])
        ends = np.cumsum(lengths)
        starts, stroke_of = ends - lengths, np.repeat(np.arange(len(lengths)), lengths)
        t = (np.arange(ends[-1]) - starts[stroke_of]) / (lengths - 1)[stroke_of]
        modes = 2 * t - 1, wave(t / 2 + 0.25), wave(t), wave(1.5 * t + 0.1)

        raw = [np.concatenate([stroke[axis] for stroke in self._strokes], axis=1) for axis in (0, 1)]
        low, high = (
            np.stack([extreme.reduceat(z, starts, axis=1) for z in raw]) for extreme in (np.minimum, np.maximum)
        )
        size = np.max(high - low, axis=0)
        moved = []
        for z in raw:
            z = z + (_OFFSET * self._distortion * self.between(-1, 1, len(lengths)))[:, stroke_of]
            for i, mode in enumerate(modes, 1):
                z = z + (_BEND / i * self._distortion * size * self.between(-1, 1, len(lengths)))[:, stroke_of] * mode
            moved.append(z)

        omitted = (size < _SMALL) & (self.between(0, 1, len(lengths)) < _OMIT_PROBABILITY * self._distortion)
        present = np.concatenate([when for _, _, when in self._strokes], axis=1) & ~omitted
        drawn = present[:, stroke_of]
        drawn[:, ends - 1] = False
        return moved[0], moved[1], drawn[:, :-1]

    def _columns(self, *points: Point) -> tuple[Floats, Floats]:
        """The x and the y coordinates of points: two arrays (drawings, points)."""
        x, y = (np.concatenate([point[axis] + self._zeros for point in points], axis=1) for axis in (0, 1))
        return x, y

    def _stroke(self, x: Floats, y: Floats, when: When) -> None:
        self._strokes.append((self._side * x + self._zeros, y + self._zeros, when | (self._zeros > 0)))


def _straight(p: Floats) -> Floats:
    """Divide each line into three, so that it can bend: (n, m) to (n, 3 m - 2)."""
    start, end = p[:, :-1, None], p[:, 1:, None]
    points = start + (end - start) * (np.arange(3) / 3)
    return np.concatenate([points.reshape(len(p), -1), p[:, -1:]], axis=1)


def _spline(p: Floats) -> Floats:
    """The uniform Catmull-Rom spline through p[:, 1:-1], in four steps per span: (n, m) to (n, 4 m - 11)."""
    u = np.arange(4) / 4
    before, start, end, after = (p[:, i : p.shape[1] - 3 + i, None] for i in range(4))
    points = (
        start
        + (end - before) * (u / 2)
        + (2 * before - 5 * start + 4 * end - after) * (u * u / 2)
        + (3 * start - before - 3 * end + after) * (u * u * u / 2)
    )
    return np.concatenate([points.reshape(len(p), -1), p[:, -2:-1]], axis=1)


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser: a change of any bit of the input changes about half the bits of the output."""
    z = (z ^ (z >> np.uint64(30))) * np.array([0xBF58476D1CE4E5B9], np.uint64)
    z = (z ^ (z >> np.uint64(27))) * np.array([0x94D049BB133111EB], np.uint64)
    return z ^ (z >> np.uint64(31))
