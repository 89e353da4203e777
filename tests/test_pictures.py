"""The README's pictures are made from the report of a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages import report
from stages.params import Params
from tests import pictures
from tests.settings import ROOT
from tests.stages.test_report import LABELS, NAMES, drawings, write_inputs


def test_without_a_report_there_is_one_line_and_no_picture(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.pictures"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: reports/index.html is missing: `make run` makes it\n"
    assert not (tmp_path / "docs").exists()


@pytest.mark.slow
@pytest.mark.browser
def test_the_pictures_show_the_report_of_the_run(
    full_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = full_run.model_copy(update={"source": "my drawings", "classes": NAMES, "eval_samples_per_class": 12})
    write_inputs(tmp_path, settings, LABELS, drawings)
    monkeypatch.chdir(tmp_path)
    report.main(settings)
    (tmp_path / "docs").mkdir()
    pictures.main()
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "docs/report.png",
        "docs/completions.png",
    ]
    for name in pictures.PICTURES:
        assert (tmp_path / "docs" / name).stat().st_size < 300_000
        with Image.open(tmp_path / "docs" / name) as image:
            assert image.width == 1100
            pixels = np.asarray(image.convert("L"))
        assert (pixels == 0).mean() > 0.03, "drawings, on black"
        assert (pixels[-pictures.MARGIN // 2 :] == 255).all(), "nothing is cut off below"

    report.PAGE.write_text(report.PAGE.read_text(encoding="utf-8").replace('id="completions"', ""), encoding="utf-8")
    before = (tmp_path / "docs/report.png").read_bytes()
    (tmp_path / "docs/report.png").write_bytes(b"earlier")
    with pytest.raises(SystemExit, match=r"error: reports/index\.html has no completions: "):
        pictures.main()
    assert (tmp_path / "docs/report.png").read_bytes() == b"earlier" != before
