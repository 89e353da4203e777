"""`python -m pipeline draw` from its start to Ctrl-C."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.__main__ import main
from pipeline.drawing.command import _real_drawings
from stages.outputs import dataset, model
from tests import fake_project
from tests.pipeline.drawing.page_server import start
from tests.pipeline.drawing.test_app import COMPLETION, encoded
from tests.settings import ROOT
from tests.stages import models


def test_a_start_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_project.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["draw", "--port", "0"]) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'data/train/config.json'} is missing: run the stage train first\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        assert main(["draw", "--port", str(port)]) == 1
    assert capsys.readouterr().err == (
        f"error: cannot listen on 127.0.0.1, port {port} (Address already in use): choose another --host or --port\n"
    )
    for host in ("not.a.host.invalid", "é" * 80):
        assert main(["draw", "--host", host]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: cannot listen on {host}, port 8280 (") and error.count("\n") == 1
    for port in (-1, 65536):
        assert main(["draw", "--port", str(port)]) == 1
        assert capsys.readouterr().err == f"error: --port is {port}; expected: a whole number from 0 to 65535\n"


def test_real_drawings_are_the_held_out_ones_of_the_models_shape(tmp_path: Path) -> None:
    shape = (28, 28, 1)
    assert _real_drawings(tmp_path, shape) == {}
    images = np.random.default_rng(0).integers(0, 256, (4, *shape), np.uint8)
    table = {"label": np.array([26, 26, 323, 323], np.int16), "name": ["bee", "bee", "tree", "tree"]}
    frame = pd.DataFrame(table | {"heldout": [False, True, False, False]})
    frame.astype({"name": "category"}).to_parquet(tmp_path / dataset.TABLE)
    np.save(tmp_path / dataset.IMAGES, images)
    [(name, drawings)] = _real_drawings(tmp_path, shape).items()
    assert name == "bee"
    np.testing.assert_array_equal(drawings, images[1:2])
    assert _real_drawings(tmp_path, (8, 8, 1)) == {}
    (tmp_path / dataset.IMAGES).write_bytes(b"damaged")
    assert _real_drawings(tmp_path, shape) == {}


@pytest.mark.slow
def test_ctrl_c_ends_the_page_while_it_draws_and_quietly(tmp_path: Path) -> None:
    (tmp_path / model.FOLDER).mkdir(parents=True)
    model.save(models.tiny(), tmp_path / model.FOLDER)
    command = [sys.executable, "-m", "pipeline", "draw", str(tmp_path), "--port", "0"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        link = process.stdout.readline().split()[-1]
        assert link.startswith("http://127.0.0.1:")
        with closing(http.client.HTTPConnection(link.split("/")[2], timeout=60)) as connection:
            completion = COMPLETION | {"drawing": encoded(np.zeros((28, 28, 1), np.uint8)), "rows": 0}
            start(connection, "POST", "/complete", completion)
            connection.getresponse().readline()  # the model draws
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        assert process.stdout.read() == "Stop with Ctrl-C\n"
        assert re.fullmatch(r"device: auto uses .+\n", process.stderr.read())
