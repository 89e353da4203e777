"""A run of all seven stages on a few stand-ins, as small as a run can be."""

from pathlib import Path

import pytest

from stages import evaluate, extract, filter, judge, params, report, sample, train

STAGES = {
    "extract": extract,
    "filter": filter,
    "train": train,
    "sample": sample,
    "judge": judge,
    "evaluate": evaluate,
    "report": report,
}
CLASSES = ("bee", "sea turtle", "The Eiffel Tower")


def settings(full_run: params.Params) -> params.Params:
    """Its settings."""
    small = {"num_resnet": 1, "num_hierarchies": 1, "num_filters": 2, "num_logistic_mix": 1, "dropout_p": 0.0}
    short = {"epochs": 1, "max_steps": 3, "batch_size": 8, "samples_per_class": 2, "num_drawings": 2000}
    few = {"judge_steps": 10, "eval_samples_per_class": 10}
    return full_run.model_copy(
        update={"mirror": "doodles", "classes": CLASSES, "device": "cpu", "holdout": 0.2, **small, **short, **few}
    )


def run(folder: Path, chosen: params.Params) -> None:
    """Run the stages in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in STAGES.values():
            stage.main(chosen)
