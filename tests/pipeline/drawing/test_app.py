"""The HTTP interface of the drawing page, with a real server and a real, small model."""

import base64
import http.client
import io
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.drawing import app, guard
from stages.inference.trained_model import Images, TrainedModel
from stages.params import Params
from tests.pipeline.drawing.page_server import lines_of, send, serving, start, untrained

SHAPE = (8, 12, 3)
DRAWING = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
REAL = np.random.default_rng(1).integers(0, 256, (2, *SHAPE), np.uint8)


def encoded(drawing: npt.NDArray[np.uint8]) -> str:
    return base64.b64encode(drawing.tobytes()).decode()


MEASUREMENT: dict[str, Any] = {"class": "sea turtle", "drawing": encoded(DRAWING), "rows": 3}
COMPLETION: dict[str, Any] = {**MEASUREMENT, "seed": 7, "temperature": 0.9, "guidance": 1.5}


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return untrained(SHAPE)


@pytest.fixture(scope="module")
def port(model: TrainedModel) -> Iterator[int]:
    with serving(model, {"bee": REAL, "zorro": REAL}) as port:
        yield port


@pytest.mark.parametrize("rows", [0, 3, 8])
def test_completions_come_row_by_row_and_are_those_of_the_model(port: int, model: TrainedModel, rows: int) -> None:
    expected = model.complete(DRAWING[np.newaxis], "sea turtle", 8, rows=rows, seed=7, temperature=0.9, guidance=1.5)[0]
    status, headers, body = send(port, "POST", "/complete", COMPLETION | {"rows": rows})
    assert (status, headers["content-type"]) == (200, "application/x-ndjson")
    *lines, last = lines_of(body)
    assert [line["row"] for line in lines if line["first"] == 0] == list(range(8))
    completed = np.zeros((8, *SHAPE), np.uint8)
    for line in lines:
        pixels = np.frombuffer(base64.b64decode(line["pixels"]), np.uint8).reshape(-1, *SHAPE[1:])
        completed[line["first"] : line["first"] + len(pixels), line["row"]] = pixels
    np.testing.assert_array_equal(completed, expected)
    np.testing.assert_array_equal(completed[:, :rows], np.broadcast_to(DRAWING, completed.shape)[:, :rows])

    for number, (png, picture) in enumerate(zip(last["pictures"], expected, strict=True)):
        with Image.open(io.BytesIO(base64.b64decode(png))) as image:
            np.testing.assert_array_equal(np.asarray(image), picture)
            assert image.info == {
                "model": "quick-1a2b3c4d",
                "class": "sea turtle",
                "rows": str(rows),
                "seed": "7",
                "temperature": "0.9",
                "guidance": "1.5",
                "number": str(number),
            }


def test_a_measurement_counts_the_rows_above_the_line(port: int, model: TrainedModel) -> None:
    def measured(**changes: Any) -> dict[str, Any]:
        [line] = lines_of(send(port, "POST", "/measure", MEASUREMENT | changes)[2])
        return line

    whole = measured(rows=8)
    np.testing.assert_allclose(whole["probabilities"], model.classify(DRAWING[np.newaxis])[0], atol=1e-6)
    bits = model.bits_by_pixel(DRAWING[np.newaxis], "sea turtle")[0]
    np.testing.assert_allclose(np.reshape(whole["bits"], SHAPE[:2]), bits, atol=1e-3)
    np.testing.assert_allclose(measured(rows=0)["probabilities"], [1 / 3] * 3, atol=1e-6)
    lower = DRAWING.copy()
    lower[3:] = 0
    assert measured(drawing=encoded(lower))["probabilities"] == measured()["probabilities"] != whole["probabilities"]


def test_the_page_knows_the_model_and_real_drawings_of_its_classes(port: int) -> None:
    assert json.loads(send(port, "GET", "/model")[2]) == {
        "run": "quick-1a2b3c4d",
        "classes": ["bee", "sea turtle", "tree"],
        "shape": list(SHAPE),
        "paper": [int(value) for value in np.median(REAL[:, 0].reshape(-1, 3), axis=0)],
        "settings": {"seed": 3, "temperature": 0.8, "guidance": 2.0},
        "completions": 8,
        "real": {"bee": 2},
    }
    for number, drawing in enumerate([*REAL, REAL[0]]):
        status, _, body = send(port, "GET", f"/real?class=bee&number={number}")
        assert (status, json.loads(body)) == (200, {"drawing": encoded(drawing)})
    for query, expected in [("class=tree", 404), ("class=zorro", 404), ("", 404), ("class=bee&number=-1", 400)]:
        assert send(port, "GET", f"/real?{query}")[0] == expected


HOSTILE: list[tuple[object, int, str]] = [
    (b"", 400, "the request: Invalid JSON"),
    (b"\xff\xfe", 400, "the request: Invalid JSON"),
    (b"[" * 60_000, 400, "the request: Invalid JSON"),
    ([], 400, "the request: "),
    (b" " * (app.MAX_BODY + 1), 413, "the request has more than 65536 bytes"),
    (COMPLETION | {"x": 1}, 400, "x: Extra inputs"),
    (COMPLETION | {"class": "<script>\n"}, 400, "class: '<script>\\n' is not a class of the model"),
    (COMPLETION | {"class": "z" * 1000}, 400, "class: 'zzz"),
    (COMPLETION | {"class": 5}, 400, "class: "),
    (COMPLETION | {"drawing": encoded(DRAWING)[4:]}, 400, "drawing: expected: 288 bytes in base64"),
    (COMPLETION | {"drawing": "é" * 384}, 400, "drawing: expected: 288 bytes in base64"),
    (COMPLETION | {"rows": 9}, 400, "rows: expected: a whole number from 0 to 8"),
    (COMPLETION | {"rows": -1}, 400, "rows: "),
    (COMPLETION | {"rows": True}, 400, "rows: "),
    (COMPLETION | {"rows": 10**400}, 400, "rows: "),
    (COMPLETION | {"seed": -1}, 400, "seed: "),
    (COMPLETION | {"seed": 2**31}, 400, "seed: "),
    (COMPLETION | {"seed": "1"}, 400, "seed: "),
    (COMPLETION | {"temperature": 0}, 400, "temperature: "),
    (COMPLETION | {"temperature": float("nan")}, 400, "temperature: "),
    (COMPLETION | {"guidance": float("inf")}, 400, "guidance: "),
    (COMPLETION | {"guidance": 0.5}, 400, "guidance: "),
    (MEASUREMENT, 400, "seed: Field required"),
]


@pytest.mark.parametrize(("body", "status", "message"), HOSTILE)
def test_a_request_that_cannot_be_used_gets_one_line(port: int, body: object, status: int, message: str) -> None:
    answer = send(port, "POST", "/complete", body)
    text = answer[2].decode()
    assert (answer[0], answer[1]["content-type"]) == (status, "text/plain; charset=utf-8")
    assert text.startswith(message) and text.isprintable() and len(text) <= 200


def test_a_request_that_does_not_arrive_ends(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BODY_TIMEOUT", 0.2)
    begin = (
        b"POST /complete HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(begin)
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
    for _ in range(guard.MAX_REQUESTS + 1):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(begin)
    time.sleep(0.5)
    assert send(port, "POST", "/complete", COMPLETION)[0] == 200, "the requests that were left count no longer"


def test_the_ranges_of_the_settings_are_those_of_params() -> None:
    for name in ("seed", "temperature", "guidance"):
        assert app.Completion.model_fields[name].metadata == [
            bound for bound in Params.model_fields[name].metadata if "Validator" not in type(bound).__name__
        ]


OWN = ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8280", "[::1]:8280", "[::1]"]
FOREIGN = [
    "",
    "example.com",
    "example.com:8280",
    "localhost.example.com",
    "127.0.0.1.example.com",
    "localhost:x",
    ":80",
]


@pytest.mark.parametrize("host", OWN)
def test_the_page_answers_to_its_own_host(port: int, host: str) -> None:
    assert send(port, "GET", "/", headers={"host": host})[0] == 200


@pytest.mark.parametrize("host", FOREIGN)
def test_the_page_does_not_answer_to_another_host(port: int, host: str) -> None:
    """A page elsewhere whose name its server resolves to this machine (DNS rebinding)."""
    status, _, body = send(port, "GET", "/", headers={"host": host})
    assert status == 400 and body.startswith(b"Host: ")


def test_a_page_elsewhere_cannot_start_a_computation(port: int) -> None:
    for origin in ("http://example.com", "null", f"https://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"):
        assert send(port, "POST", "/complete", COMPLETION, {"origin": origin})[0] == 403
    assert send(port, "POST", "/complete", COMPLETION, {"origin": f"http://127.0.0.1:{port}"})[0] == 200
    assert send(port, "POST", "/complete", COMPLETION, {"content-type": "text/plain"})[0] == 415, "without preflight"


def test_a_host_that_was_chosen_is_its_own() -> None:
    assert {"localhost", "127.0.0.1"} == guard.names_of("127.0.0.1")
    assert guard.names_of("studio.local") > {"studio.local", "localhost"}
    assert [guard.is_loopback(host) for host in ("127.8.0.1", "::1", "localhost", "0.0.0.0", "::", "studio.local")] == [
        *[True] * 3,
        *[False] * 3,
    ]


@pytest.mark.parametrize("path", [*app._FILES, "/model", "/missing", "/complete"])
def test_every_response_has_the_policy(port: int, path: str) -> None:
    status, headers, body = send(port, "GET", path)
    assert status == {"/missing": 404, "/complete": 405}.get(path, 200)
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert not re.search(rb"https?://|<style|<script>| style=| on\w+=", body), "nothing that the policy forbids"


class Counting(TrainedModel):
    """Counts the rows that have been computed."""

    rows = 0

    def complete(self, *arguments: Any, **options: Any) -> Images:
        report = options.pop("row_done")

        def row_done(*row: Any) -> None:
            self.rows += 1
            report(*row)

        return super().complete(*arguments, **options, row_done=row_done)


def test_cancelled_requests_are_not_computed_and_too_many_are_refused() -> None:
    shape = (64, 64, 1)
    model = Counting(untrained(shape)._model, untrained(shape).settings)
    completion = COMPLETION | {"drawing": encoded(np.zeros(shape, np.uint8)), "rows": 0}
    with serving(model) as port:
        with ExitStack() as stack:
            connections = [
                stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)))
                for _ in range(guard.MAX_REQUESTS)
            ]
            for connection in connections:
                start(connection, "POST", "/complete", completion)
            assert json.loads(connections[0].getresponse().readline())["row"] == 0
            status, headers, body = send(port, "POST", "/complete", completion)
            assert (status, headers["retry-after"]) == (503, "1")
            assert body == b"4 requests are being computed; try again in a moment"
            assert send(port, "GET", "/")[0] == 200, "the page is always there"
        deadline = time.monotonic() + 60
        last = COMPLETION | {"drawing": completion["drawing"], "rows": 64, "class": "tree"}
        while send(port, "POST", "/measure", {key: last[key] for key in MEASUREMENT})[0] == 503:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert 0 < model.rows < 64, "the first was stopped, and the others did not begin"
