"""What a run has reached, in sentences that need no knowledge of the metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from stages.metrics.catalogue import METRICS, MORE
from stages.reporting.metric_values import MetricValue, format_difference, format_value

HEADLINE_METRICS = ("class_accuracy", "heldout_bits_per_dim")  # those that two runs are compared by
UNKNOWN = MetricValue(math.nan)  # every comparison with it is false
MIN_HELDOUT_DRAWINGS = 100  # the closest 1% of them, with which copies are compared, is then at least one drawing


def describe_metrics(
    metrics: Mapping[str, MetricValue], kind: str = "real", heldout_drawings: int | None = None
) -> list[str]:
    """At most three sentences: on the classes, on the likelihood, and on copies or variety.

    A sentence is left out if its metric is undefined. The third one is left out too if the intervals leave open whether
    it holds.

    Args:
      metrics: the metrics over all classes, by name.
      kind: what the drawings are that the model learns from: `real`, or `stand-in` for the doodles.
      heldout_drawings: how many drawings were held out; None if it is unknown.
    """
    third = _copies_or_variety(metrics, kind, heldout_drawings)
    sentences = (_classes(metrics, kind), _likelihood(metrics, kind), third)
    return [sentence for sentence in sentences if sentence]


def describe_change(metric: str, before: MetricValue, after: MetricValue, incomparable: Sequence[str] = ()) -> str:
    """How a headline metric has changed from one run to another; empty if it is undefined in one of the two.

    The change is within the intervals if they overlap: then it may be chance.

    Args:
      metric: its name.
      before, after: its value in the one run and in the other.
      incomparable: why the two values cannot be compared (`why_incomparable`); empty if they can.
    """
    if math.isnan(before.value + after.value):
        return ""
    title = METRICS[metric].title
    values = [format_value(run.value, metric) for run in (before, after)]
    if incomparable:
        return f"{title}: {values[1]}, not comparable because of {', '.join(incomparable)}"
    if values[0] == values[1]:
        return f"{title}: {values[1]}, as before"
    better = (after.value > before.value) == (METRICS[metric].better == MORE)
    amount = format_difference(before.value, after.value, metric)
    sentence = f"{title}: {values[0]} → {values[1]}, {'better' if better else 'worse'} by {amount}"
    if before.high < after.low or after.high < before.low:
        return f"{sentence}, beyond the 95% intervals"
    if before.low <= after.high and after.low <= before.high:
        return f"{sentence}, within the 95% intervals"
    return sentence


def may_have_copies(memorised: MetricValue) -> bool:
    """Whether more generated drawings are close to a training drawing than chance explains.

    If distances are tied, more than 1% of the held-out drawings can be as close as the closest 1%.
    """
    return memorised.low > max(0.02, 2 * memorised.reference)


def _classes(metrics: Mapping[str, MetricValue], kind: str) -> str:
    accuracy = metrics.get("class_accuracy", UNKNOWN)
    chance = metrics.get("label_accuracy", UNKNOWN).reference
    if not chance < 1 or math.isnan(accuracy.value + accuracy.reference):  # with one class, every answer is right
        return ""
    generated, real, guessing = (
        format_value(value, "class_accuracy") for value in (accuracy.value, accuracy.reference, chance)
    )
    return (
        f"A classifier names the right class for {generated} of the generated drawings and for {real} of {kind} "
        f"drawings; guessing gives {guessing}."
    )


def _likelihood(metrics: Mapping[str, MetricValue], kind: str) -> str:
    heldout, training = (metrics.get(name, UNKNOWN) for name in ("heldout_bits_per_dim", "training_bits_per_dim"))
    if math.isnan(heldout.value):
        return ""
    bits, training_bits = (format_value(run.value, "heldout_bits_per_dim") for run in (heldout, training))
    sentence = f"The model needs {bits} bits for a pixel's value in {kind} drawings that it has not seen"
    if training.high < heldout.low:
        return f"{sentence}, but {training_bits} for one that it was trained on: it overfits."
    return f"{sentence}; stored without a model, a value takes 8."


def _copies_or_variety(metrics: Mapping[str, MetricValue], kind: str, heldout_drawings: int | None) -> str:
    memorised, recall, distance = (metrics.get(name, UNKNOWN) for name in ("memorised", "recall", "nearest_distance"))
    if may_have_copies(memorised):
        share, reference = (format_value(value, "memorised") for value in (memorised.value, memorised.reference))
        return (
            f"{share} of the generated drawings are as close to a training drawing as only {reference} of other "
            f"{kind} drawings are: some may be copies."
        )
    # The reference is an estimate too, about as uncertain as the value.
    if recall.reference - recall.value > recall.high - recall.low:
        share, reference = (format_value(value, "recall") for value in (recall.value, recall.reference))
        return (
            f"The generated drawings vary less than {kind} ones: {share} of {kind} drawings lie among them "
            f"(recall), and {reference} among other {kind} drawings."
        )
    if heldout_drawings is not None and heldout_drawings < MIN_HELDOUT_DRAWINGS:
        return (
            f"Whether the model copies is unknown: {heldout_drawings} held-out drawings are too few to tell, "
            f"{MIN_HELDOUT_DRAWINGS} are enough."
        )
    if distance.low >= distance.reference and memorised.low <= memorised.reference:
        return (
            f"The generated drawings are no closer to the training drawings than other {kind} drawings are: there is "
            "no sign of copying."
        )
    return ""
