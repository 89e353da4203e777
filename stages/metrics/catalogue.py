"""The catalogue of metrics: each metric's title, meaning, which values are better, and what it is compared with.

The computation is in the other modules of this package.
"""

from __future__ import annotations

from typing import NamedTuple

LESS, MORE, ALIKE = "less", "more", "alike"  # which values are better: lower, higher, closer to the reference

CHANCE = "chance"
HALVES = "one half of the held-out drawings against the other half"
HELDOUT = "held-out drawings"
JUDGE = "the judge on held-out drawings"
COMPLETIONS = "the rest that the model draws"
REAL_REST = "a completion and the drawing itself"


class Metric(NamedTuple):
    """A metric as described to a reader.

    Attributes:
      title: the name shown on pages.
      meaning: one sentence.
      better: which values are better: LESS, MORE or ALIKE.
      reference: what the reference value was measured on; empty if the metric has no reference.
    """

    title: str
    meaning: str
    better: str
    reference: str = ""


METRICS = {
    "heldout_bits_per_dim": Metric(
        "Bits per dimension",
        "Bits that the model needs per value of a held-out drawing; a pixel has one, in colour three. A uniform "
        "distribution needs 8.",
        LESS,
    ),
    "training_bits_per_dim": Metric(
        "Bits per dimension, training",
        "Bits per value of training drawings. A value far below that of held-out drawings means overfitting.",
        ALIKE,
        HELDOUT,
    ),
    "class_accuracy": Metric("Class accuracy", "How often the judge predicts the requested class.", MORE, JUDGE),
    "informedness": Metric(
        "Informedness",
        "How much more often the judge predicts a class when it was requested than when another class was. "
        "0 if the predictions do not depend on the request.",
        MORE,
        JUDGE,
    ),
    "label_accuracy": Metric(
        "Label accuracy", "How often a held-out drawing is likeliest under its own label.", MORE, CHANCE
    ),
    "frechet_distance": Metric(
        "Fréchet distance",
        "Distance between the distributions of real and generated drawings in the judge's features.",
        LESS,
        HALVES,
    ),
    "mmd": Metric(
        "Maximum mean discrepancy",
        "Another distance between the same distributions, not biased by the number of drawings.",
        LESS,
        HALVES,
    ),
    "precision": Metric(
        "Precision", "Share of generated drawings in the neighbourhood of a real drawing.", MORE, HALVES
    ),
    "recall": Metric("Recall", "Share of real drawings in the neighbourhood of a generated drawing.", MORE, HALVES),
    "density": Metric(
        "Density",
        "Number of real neighbourhoods that contain a generated drawing, divided by the neighbourhood size.",
        MORE,
        HALVES,
    ),
    "coverage": Metric(
        "Coverage", "Share of real drawings with a generated drawing in their neighbourhood.", MORE, HALVES
    ),
    "c2st_accuracy": Metric(
        "Two-sample test",
        "How often a classifier distinguishes real from generated drawings correctly. Guessing gives 50%.",
        LESS,
        HALVES,
    ),
    "memorised": Metric(
        "Memorised",
        "Share of generated drawings at least as close to a training drawing as the closest 1% of held-out drawings.",
        ALIKE,
        HELDOUT,
    ),
    "nearest_distance": Metric(
        "Distance to training",
        "Euclidean distance to the nearest training drawing. One pixel changed from paper to full ink counts 1.",
        ALIKE,
        HELDOUT,
    ),
    "ink": Metric("Ink", "Mean ink of all pixels, as a share of full ink.", ALIKE, HELDOUT),
    "grey": Metric("Grey", "Share of pixels that are neither paper nor full ink.", ALIKE, HELDOUT),
    "ink_top": Metric("Ink, top edge", "Mean ink of the top row of pixels.", ALIKE, HELDOUT),
    "ink_right": Metric("Ink, right edge", "Mean ink of the last column of pixels.", ALIKE, HELDOUT),
    "ink_bottom": Metric("Ink, bottom edge", "Mean ink of the bottom row of pixels.", ALIKE, HELDOUT),
    "ink_left": Metric("Ink, left edge", "Mean ink of the first column of pixels.", ALIKE, HELDOUT),
    "blank": Metric("Blank", "Share of drawings with no pixel above half ink.", ALIKE, HELDOUT),
    "completion_accuracy": Metric(
        "Class accuracy, completions",
        "How often the judge predicts the class of a held-out drawing whose lower rows the model has drawn.",
        MORE,
        JUDGE,
    ),
    "upper_rows_accuracy": Metric(
        "Class accuracy, upper rows",
        "How often the judge predicts the class of a held-out drawing whose lower rows are blank: what completions "
        "start from.",
        ALIKE,
        JUDGE,
    ),
    "completion_bits_per_dim": Metric(
        "Bits per dimension, lower rows",
        "Bits that the model needs per value of the lower rows of a held-out drawing, given its upper rows.",
        LESS,
        COMPLETIONS,
    ),
    "completion_distance": Metric(
        "Diversity of completions",
        "Euclidean distance between two completions of a drawing. One pixel changed from paper to full ink counts 1.",
        ALIKE,
        REAL_REST,
    ),
}

# The metrics of completions, which depend on how many rows of which drawings were given.
COMPLETED = frozenset({"completion_accuracy", "upper_rows_accuracy", "completion_bits_per_dim", "completion_distance"})

# The metrics that depend on how many drawings are compared: more drawings make a distance smaller and a neighbourhood
# tighter.
SIZED = frozenset({"frechet_distance", "precision", "recall", "density", "coverage", "c2st_accuracy"})

# What a run's metrics were measured with, as evaluate writes it beside them.
HELDOUT_DRAWINGS, JUDGE_WEIGHTS, GENERATED_DRAWINGS, COMPLETED_DRAWINGS = "heldout", "judge", "generated", "completed"


def conditions(metric: str) -> tuple[str, ...]:
    """What two runs must have been measured with alike for their values of a metric to be comparable.

    Of a metric that is not in the catalogue nothing is known, so everything must be alike.
    """
    judged = metric not in METRICS or METRICS[metric].reference in (JUDGE, HALVES)
    sized = metric not in METRICS or metric in SIZED
    completed = metric in COMPLETED
    return (
        HELDOUT_DRAWINGS,
        *[JUDGE_WEIGHTS] * judged,
        *[GENERATED_DRAWINGS] * sized,
        *[COMPLETED_DRAWINGS] * completed,
    )


# Metrics from 0 to 1 that pages show as percentages.
SHARES = frozenset({
    "class_accuracy", "label_accuracy", "precision", "recall", "coverage", "c2st_accuracy", "memorised",
    "ink", "grey", "ink_top", "ink_right", "ink_bottom", "ink_left", "blank",
    "completion_accuracy", "upper_rows_accuracy",
})  # fmt: skip
