"""The measures by name: what each says, and which way is better. Nothing here computes."""

from __future__ import annotations

from typing import NamedTuple

LESS, MORE, ALIKE = "less", "more", "alike"  # which is better: less, more, or as near to the reference as can be

CHANCE = "chance"
HALVES = "between two halves of the held-out drawings"
HELDOUT = "held-out drawings"
JUDGE = "the judge on held-out drawings"


class Metric(NamedTuple):
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


METRICS = {
    "heldout_bits_per_dim": Metric(
        "Bits per dimension", "How many bits a pixel of a held-out drawing takes; knowing nothing takes 8.", LESS
    ),
    "training_bits_per_dim": Metric(
        "Bits per dimension, training",
        "The same of drawings trained on; far below those held out, they are learned by heart.",
        ALIKE,
        HELDOUT,
    ),
    "class_accuracy": Metric("Class accuracy", "How often the judge names the class that was asked for.", MORE, JUDGE),
    "informedness": Metric(
        "Informedness",
        "How much more often the judge names a class where it was asked for than where another was; "
        "0 where the name does not depend on what was asked.",
        MORE,
        JUDGE,
    ),
    "label_accuracy": Metric(
        "Label accuracy", "How often a held-out drawing is the likeliest under its own label.", MORE, CHANCE
    ),
    "frechet_distance": Metric(
        "Fréchet distance", "How far apart real and generated lie in the judge's features.", LESS, HALVES
    ),
    "mmd": Metric("Maximum mean discrepancy", "The same without a bias from the number of drawings.", LESS, HALVES),
    "precision": Metric("Precision", "The share of generated drawings that lie among real ones.", MORE, HALVES),
    "recall": Metric("Recall", "The share of real drawings that lie among generated ones.", MORE, HALVES),
    "density": Metric("Density", "How many real neighbourhoods a generated drawing lies in.", MORE, HALVES),
    "coverage": Metric(
        "Coverage", "The share of real drawings with a generated one in their neighbourhood.", MORE, HALVES
    ),
    "c2st_accuracy": Metric(
        "Told apart", "How often a classifier tells real from generated; 50% is guessing.", LESS, HALVES
    ),
    "memorised": Metric(
        "Copies",
        "The share of generated drawings as near to a training drawing as the nearest 1% of the held-out ones are.",
        ALIKE,
        HELDOUT,
    ),
    "nearest_distance": Metric(
        "Nearest training drawing", "The distance to it, in pixels of full ink.", ALIKE, HELDOUT
    ),
    "ink": Metric("Ink", "The share of the paper that is inked.", ALIKE, HELDOUT),
    "grey": Metric("Grey", "The share of pixels that are neither paper nor full ink.", ALIKE, HELDOUT),
    "ink_top": Metric("Ink, top edge", "The share of the upper row that is inked.", ALIKE, HELDOUT),
    "ink_right": Metric("Ink, right edge", "The share of the last column that is inked.", ALIKE, HELDOUT),
    "ink_bottom": Metric("Ink, bottom edge", "The share of the lowest row that is inked.", ALIKE, HELDOUT),
    "ink_left": Metric("Ink, left edge", "The share of the first column that is inked.", ALIKE, HELDOUT),
    "blank": Metric("Blank", "The share of drawings without a pixel of more than half ink.", ALIKE, HELDOUT),
}

# Shares, which people read as percentages.
SHARES = frozenset({
    "class_accuracy", "label_accuracy", "precision", "recall", "coverage", "c2st_accuracy", "memorised",
    "ink", "grey", "ink_top", "ink_right", "ink_bottom", "ink_left", "blank",
})  # fmt: skip
