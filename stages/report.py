"""Write the HTML report and the sheets of real and generated drawings.

reads    all settings, which the page shows
         data/extract/index.parquet and the weights, of which the page shows the hashes
         data/filter/, data/train/, data/sample/, data/evaluate/, reports/metrics.csv, reports/confusion.csv
         the saved reviews in reviews/
writes   reports/index.html                    one file that loads nothing else
         reports/classes/<label>_<name>.png    eight real drawings above eight generated ones
command  python -m stages.report
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages import command
from stages.common import files
from stages.params import Params
from stages.reporting import inputs, sheets
from stages.reporting.page import page

PAGE = Path("reports/index.html")
SHEETS = Path("reports/classes")


def main(settings: Params) -> None:
    """Run the stage."""
    report = inputs.read(settings)
    with files.atomic_folder(SHEETS) as folder, files.atomic_file(PAGE) as temporary:
        for entry in report.classes:
            real, generated = (np.stack([shown.drawing for shown in row]) for row in (entry.real, entry.generated))
            sheets.write_sheet(folder / sheets.sheet_name(entry.label, entry.name), real, generated)
        temporary.write_text(page(report), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(command.run(main, __doc__, lower="eval_samples_per_class or num_drawings"))
