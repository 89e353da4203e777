"""The measures by name: what each says, and which way is better. Nothing here computes."""

from __future__ import annotations

from typing import NamedTuple

LESS, MORE, ALIKE = "less", "more", "alike"  # which is better: less, more, or as near to the reference as can be

CHANCE = "chance"
HALVES = "between two halves of the held-out drawings"
HELDOUT = "held-out drawings"
JUDGE = "the judge on held-out drawings"


class Measure(NamedTuple):
    """What a person must know of a measure.

    Attributes:
      title: its name in words.
      meaning: one sentence.
      better: LESS, MORE or ALIKE.
      reference: what the reference beside its value is the value of; nothing where there is none.
    """

    title: str
    meaning: str
    better: str
    reference: str = ""


MEASURES = {
    "heldout_bits_per_dim": Measure(
        "Bits per dimension", "How many bits a pixel of a held-out drawing takes; knowing nothing takes 8.", LESS
    ),
    "training_bits_per_dim": Measure(
        "Bits per dimension, training",
        "The same of drawings trained on; far below those held out, they are learned by heart.",
        ALIKE,
        HELDOUT,
    ),
    "fidelity": Measure("Class fidelity", "How often the judge names the class that was asked for.", MORE, JUDGE),
    "informedness": Measure(
        "Informedness",
        "How much more often the judge names a class where it was asked for than where another was; "
        "0 where the name does not depend on what was asked.",
        MORE,
        JUDGE,
    ),
    "label_use": Measure(
        "Label use", "How often a held-out drawing is the likeliest under its own label.", MORE, CHANCE
    ),
    "frechet_distance": Measure(
        "Fréchet distance", "How far apart real and generated lie in the judge's features.", LESS, HALVES
    ),
    "kernel_distance": Measure("Kernel distance", "The same without a bias from the number of drawings.", LESS, HALVES),
    "precision": Measure("Precision", "The share of generated drawings that lie among real ones.", MORE, HALVES),
    "recall": Measure("Recall", "The share of real drawings that lie among generated ones.", MORE, HALVES),
    "density": Measure("Density", "How many real neighbourhoods a generated drawing lies in.", MORE, HALVES),
    "coverage": Measure(
        "Coverage", "The share of real drawings with a generated one in their neighbourhood.", MORE, HALVES
    ),
    "told_apart": Measure(
        "Told apart", "How often a classifier tells real from generated; 50% is guessing.", LESS, HALVES
    ),
    "copies": Measure(
        "Copies",
        "The share of generated drawings as near to a training drawing as the nearest 1% of the held-out ones are.",
        ALIKE,
        HELDOUT,
    ),
    "nearest_distance": Measure(
        "Nearest training drawing", "The distance to it, in pixels of full ink.", ALIKE, HELDOUT
    ),
    "ink": Measure("Ink", "The share of the paper that is inked.", ALIKE, HELDOUT),
    "grey": Measure("Grey", "The share of pixels that are neither paper nor full ink.", ALIKE, HELDOUT),
    "ink_top": Measure("Ink, top edge", "The share of the upper row that is inked.", ALIKE, HELDOUT),
    "ink_right": Measure("Ink, right edge", "The share of the last column that is inked.", ALIKE, HELDOUT),
    "ink_bottom": Measure("Ink, bottom edge", "The share of the lowest row that is inked.", ALIKE, HELDOUT),
    "ink_left": Measure("Ink, left edge", "The share of the first column that is inked.", ALIKE, HELDOUT),
    "blank": Measure("Blank", "The share of drawings without a pixel of more than half ink.", ALIKE, HELDOUT),
}

# Shares, which people read as percentages.
SHARES = frozenset({
    "fidelity", "label_use", "precision", "recall", "coverage", "told_apart", "copies",
    "ink", "grey", "ink_top", "ink_right", "ink_bottom", "ink_left", "blank",
})  # fmt: skip
