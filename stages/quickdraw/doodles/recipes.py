"""How each class is drawn: one short recipe for each way to draw it, in the strokes of `pen.py`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stages.quickdraw.doodles.pen import Length, Pen, When, around


@dataclass(frozen=True)
class Recipe:
    """One way to draw a class.

    Attributes:
      draw: draws it with a pen. The function's name is part of the random seed: to rename it changes the drawings.
      share: of the class's drawings, relative to the shares of its other recipes.
      tilt: the maximum rotation to either side, in turns.
    """

    draw: Callable[[Pen], None]
    share: float
    tilt: float


RECIPES: dict[str, list[Recipe]] = {}


def doodle(
    name: str, share: float = 1.0, tilt: float = 0.03
) -> Callable[[Callable[[Pen], None]], Callable[[Pen], None]]:
    """A decorator that registers a function as a recipe of the class `name`; `share` and `tilt` as in `Recipe`."""

    def register(draw: Callable[[Pen], None]) -> Callable[[Pen], None]:
        RECIPES.setdefault(name, []).append(Recipe(draw, share, tilt))
        return draw

    return register


# Parts that several recipes share


def wheel(pen: Pen, x: Length, y: Length, r: Length, hub: float = 0.0, filled: float = 0.0, when: When = True) -> None:
    """A wheel; `hub` and `filled` are the probabilities that it has a hub and is filled."""
    pen.ring(x, y, r, when=when)
    pen.ring(x, y, 0.3 * r, when=when & pen.chance(hub))
    pen.scribble(x, y, 0.8 * r, 0.8 * r, 8, when=when & pen.chance(filled))


def eyes(pen: Pen, y: Length, apart: Length, when: When = True) -> None:
    for _ in pen.both_sides():
        pen.dot(apart, y, when=when)


def smoke(pen: Pen, x: Length, y: Length, often: float) -> None:
    pen.cloud(x, y, pen.between(0.15, 0.3), pen.between(0.1, 0.17), pen.count(4, 6), when=pen.chance(often))


# The twenty classes of the full run


@doodle("bee", share=3, tilt=0.07)
def bee_flying(pen: Pen) -> None:
    long, high = pen.between(0.65, 0.95), pen.between(0.36, 0.5)
    pen.ring(0, 0, long, high)
    stripes, dark = pen.count(1, 3), pen.chance(0.35)
    for i in range(3):
        x = long * (1.3 * (i + 1) / (stripes + 1) - 0.5)
        half = high * np.sqrt(np.maximum(1 - x * x / (long * long), 0.1)) * pen.between(0.85, 1.1)
        pen.curve((x, -half), (x + 0.1, 0), (x, half), when=i < stripes)
        pen.curve((x + 0.11, -half), (x + 0.2, 0), (x + 0.1, half), when=dark & (i < stripes))
    fat, reach = pen.between(0.4, 0.6), pen.between(0.45, 0.7)
    pen.leaf((-0.05, -0.9 * high), (pen.between(-0.6, -0.2), -high - reach), fat)
    pen.leaf((0.05, -0.9 * high), (pen.between(0.3, 0.75), -high - reach), fat, when=pen.chance(0.85))
    pen.dot(-0.75 * long, -0.12)
    with_feelers = pen.chance(0.35)
    for apart in (0.0, 0.22):
        pen.curve(
            (apart - 0.9 * long, -0.4 * high), (apart - 1.1 * long, -high), (apart - 1.3 * long, -high - 0.1),
            when=with_feelers,
        )  # fmt: skip
    pen.line((0.95 * long, -0.08), (1.25 * long, 0.02), (0.95 * long, 0.1), when=pen.chance(0.5))


@doodle("bee", share=1, tilt=0.12)
def bee_from_above(pen: Pen) -> None:
    wide = pen.between(0.28, 0.4)
    pen.ring(0, 0.2, wide, 0.62)
    for y in (0.0, 0.22, 0.44):
        pen.curve((-0.95 * wide, y), (0, y + 0.08), (0.95 * wide, y))
    pen.ring(0, -0.58, 0.75 * wide, 0.2)
    for _ in pen.both_sides():
        pen.leaf((0.8 * wide, -0.1), (1.0, pen.between(-0.7, -0.4)), pen.between(0.45, 0.6))
        pen.leaf((0.9 * wide, 0.1), (0.85, pen.between(0.1, 0.35)), 0.5, when=pen.chance(0.5))
        pen.curve((0.1, -0.75), (0.15, -0.9), (0.3, -1), when=pen.chance(0.8))
    pen.line((-0.06, 0.82), (0, 1), (0.06, 0.82))


@doodle("bicycle", share=2)
def bicycle_with_a_diamond(pen: Pen) -> None:
    r = pen.between(0.25, 0.36)
    for x in (-0.66, 0.66):
        wheel(pen, x, 0.35, r * pen.between(0.9, 1.1), filled=0.04)
    seat, crank, head = (-0.28, pen.between(-0.35, -0.15)), (-0.05, 0.35), (0.38, pen.between(-0.4, -0.2))
    pen.line((-0.66, 0.35), seat, head, crank, (-0.66, 0.35))
    pen.line(crank, seat, (-0.33, -0.42), when=pen.chance(0.5))
    pen.line((-0.52, -0.44), (-0.14, -0.44))
    pen.line((0.66, 0.35), head, (0.32, -0.55))
    upright = pen.chance(0.5)
    pen.curve((0.12, -0.56), (0.32, -0.57), (0.52, -0.52), when=upright)
    pen.curve((0.32, -0.55), (0.55, -0.62), (0.62, -0.45), (0.5, -0.36), when=~upright)


@doodle("bicycle", share=2)
def bicycle_with_one_tube(pen: Pen) -> None:
    r, tube = pen.between(0.3, 0.44), pen.between(-0.1, 0.1)
    spoked = pen.chance(0.2)
    for x in (-0.62, 0.62):
        wheel(pen, x, 0.35, r, filled=0.08)
        for side in (-1, 1):
            pen.line((x - 0.7 * r, 0.35 + side * 0.7 * r), (x + 0.7 * r, 0.35 - side * 0.7 * r), when=spoked)
    pen.line((-0.62, 0.35), (-0.3, tube), (0.46, tube))
    pen.line((-0.3, tube), (-0.38, -0.35))
    pen.line((-0.6, -0.36), (-0.18, -0.36))
    pen.line((0.62, 0.35), (0.42, -0.5))
    pen.curve((0.15, -0.5), (0.42, -0.52), (0.62, -0.6))


@doodle("broccoli", share=2, tilt=0.05)
def broccoli_of_clouds(pen: Pen) -> None:
    wide, low, high = pen.between(0.16, 0.26), pen.between(0.0, 0.2), pen.between(0.26, 0.4)
    crown, apart = pen.between(0.35, 0.5), pen.between(0.3, 0.5)
    dark = pen.chance(0.3)
    pen.cloud(0, -0.6, crown, high, pen.count(4, 6), 0.45, 1.05)
    for _ in pen.both_sides():
        pen.cloud(apart, -0.2, 0.42, high, pen.count(4, 6))
        pen.scribble(apart, -0.2, 0.33, 0.8 * high, 9, when=dark)
        pen.curve((0.5, low), (wide, 0.4), (wide, 0.95))
        pen.curve((0, 0.5), (0.12, 0.25), (0.24, low), when=~dark & pen.chance(0.3))
    pen.scribble(0, -0.6, 0.8 * crown, 0.8 * high, 10, when=dark)
    pen.curve((-wide, 0.95), (0, 1), (wide, 0.95), when=pen.chance(0.8))


@doodle("broccoli", share=1, tilt=0.05)
def broccoli_of_curls(pen: Pen) -> None:
    wide, high = pen.between(0.14, 0.24), pen.between(0.35, 0.5)
    dark = pen.chance(0.5)
    pen.cloud(0, -0.4, pen.between(0.7, 0.95), high, pen.count(7, 10))
    pen.scribble(0, -0.4, 0.65, 0.8 * high, 15, when=dark)
    for x, y in ((-0.4, -0.4), (0.0, -0.55), (0.35, -0.35), (-0.05, -0.2)):
        pen.arc(x, y, 0.16, 0.13, 0.45, 1.05, when=~dark & pen.chance(0.6))
    for _ in pen.both_sides():
        pen.line((0.45, -0.05), (wide, 0.35), (wide, 1))
        pen.line((0, 0.4), (0.15, 0.0), when=pen.chance(0.5))
    pen.line((-wide, 1), (wide, 1), when=pen.chance(0.7))


@doodle("broccoli", share=0.7, tilt=0.05)
def broccoli_florets(pen: Pen) -> None:
    wide = pen.between(0.1, 0.2)
    filled = pen.chance(0.3)
    for x, y in ((-0.6, -0.3), (0.0, -0.65), (0.6, -0.3)):
        r = pen.between(0.26, 0.36)
        pen.cloud(x, y, r, r, pen.count(4, 6))
        pen.scribble(x, y, 0.8 * r, 0.8 * r, 7, when=filled)
    pen.line((-wide, 0.95), (-wide, 0.45), (-0.6, 0.0))
    pen.line((wide, 0.95), (wide, 0.45), (0.6, 0.0))
    pen.line((-0.38, -0.08), (0, 0.28), (0.38, -0.08))
    pen.line((0, 0.28), (0, -0.3))
    pen.line((-wide, 0.95), (wide, 0.95))


@doodle("butterfly", share=2, tilt=0.08)
def butterfly_of_leaves(pen: Pen) -> None:
    pen.leaf((0, -0.5), (0, 0.65), pen.between(0.0, 0.22))
    up, down, fat = pen.between(0.5, 0.85), pen.between(0.4, 0.7), pen.between(0.45, 0.7)
    spotted, lower = pen.chance(0.2), pen.chance(0.88)
    for _ in pen.both_sides():
        pen.leaf((0.08, -0.15), (1.0, -up), fat)
        pen.leaf((0.08, 0.1), (0.72, down), fat, when=lower)
        pen.ring(0.62, -0.6 * up, 0.12, when=spotted)
        pen.curve((0.03, -0.5), (0.12, -0.75), (0.3, -0.85), when=pen.chance(0.75))


@doodle("butterfly", share=2, tilt=0.08)
def butterfly_of_curves(pen: Pen) -> None:
    pen.line((0, -0.45), (0, 0.6))
    top, waist, tail = pen.between(0.65, 0.95), pen.between(0.3, 0.5), pen.between(0.55, 0.85)
    lined, dark = pen.chance(0.1), pen.chance(0.1)
    for _ in pen.both_sides():
        pen.curve(
            (0, -0.2), (0.45, -top), (0.95, -top), (0.95, -0.35), (waist, 0.05), (0.8, 0.3), (0.75, tail), (0.35, tail),
            (0, 0.3),
        )  # fmt: skip
        pen.curve((0.2, -0.2), (0.5, -0.6), (0.75, -0.5), (0.25, -0.1), when=lined)
        pen.scribble(0.55, -0.45, 0.4, 0.4, 10, when=dark)
        pen.curve((0, -0.45), (0.1, -0.7), (0.28, -0.85), when=pen.chance(0.75))


@doodle("cactus", share=3)
def cactus_with_arms(pen: Pen) -> None:
    wide, foot, two_armed = pen.between(0.12, 0.22), 0.95, pen.chance(0.65)
    for side in pen.both_sides():
        elbow, top, out = pen.between(-0.1, 0.35), pen.between(-0.7, -0.25), pen.between(0.5, 0.72)
        armed = two_armed | (side > 0)
        pen.curve((0, -1), (0.7 * wide, -0.95), (wide, -0.7), (wide, 0.1), (wide, foot), when=~armed)
        pen.curve(
            (0, -1), (0.7 * wide, -0.95), (wide, -0.75), (wide, elbow - 0.15), (wide + 0.06, elbow - 0.02),
            (out - 0.12, elbow - 0.04), (out - 0.1, top + 0.15), (out, top), (out + 0.15, top + 0.1),
            (out + 0.17, elbow), (out, elbow + 0.25), (wide + 0.06, elbow + 0.28), (wide, elbow + 0.4),
            (wide, foot), when=armed,
        )  # fmt: skip
    ground = pen.chance(0.25)
    pen.line((-0.7, foot), (0.7, foot), when=ground)
    potted = ~ground & pen.chance(0.2)
    pen.line((-0.42, 0.95), (0.42, 0.95), (0.3, 1.45), (-0.3, 1.45), closed=True, when=potted)
    prickly = pen.chance(0.25)
    for y in (-0.7, -0.35, 0.0, 0.35, 0.7):
        x = pen.between(-0.6, 0.6) * wide
        pen.line((x, y), (x + 0.03, y + 0.12), when=prickly)


@doodle("cactus", share=0.45)
def cactus_in_a_pot(pen: Pen) -> None:
    wide, high = pen.between(0.35, 0.5), pen.between(0.7, 0.95)
    pen.curve(
        (-0.8 * wide, 0.4), (-wide, -0.2), (-0.6 * wide, -high), (0, -high - 0.1), (0.6 * wide, -high), (wide, -0.2),
        (0.8 * wide, 0.4),
    )  # fmt: skip
    for _ in pen.both_sides():
        for y in (-0.65, -0.35, -0.05, 0.2):
            pen.line((0.9 * wide, y), (wide + 0.22, y - 0.1), when=pen.chance(0.85))
        pen.curve((0.35 * wide, 0.35), (0.4 * wide, -0.2), (0.25 * wide, -0.8 * high), when=pen.chance(0.15))
    pen.line((-0.6, 0.4), (0.6, 0.4), (0.4, 1), (-0.4, 1), closed=True)


@doodle("frog", share=3)
def frog_face(pen: Pen) -> None:
    wide, high, apart = pen.between(0.8, 1.0), pen.between(0.45, 0.62), pen.between(0.45, 0.6)
    pen.arc(0, 0.15, wide, high, -0.16, 0.66)
    pen.curve((-0.2, -0.34), (0, -0.3), (0.2, -0.34))
    r = pen.between(0.17, 0.27)
    ringed = pen.chance(0.25)
    for _ in pen.both_sides():
        pen.ring(apart, -0.42, r)
        pen.ring(apart, -0.42, 0.35 * r, when=ringed)
        pen.dot(apart, -0.42, when=~ringed & pen.chance(0.8))
        pen.dot(0.1, 0.02, when=pen.chance(0.5))
    deep = pen.between(0.0, 0.25)
    pen.curve(
        (-0.7 * wide, 0.15), (-0.35 * wide, 0.22 + deep), (0, 0.25 + deep), (0.35 * wide, 0.22 + deep),
        (0.7 * wide, 0.15),
    )  # fmt: skip


@doodle("frog", share=1.2)
def frog_sitting(pen: Pen) -> None:
    head = pen.between(0.42, 0.55)
    pen.ring(0, -0.25, head, 0.32)
    grinning = pen.chance(0.5)
    for _ in pen.both_sides():
        pen.ring(0.65 * head, -0.62, pen.between(0.15, 0.21))
        pen.curve((0.7 * head, 0.0), (0.36, 0.35), (0.3, 0.7))
        pen.curve((0.4, 0.25), (0.85, 0.05), (1.05, 0.4), (0.75, 0.68), (0.35, 0.72))
        pen.line((0.7, 0.7), (1.05, 0.75), when=pen.chance(0.8))
    pen.curve((-0.6 * head, -0.22), (0, -0.08), (0.6 * head, -0.22), when=grinning)
    pen.curve((-0.3, 0.72), (0, 0.78), (0.3, 0.72))


@doodle("frog", share=0.6)
def frog_crouching(pen: Pen) -> None:
    pen.curve((-0.98, 0.0), (-0.75, -0.3), (-0.6, -0.35), (-0.2, -0.3), (0.3, -0.1), (0.7, 0.3), (0.85, 0.6))
    pen.curve((-0.98, 0.0), (-0.8, 0.15), (-0.45, 0.3), (0.0, 0.55))
    pen.ring(-0.42, -0.45, pen.between(0.16, 0.22))
    pen.dot(-0.42, -0.45)
    pen.curve((-0.95, 0.02), (-0.7, 0.0), (-0.5, -0.08), when=pen.chance(0.7))
    pen.line((-0.45, 0.3), (-0.5, 0.65), (-0.8, 0.68))
    pen.curve((0.75, 0.6), (0.35, 0.05), (0.1, 0.35), (0.35, 0.66), (-0.1, 0.7))
    pen.line((0.3, 0.68), (0.95, 0.68), when=pen.chance(0.7))


@doodle("guitar", tilt=0.22)
def guitar(pen: Pen) -> None:
    upper, waist, lower = pen.between(0.28, 0.38), pen.between(0.19, 0.28), pen.between(0.38, 0.52)
    neck, top = pen.between(0.03, 0.08), pen.between(-0.8, -0.45)
    pen.curve(
        (0.08, 0.0), (0.8 * upper, 0.03), (upper, 0.18), (waist, 0.38), (0.9 * lower, 0.55), (lower, 0.78),
        (0.6 * lower, 0.97), (0, 1.0), (-0.6 * lower, 0.97), (-lower, 0.78), (-0.9 * lower, 0.55), (-waist, 0.38),
        (-upper, 0.18), (-0.8 * upper, 0.03), (-0.08, 0.0),
    )  # fmt: skip
    pen.line((-neck, 0.02), (-neck, top), (neck, top), (neck, 0.02))
    pen.ring(0, 0.45, pen.between(0.09, 0.16), when=pen.chance(0.85))
    pen.line((-0.16, 0.78), (0.16, 0.78), when=pen.chance(0.6))
    pen.line((0, 0.78), (0, top), when=pen.chance(0.55))
    pen.scribble(0, 0.7, 0.8 * lower, 0.22, 9, when=pen.chance(0.15))
    headed = pen.chance(0.75)
    pen.box(-neck - 0.06, top - 0.26, neck + 0.06, top, when=headed)
    for y in (0.06, 0.2):
        for _ in pen.both_sides():
            pen.line((neck + 0.05, top - y), (neck + 0.17, top - y - 0.02), when=headed & pen.chance(0.7))


@doodle("lightning", share=3, tilt=0.05)
def lightning_bolt(pen: Pen) -> None:
    wide, lean = pen.between(0.25, 0.45), pen.between(0.1, 0.4)
    knee = pen.between(-0.1, 0.2)
    pen.line(
        (lean, -1), (-lean - 0.1, knee), (0.02, knee - 0.02), (-lean, 1), (lean + 0.25, knee - 0.32),
        (0.12, knee - 0.3), (lean + wide, -1), closed=True,
    )  # fmt: skip


@doodle("lightning", share=2, tilt=0.05)
def lightning_zigzag(pen: Pen) -> None:
    wide, step = pen.between(0.2, 0.4), pen.between(0.1, 0.25)
    thrice = pen.chance(0.4)
    pen.line((0.35, -1), (-wide, 0.05 - step), (wide, -0.1), (-0.3, 1), when=~thrice)
    pen.line((0.4, -1), (-wide, -0.3), (wide, -0.35 + step), (-wide, 0.25), (wide, 0.2), (-0.35, 1), when=thrice)


@doodle("lightning", share=1)
def lightning_from_a_cloud(pen: Pen) -> None:
    pen.cloud(0, -0.65, pen.between(0.7, 0.95), pen.between(0.3, 0.4), pen.count(6, 8))
    pen.line((0.1, -0.35), (-0.25, 0.3), (0.08, 0.25), (-0.15, 1), (0.4, 0.05), (0.1, 0.08), (0.35, -0.35))


@doodle("penguin", share=2)
def penguin_in_front(pen: Pen) -> None:
    wide = pen.between(0.36, 0.47)
    pen.ring(0, 0.02, wide, 0.92)
    pen.curve(
        (-0.55 * wide, 0.8), (-0.6 * wide, 0.1), (0, -0.15), (0.6 * wide, 0.1), (0.55 * wide, 0.8), when=pen.chance(0.4)
    )
    pen.scribble(0, -0.78, 0.6 * wide, 0.12, 7, when=pen.chance(0.2))
    eyes(pen, -0.55, 0.16)
    pen.line((-0.12, -0.42), (0.12, -0.42), (0, -0.26), closed=True)
    spread, long = pen.between(0.08, 0.28), pen.between(0.3, 0.55)
    for _ in pen.both_sides():
        pen.curve((0.85 * wide, -0.3), (wide + spread, 0.0), (wide + spread, long - 0.1), (wide, long - 0.25))
        pen.leaf((0.05, 0.97), (0.45, 1.02), pen.between(0.4, 0.6))


@doodle("penguin", share=1)
def penguin_with_a_head(pen: Pen) -> None:
    head, wide = pen.between(0.25, 0.34), pen.between(0.36, 0.46)
    pen.ring(0, -0.7, head)
    pen.ring(0, 0.22, wide, 0.68)
    eyes(pen, -0.78, 0.13)
    pen.line((-0.1, -0.66), (0.1, -0.66), (0, -0.52), closed=True)
    pen.ring(0, 0.3, 0.5 * wide, 0.45, when=pen.chance(0.25))
    spread = pen.between(0.08, 0.28)
    for _ in pen.both_sides():
        pen.leaf((0.8 * wide, -0.2), (wide + spread, 0.3), pen.between(0.1, 0.4))
        pen.line((0.18, 0.88), (0.18, 1), (0.45, 1))


@doodle("penguin", share=1)
def penguin_from_the_side(pen: Pen) -> None:
    fat = pen.between(0.0, 0.15)
    pen.curve(
        (0.3, -0.72), (0.12, -0.97), (-0.2, -0.9), (-0.28, -0.6), (-0.42, -0.1), (-0.4 - fat, 0.5), (-0.55, 0.95),
        (-0.1, 0.95), (0.35, 0.85), (0.5 + fat, 0.3), (0.4, -0.2), (0.22, -0.5),
    )  # fmt: skip
    pen.line((0.28, -0.76), (0.7, -0.6), (0.22, -0.52))
    pen.dot(0.08, -0.72)
    pen.curve((-0.1, -0.3), (0.15, 0.1), (0.0, 0.5), (-0.2, 0.2), (-0.1, -0.3))
    pen.scribble(-0.03, 0.1, 0.1, 0.3, 5, when=pen.chance(0.4))
    pen.curve((0.2, -0.5), (0.05, -0.35), (0.25, 0.2), (0.2, 0.85), when=pen.chance(0.4))
    pen.line((-0.05, 0.95), (0.0, 1.08), (0.5, 1.08), (0.2, 0.92))


@doodle("pizza", share=3, tilt=0.25)
def pizza_slice(pen: Pen) -> None:
    wide, bulge = pen.between(0.6, 0.85), pen.between(0.1, 0.25)
    pen.line((-wide, -0.65), (0, 1), (wide, -0.65))
    pen.curve((-wide, -0.65), (0, -0.65 - bulge), (wide, -0.65))
    pen.curve((-0.85 * wide, -0.4), (0, -0.4 - bulge), (0.85 * wide, -0.4), when=pen.chance(0.8))
    for x, y in ((-0.32, -0.15), (0.28, -0.2), (0.02, 0.15), (-0.08, 0.5), (0.02, -0.32)):
        r = pen.between(0.08, 0.15)
        pen.ring(x * wide / 0.75, y, r, when=pen.chance(0.8))


@doodle("pizza", share=2, tilt=0.5)
def pizza_whole(pen: Pen) -> None:
    pen.ring(0, 0, 0.97)
    crust = pen.between(0.74, 0.84)
    pen.ring(0, 0, crust, when=pen.chance(0.75))
    cuts = pen.count(2, 4)
    for i in range(4):
        angle = i / (2 * cuts) + pen.between(-0.02, 0.02)
        pen.line(around(angle, crust), around(angle + 0.5, crust), when=i < cuts)
    topped = pen.chance(0.75)
    for i in range(6):
        angle, out = i / 6 + pen.between(0.02, 0.12), pen.between(0.4, 0.58)
        pen.ring(*around(angle, out), pen.between(0.08, 0.13), when=topped & pen.chance(0.85))


@doodle("rollerskates")
def rollerskates(pen: Pen) -> None:
    top, shaft, toe = pen.between(-0.95, -0.6), pen.between(-0.12, 0.05), pen.between(0.7, 0.85)
    pen.curve((shaft, top), (shaft + 0.02, -0.5), (shaft + 0.12, -0.3), (0.45, -0.18), (toe - 0.05, 0.0), (toe, 0.28))
    pen.line((toe, 0.28), (-0.55, 0.3), (-0.5, top), (shaft, top))
    wheels, r = pen.count(2, 4), pen.between(0.15, 0.19)
    r = np.where(wheels > 2, r, 1.15 * r)
    for i in range(4):
        wheel(pen, i * (toe + 0.2) / (wheels - 1) - 0.38, 0.33 + r, r, when=i < wheels)
    laced = pen.chance(0.3)
    for y in (-0.55, -0.32):
        pen.line((shaft - 0.2, y - 0.05), (shaft + 0.05, y + 0.05), when=laced)
    pen.line((-0.5, 0.1), (toe, 0.08), when=pen.chance(0.15))


@doodle("sea turtle", share=3, tilt=0.05)
def turtle_swimming(pen: Pen) -> None:
    wide, high = pen.between(0.6, 0.8), pen.between(0.4, 0.55)
    pen.arc(0, 0.15, wide, high, 0.5, 1.0)
    pen.curve((-wide, 0.15), (0, pen.between(0.2, 0.35)), (wide, 0.15))
    pen.leaf((wide - 0.05, 0.12), (wide + 0.42, pen.between(-0.3, 0.0)), pen.between(0.6, 0.8))
    pen.dot(wide + 0.27, -0.1)
    pen.leaf((0.45 * wide, 0.2), (pen.between(0.3, 0.8), pen.between(0.5, 0.75)), pen.between(0.35, 0.5))
    pen.leaf((-0.6 * wide, 0.2), (-wide - 0.15, pen.between(0.45, 0.7)), pen.between(0.35, 0.5))
    pen.line((-wide, 0.1), (-wide - 0.2, 0.18), (-wide + 0.05, 0.2), when=pen.chance(0.6))
    hatched, dark = pen.chance(0.2), pen.chance(0.12)
    for x in (-0.5, 0.0, 0.5):
        pen.curve((x * wide, 0.2), (0.85 * x * wide, -0.1), (0.65 * x * wide, 0.15 - 0.95 * high), when=hatched)
    pen.curve((-0.85 * wide, -0.05), (0, 0.0), (0.85 * wide, -0.05), when=hatched)
    pen.scribble(0, 0.1 - 0.35 * high, 0.8 * wide, 0.5 * high, 14, when=dark & ~hatched)
    tiled = ~hatched & ~dark & pen.chance(0.5)
    for x, y in ((-0.3, 0.3), (0.05, 0.55), (0.35, 0.3)):
        pen.ring(x * wide / 0.6, 0.15 - y * high, 0.12, when=tiled)


@doodle("sea turtle", share=1.5, tilt=0.2)
def turtle_from_above(pen: Pen) -> None:
    wide = pen.between(0.42, 0.55)
    pen.ring(0, 0.05, wide, 0.6)
    pen.leaf((0, -0.52), (0, -1.0), pen.between(0.6, 0.8))
    for _ in pen.both_sides():
        pen.curve((0.75 * wide, -0.4), (0.75, -0.6), (0.98, -0.3), (0.95, -0.1), (0.72, -0.28), (0.95 * wide, -0.15))
        pen.leaf((0.7 * wide, 0.45), (0.72, 0.85), pen.between(0.4, 0.6))
    pen.line((-0.06, 0.65), (0, 0.85), (0.06, 0.65), when=pen.chance(0.7))
    gridded = pen.chance(0.5)
    for x in (-0.33, 0.33):
        pen.curve((x * wide, -0.5), (x * wide * 1.3, 0), (x * wide, 0.6), when=gridded)
    for y in (-0.2, 0.2):
        pen.line((-0.9 * wide, y), (0.9 * wide, y + 0.03), when=gridded)
    pen.ring(0, 0.05, 0.5 * wide, 0.3, when=~gridded & pen.chance(0.7))


@doodle("sheep", share=3)
def sheep_from_the_side(pen: Pen) -> None:
    long, high = pen.between(0.7, 0.9), pen.between(0.38, 0.52)
    pen.cloud(-0.1, 0, long, high, pen.count(6, 10))
    x, y = long - 0.02, pen.between(-0.4, -0.15)
    pen.ring(x, y, pen.between(0.2, 0.28), pen.between(0.22, 0.32))
    pen.dot(x + 0.08, y - 0.03, when=pen.chance(0.7))
    pen.leaf((x - 0.15, y - 0.15), (x - 0.38, y + 0.02), 0.45, when=pen.chance(0.3))
    feet, split = pen.between(0.7, 0.9), pen.chance(0.15)
    for at in (-0.55, -0.3, 0.15, 0.4):
        pen.line((at, 0.85 * high), (at - 0.02, feet), when=split | pen.chance(0.88))
        pen.line((at - 0.02, feet), (at + 0.12, feet), (at + 0.12, 0.85 * high), when=split)
    pen.scribble(x, y, 0.17, 0.2, 6, when=pen.chance(0.2))


@doodle("sheep", share=0.5)
def sheep_looking_at_you(pen: Pen) -> None:
    pen.cloud(0, 0.05, 0.9, pen.between(0.6, 0.75), pen.count(9, 12))
    pen.ring(0, -0.1, pen.between(0.28, 0.36), pen.between(0.36, 0.44))
    eyes(pen, -0.2, 0.14)
    pen.curve((-0.1, 0.08), (0, 0.14), (0.1, 0.08))
    for _ in pen.both_sides():
        pen.leaf((0.28, -0.25), (0.62, -0.12), 0.4)
        for x in (0.25, 0.5):
            pen.line((x, 0.65), (x, 1), when=pen.chance(0.8))


@doodle("snowflake", tilt=0.05)
def snowflake(pen: Pen) -> None:
    arms = np.where(pen.chance(0.65), 6.0, 8.0)
    pairs = np.where(arms > 6, pen.count(-2, 1), pen.count(-1, 2))
    reach, spread = pen.between(0.16, 0.26), pen.between(0.04, 0.06)
    upright = np.where(pen.chance(0.6), 0.25, 0.0)
    for i in range(8):
        angle, long, there = upright + i / arms, pen.between(0.8, 1.05), i < arms
        pen.line((0, 0), around(angle, long), when=there)
        for pair, at in enumerate((0.68, 0.36)):
            left, right = (around(angle + turn, (at + reach) * long) for turn in (-spread, spread))
            pen.line(left, around(angle, at * long), right, when=there & (pair < pairs))


@doodle("sun", share=4, tilt=0.1)
def sun(pen: Pen) -> None:
    r, rays = pen.between(0.3, 0.55), pen.count(5, 10)
    pen.ring(0, 0, r)
    gap = np.where(pen.chance(0.7), pen.between(0.06, 0.2), 0)
    for i in range(10):
        angle = (i + pen.between(-0.2, 0.2)) / rays
        pen.line(around(angle, r + gap), around(angle, pen.between(0.8, 1.1)), when=i < rays)
    smiling = (r > 0.42) & pen.chance(0.35)
    eyes(pen, -0.2 * r, 0.35 * r, when=smiling)
    pen.curve((-0.5 * r, 0.25 * r), (0, 0.6 * r), (0.5 * r, 0.25 * r), when=smiling)


@doodle("sun", share=0.6, tilt=0.1)
def sun_with_spikes(pen: Pen) -> None:
    r = pen.between(0.5, 0.65)
    pen.ring(0, 0, r)
    for i in range(8):
        foot, tip = 1.06 * r, pen.between(0.9, 1.05)
        pen.line(around((i - 0.4) / 8, foot), around(i / 8, tip), around((i + 0.4) / 8, foot))


@doodle("swan", share=1.5)
def swan_outlined(pen: Pen) -> None:
    high = pen.between(-1.1, -0.7)
    pen.curve(
        (-0.62, high + 0.32), (-0.42, high + 0.3), (-0.38, -0.35), (-0.6, 0.0), (-0.65, 0.35), (-0.4, 0.68),
        (0.1, 0.75), (0.6, 0.62), (0.98, 0.0), (0.6, 0.12), (0.15, 0.05), (-0.2, 0.12), (-0.28, -0.05), (-0.12, -0.45),
        (-0.16, high + 0.15), (-0.4, high), (-0.62, high + 0.1), (-0.62, high + 0.32),
    )  # fmt: skip
    pen.line((-0.62, high + 0.14), (-0.92, high + 0.34), (-0.6, high + 0.32))
    pen.dot(-0.48, high + 0.15)
    pen.curve((-0.15, 0.25), (0.05, 0.5), (0.4, 0.48), (0.75, 0.2), when=pen.chance(0.6))
    swimming = pen.chance(0.2)
    pen.curve((-0.95, 0.8), (-0.6, 0.9), (-0.3, 0.8), (0, 0.9), (0.3, 0.8), (0.6, 0.9), (0.95, 0.8), when=swimming)


@doodle("swan", share=2)
def swan_with_a_bow(pen: Pen) -> None:
    high, back = pen.between(-1.05, -0.65), pen.between(0.05, 0.25)
    pen.curve(
        (-0.75, high + 0.25), (-0.5, high), (-0.25, high + 0.15), (-0.3, -0.4), (-0.55, 0.05), (-0.6, 0.4), (-0.3, 0.7),
        (0.3, 0.72), (0.75, 0.5), (0.95, back - 0.1), (0.5, back), (0.1, back), (-0.2, back + 0.2),
    )  # fmt: skip
    pen.line((-0.62, high + 0.08), (-0.95, high + 0.3), (-0.7, high + 0.3), when=pen.chance(0.8))
    pen.leaf((-0.1, 0.4), (0.6, pen.between(0.2, 0.45)), pen.between(0.35, 0.5), when=pen.chance(0.5))
    pen.line((-1, 0.75), (1, 0.75), when=pen.chance(0.15))


@doodle("The Eiffel Tower", share=3, tilt=0.015)
def eiffel_tower(pen: Pen) -> None:
    wide, low, mid = pen.between(0.6, 0.95), pen.between(0.25, 0.5), pen.between(-0.3, 0.0)
    at_low, at_mid = 0.5 * wide, 0.25 * wide
    for _ in pen.both_sides():
        pen.curve((wide, 1), (at_low, low), (at_mid, mid), (0.08, -0.6), (0, -0.9))
    pen.line((0, -0.8), (0, -1), when=pen.chance(0.8))
    pen.arc(0, 1, 0.6 * wide, pen.between(0.3, 0.45), 0.5, 1.0)
    pen.line((-wide, 1), (-0.6 * wide, 1))
    pen.line((0.6 * wide, 1), (wide, 1))
    pen.line((-at_low - 0.06, low), (at_low + 0.06, low))
    pen.line((-at_low - 0.06, low - 0.1), (at_low + 0.06, low - 0.1), when=pen.chance(0.3))
    pen.line((-at_mid - 0.06, mid), (at_mid + 0.06, mid), when=pen.chance(0.9))
    crossed = pen.chance(0.3)
    pen.line((-at_low, low), (at_mid, mid), when=crossed)
    pen.line((at_low, low), (-at_mid, mid), when=crossed)
    pen.line((-at_mid, mid), (0.08, mid - 0.4), when=crossed & pen.chance(0.7))
    pen.line((at_mid, mid), (-0.08, mid - 0.4), when=crossed)


@doodle("The Eiffel Tower", share=1, tilt=0.015)
def eiffel_tower_in_lines(pen: Pen) -> None:
    wide, inner = pen.between(0.55, 0.85), pen.between(0.25, 0.4)
    for _ in pen.both_sides():
        pen.curve((wide, 1), (0.3, 0.2), (0.08, -0.5), (0, -1))
    pen.line((-inner, 1), (0, pen.between(0.2, 0.4)), (inner, 1))
    for y in (0.25, -0.05, -0.35, -0.6):
        half = 0.1 + 0.25 * (y + 0.7)
        pen.line((-half, y), (half, y), when=pen.chance(0.8))


@doodle("tractor")
def tractor(pen: Pen) -> None:
    big, small = pen.between(0.36, 0.48), pen.between(0.22, 0.28)
    wheel(pen, -0.5, 0.75 - big, big, hub=0.35, filled=0.08)
    wheel(pen, 0.68, 0.75 - small, small, hub=0.1, filled=0.12)
    roof, front, floor = pen.between(-0.9, -0.65), pen.between(-0.3, -0.1), pen.between(0.3, 0.42)
    pen.line((-0.75, 0.0), (-0.7, roof), (0.02, roof), (0.1, front))
    pen.line((-0.85, roof), (0.15, roof), when=pen.chance(0.3))
    pen.line((0.1, front), (0.95, front + 0.03), (0.95, floor))
    pen.line((-0.08, floor + 0.05), (0.45, floor + 0.05))
    pen.line((0.1, front), (0.08, floor), when=pen.chance(0.4))
    pen.box(-0.52, roof + 0.17, -0.12, front, when=pen.chance(0.2))
    pen.line((0.65, front), (0.65, front - 0.35), when=pen.chance(0.6))
    smoke(pen, 0.75, front - 0.55, 0.06)


@doodle("train", share=2)
def locomotive(pen: Pen) -> None:
    cab, boiler, floor = pen.between(-0.7, -0.45), pen.between(-0.25, -0.08), 0.3
    pen.line((-1.1, floor), (-1.1, cab), (-0.5, cab), (-0.5, boiler), (0.75, boiler), (0.75, floor), closed=True)
    pen.box(-0.95, cab + 0.14, -0.66, cab + 0.36, when=pen.chance(0.35))
    pen.line((-0.5, boiler), (-0.5, floor), when=pen.chance(0.25))
    flare, tall = pen.between(0.0, 0.08), pen.between(0.25, 0.4)
    pen.line((0.35, boiler), (0.35 - flare, boiler - tall), (0.6 + flare, boiler - tall), (0.6, boiler))
    smoke(pen, 0.25, boiler - tall - 0.22, 0.25)
    pen.arc(-0.08, boiler, 0.15, 0.18, 0.5, 1.0, when=pen.chance(0.2))
    wheels, r = pen.count(3, 5), pen.between(0.13, 0.18)
    for i in range(5):
        wheel(pen, i * 1.45 / (wheels - 1) - 0.9, floor + r, r, filled=0.15, when=i < wheels)
    pen.line((0.75, 0.1), (1.08, 0.56), (0.73, 0.56), when=pen.chance(0.7))
    pen.line((-1.3, 0.66), (1.3, 0.66), when=pen.chance(0.25))


@doodle("train", share=2.5)
def train_of_cars(pen: Pen) -> None:
    high, cab = pen.between(0.38, 0.55), pen.between(0.15, 0.3)
    pen.line(
        (0.35, 0.3), (0.35, 0.3 - high), (0.7, 0.3 - high), (0.7, 0.3 - high - cab), (1.05, 0.3 - high - cab),
        (1.05, 0.3), closed=True,
    )  # fmt: skip
    pen.line((0.45, 0.3 - high), (0.45, 0.1 - high), when=pen.chance(0.7))
    smoke(pen, 0.4, -0.05 - high, 0.25)
    windows, wheels = pen.chance(0.15), pen.between(0.08, 0.12)
    long = pen.chance(0.7)
    for left, there in ((-0.4, True), (-1.15, long)):
        pen.box(left, 0.3 - high, left + 0.62, 0.3, when=there)
        pen.line((left + 0.6, 0.2), (left + 0.76, 0.2), when=there)
        pen.box(left + 0.2, 0.43 - high, left + 0.42, 0.6 - high, when=windows & there)
        for x in (left + 0.15, left + 0.45):
            pen.ring(x, 0.33 + wheels, wheels, when=there)
    for x in (0.52, 0.88):
        pen.ring(x, 0.33 + wheels, wheels)


@doodle("tree", share=4)
def tree(pen: Pen) -> None:
    wide, high, trunk = pen.between(0.55, 0.9), pen.between(0.48, 0.62), pen.between(0.12, 0.2)
    pen.cloud(0, -0.4, wide, high, pen.count(6, 10))
    flare = pen.between(0.02, 0.25)
    for _ in pen.both_sides():
        pen.curve((trunk, -0.45 + 0.8 * high), (trunk, 0.6), (trunk + flare, 1))
    pen.line((-0.8, 1), (0.8, 1), when=pen.chance(0.25))
    fruits = pen.chance(0.15)
    for x, y in ((-0.3, -0.45), (0.05, -0.65), (0.3, -0.3)):
        pen.ring(x * wide / 0.7, y, 0.08, when=fruits)
    pen.ring(0, 0.55, 0.06, 0.09, when=pen.chance(0.15))
    pen.scribble(0, -0.4, 0.75 * wide, 0.75 * high, 14, when=~fruits & pen.chance(0.35))


@doodle("tree", share=1)
def tree_with_a_round_crown(pen: Pen) -> None:
    r, trunk = pen.between(0.55, 0.8), pen.between(0.1, 0.18)
    pen.ring(0, -0.35, r, 0.6)
    forked = pen.chance(0.5)
    for _ in pen.both_sides():
        pen.line((trunk, 0.2), (trunk + 0.04, 1))
        pen.line((0, 0.15), (0.3, -0.3), when=forked)
    pen.line((0, 0.2), (0, -0.4), when=forked)


@doodle("tree", share=0.5)
def fir_tree(pen: Pen) -> None:
    for _ in pen.both_sides():
        pen.line((0, -1), (0.35, -0.5), (0.15, -0.5), (0.5, 0.0), (0.2, 0.0), (0.65, 0.55), (0, 0.55))
        pen.line((0.12, 0.55), (0.12, 1))
    pen.line((-0.12, 1), (0.12, 1))


# Other classes, which the filter stage leaves out


@doodle("apple")
def apple(pen: Pen) -> None:
    for _ in pen.both_sides():
        pen.curve((0, -0.42), (0.4, -0.62), (0.85, -0.3), (0.75, 0.45), (0.35, 0.95), (0, 0.85))
    pen.curve((0, -0.42), (0.02, -0.7), (0.12, -0.95))
    pen.leaf((0.08, -0.7), (0.55, -0.95), 0.45, when=pen.chance(0.7))


@doodle("car")
def car(pen: Pen) -> None:
    roof = pen.between(-0.65, -0.45)
    pen.line(
        (-0.98, 0.3), (-0.95, -0.1), (-0.55, -0.12), (-0.35, roof), (0.3, roof), (0.55, -0.1), (0.95, -0.05),
        (0.98, 0.3), closed=True,
    )  # fmt: skip
    pen.line((-0.5, -0.1), (0.5, -0.1), when=pen.chance(0.6))
    pen.line((0, roof), (0, 0.28), when=pen.chance(0.5))
    for x in (-0.55, 0.55):
        wheel(pen, x, 0.35, pen.between(0.18, 0.25))


@doodle("cat")
def cat(pen: Pen) -> None:
    pen.ring(0, 0.15, pen.between(0.7, 0.8), pen.between(0.6, 0.72))
    eyes(pen, 0.0, 0.28)
    pen.line((-0.08, 0.2), (0.08, 0.2), (0, 0.28), closed=True)
    for _ in pen.both_sides():
        pen.line((0.68, -0.2), (0.62, -0.9), (0.25, -0.5))
        pen.curve((0, 0.28), (0.12, 0.45), (0.25, 0.38))
        for y in (0.15, 0.35):
            pen.line((0.4, 0.05 + y), (1.0, y - 0.05 + (y - 0.2)), when=pen.chance(0.85))


@doodle("clock")
def clock(pen: Pen) -> None:
    pen.ring(0, 0, 0.95)
    for hour in range(12):
        inner, often = (0.75, 0.3) if hour % 3 else (0.65, 0.95)
        pen.line(around(hour / 12, inner), around(hour / 12, 0.85), when=pen.chance(often))
    for hand in (0.6, 0.4):
        pen.line((0, 0), around(pen.between(0, 1), hand))


@doodle("envelope")
def envelope(pen: Pen) -> None:
    high = pen.between(0.5, 0.7)
    pen.box(-0.98, -high, 0.98, high)
    pen.line((-0.98, -high), (0, pen.between(0.0, 0.25)), (0.98, -high))
    opened = pen.chance(0.3)
    for _ in pen.both_sides():
        pen.line((0.98, high), (0.3, 0.0), when=opened)


@doodle("fish", tilt=0.06)
def fish(pen: Pen) -> None:
    fat, tail = pen.between(0.4, 0.58), pen.between(0.35, 0.5)
    pen.curve(
        (0.55, 0.02), (0.1, -0.85 * fat), (-0.45, -fat), (-0.95, 0), (-0.45, fat), (0.1, 0.85 * fat), (0.55, -0.02)
    )
    pen.line((0.52, 0), (0.98, -tail), (0.95, tail), (0.52, 0))
    pen.dot(-0.62, -0.12)
    pen.arc(-0.8, 0, 0.4, 0.45, -0.13, 0.13, when=pen.chance(0.5))
    for x in (-0.2, 0.1):
        pen.arc(x, 0, 0.15, 0.2, -0.2, 0.2, when=pen.chance(0.5))


@doodle("flower")
def flower(pen: Pen) -> None:
    petals = pen.count(5, 7)
    fat = pen.between(0.6, 0.9)
    for i in range(7):
        pen.leaf(around(i / petals, 0.14, y=-0.45), around(i / petals, 0.55, y=-0.45), fat, when=i < petals)
    pen.ring(0, -0.45, 0.16)
    pen.curve((0, 0.05), (0.06, 0.5), (0, 1))
    for _ in pen.both_sides():
        pen.leaf((0.02, 0.75), (0.5, 0.4), 0.4, when=pen.chance(0.75))


@doodle("house")
def house(pen: Pen) -> None:
    eaves = pen.between(-0.25, -0.05)
    pen.box(-0.75, eaves, 0.75, 0.98)
    pen.line((-0.9, eaves), (0, -0.95), (0.9, eaves))
    pen.line((-0.17, 0.98), (-0.17, 0.4), (0.17, 0.4), (0.17, 0.98), when=pen.chance(0.9))
    windows = pen.chance(0.7)
    for _ in pen.both_sides():
        pen.box(0.33, eaves + 0.2, 0.59, eaves + 0.45, when=windows)
    pen.line((0.4, -0.6), (0.4, -0.95), (0.6, -0.95), (0.6, -0.4), when=pen.chance(0.5))


@doodle("mushroom")
def mushroom(pen: Pen) -> None:
    rim, stem = pen.between(-0.05, 0.1), pen.between(0.2, 0.32)
    pen.arc(0, rim, 0.95, 0.95 + rim, 0.5, 1.0)
    pen.curve((-0.95, rim), (0, rim + 0.12), (0.95, rim))
    pen.curve(
        (-stem, rim + 0.08), (-stem, 0.6), (-stem - 0.08, 0.92), (0, 1), (stem + 0.08, 0.92), (stem, 0.6),
        (stem, rim + 0.08),
    )  # fmt: skip
    spotted = pen.chance(0.7)
    for x, y in ((-0.45, -0.3), (0.0, -0.55), (0.45, -0.25)):
        pen.ring(x, y + rim, pen.between(0.1, 0.15), when=spotted)


@doodle("sailboat")
def sailboat(pen: Pen) -> None:
    pen.line((-0.85, 0.45), (0.85, 0.45), (0.5, 0.9), (-0.5, 0.9), closed=True)
    pen.line((0, 0.45), (0, -0.98))
    pen.line((0.08, -0.9), (pen.between(0.6, 0.85), 0.3), (0.08, 0.3))
    pen.line((-0.08, -0.75), (-0.6, 0.3), (-0.08, 0.3), when=pen.chance(0.6))
    at_sea = pen.chance(0.35)
    pen.curve((-1, 0.95), (-0.66, 1.05), (-0.33, 0.95), (0, 1.05), (0.33, 0.95), (0.66, 1.05), (1, 0.95), when=at_sea)


@doodle("star", tilt=0.06)
def star(pen: Pen) -> None:
    in_one_go = pen.chance(0.5)
    pen.line(*(around(0.4 * i - 0.25, 1) for i in range(5)), closed=True, when=in_one_go)
    radii = (1, pen.between(0.38, 0.5))
    pen.line(*(around(0.1 * i - 0.25, radii[i % 2]) for i in range(10)), closed=True, when=~in_one_go)


@doodle("umbrella", tilt=0.06)
def umbrella(pen: Pen) -> None:
    pen.arc(0, 0, 0.95, pen.between(0.75, 0.95), 0.5, 1.0)
    for i in range(3):
        x = (i - 1) * 0.633
        pen.arc(x, 0.02, 0.32, pen.between(0.1, 0.2), 0.5, 1.0)
    ribbed = pen.chance(0.5)
    for _ in pen.both_sides():
        pen.curve((0.3, 0.0), (0.2, -0.5), (0, -0.85), when=ribbed)
    pen.curve((0, -0.1), (0, 0.4), (0, 0.75), (0.12, 0.98), (0.3, 0.92), (0.32, 0.75))
