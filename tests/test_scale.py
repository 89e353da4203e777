"""The computed figures of docs/scale.md follow from its measured ones."""

import math
import re

import pytest

from pipeline.run_settings import profiles
from stages import params, train
from stages.common.classes import Class
from stages.pixelcnn import network
from tests.settings import FULL, ROOT

PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
TRAINING_DRAWINGS, ALL_TRAINING_DRAWINGS = 24_360, 2_460_000
UNITS = {"minutes": 60, "hours": 3600, "days": 86400, "months": 30 * 86400}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table whose first line begins so."""
    _, _, after = PAGE.partition(f"| {heading} |")
    lines = after.splitlines()[2:]
    table = lines[: next(index for index, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


@pytest.mark.parametrize(("profile", "millions"), [("full", "34.7"), ("quick", "1.3")])
def test_the_numbers_of_weights_are_those_of_the_networks(profile: str, millions: str) -> None:
    settings = params.Params.model_validate(FULL | profiles()[profile])
    classes = [Class(label, name) for label, name in enumerate(settings.classes)]
    shapes = network.shapes(train.network_config(settings, classes, (28, 28, 1)))
    assert f"{sum(map(math.prod, shapes.values())) / 1e6:.1f}" == millions
    assert f"{millions} million" in PAGE


@pytest.mark.parametrize("cells", rows("| step | drawings a second"), ids=lambda cells: cells[0])
def test_the_times_of_ten_epochs_follow_from_the_step(cells: list[str]) -> None:
    name, step, rate, *times = cells
    value, unit = step.split()
    seconds = float(value) / (1000 if unit == "ms" else 1)
    batch = int(re.search(r"(\d+) a step", name)[1]) if "a step" in name else 32  # type: ignore[index]
    assert float(rate.replace(",", "")) == pytest.approx(batch / seconds, rel=0.03)
    for time, drawings in zip(times, (TRAINING_DRAWINGS, ALL_TRAINING_DRAWINGS), strict=True):
        number, unit = time.split()
        assert float(number) * UNITS[unit] == pytest.approx(drawings * 10 / batch * seconds, rel=0.06)


@pytest.mark.parametrize("cells", rows("GPUs"), ids=lambda cells: f"{cells[0]} {cells[1]}")
def test_the_rates_of_more_gpus_follow_from_the_formula(cells: list[str]) -> None:
    where, batch, compute, gradients, rate, share = (cell.replace(",", "", 1) for cell in cells)
    gpus = int(where.split()[0])
    bandwidth = 2.5 if "25 Gbit" in cells[0] else 40 if "400 Gbit" in cells[0] else 350
    seconds = 2.1 + 30.3 / 32 * int(batch) / gpus
    exchange = 2 * (gpus - 1) / gpus * 139 / bandwidth
    assert float(compute.split()[0]) == pytest.approx(seconds, abs=0.06)
    assert gradients == "none" if gpus == 1 else float(gradients.split()[0]) == pytest.approx(exchange, rel=0.05)
    found = int(batch) / (seconds + exchange) * 1000
    assert float(rate) == pytest.approx(found, rel=0.01)
    assert float(share.strip("%")) == pytest.approx(100 * found / (gpus * 988), abs=1)
