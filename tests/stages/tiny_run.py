"""A run of all seven stages on a few doodles, as small as possible."""

from pathlib import Path

import pytest

from stages import evaluate, extract, filter, judge, params, report, sample, train
from tests.settings import write

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
    """Return the settings of the tiny run."""
    network = {"num_resnet": 1, "num_hierarchies": 1, "num_filters": 2, "num_logistic_mix": 1, "dropout_p": 0.0}
    training = {"epochs": 1, "max_steps": 3, "batch_size": 8, "samples_per_class": 2, "num_drawings": 2000}
    evaluation = {"judge_steps": 10, "eval_samples_per_class": 10}
    return full_run.model_copy(
        update={
            **{"source": "doodles", "classes": CLASSES, "device": "cpu", "holdout": 0.2},
            **network,
            **training,
            **evaluation,
        }
    )


def run(folder: Path, tiny_settings: params.Params) -> None:
    """Run all stages in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write(folder, tiny_settings.model_dump(mode="json"))
        for stage in STAGES.values():
            stage.main(tiny_settings)
