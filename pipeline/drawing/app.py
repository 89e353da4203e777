"""The HTTP interface of the page: a drawing is sent, and its completions come back row by row.

    GET  /          the page, which loads draw.css, report.css and draw.js
    GET  /model     what the page has to know of the model
    GET  /real      a real drawing of a class that was held out from training
    POST /complete  completions of a drawing: a line of JSON for each row, and a last one with the pictures as PNG
    POST /measure   what the model takes a drawing for, and the bits of each pixel: one line of JSON

A request that is cancelled is not computed to its end.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import io
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from pipeline.drawing.guard import Guard
from pipeline.drawing.worker import Worker
from stages import reporting
from stages.common.errors import one_line
from stages.inference.trained_model import Images, TrainedModel, class_probabilities

COMPLETIONS = 8
MAX_BODY = 64 * 1024  # bytes; the largest drawing, 64×64 pixels of three channels, takes 16 KiB
BODY_TIMEOUT = 10.0  # seconds

_FOLDER = Path(__file__).parent
_FILES = {
    "/": _FOLDER / "draw.html",
    "/draw.css": _FOLDER / "draw.css",
    "/draw.js": _FOLDER / "draw.js",
    "/report.css": Path(reporting.__file__).parent / "report.css",
}

Report = Callable[[dict[str, Any]], None]


class Measurement(BaseModel):
    """A request to measure a drawing.

    Attributes:
      class_name: the class whose bits are measured.
      drawing: the pixels, row by row, in base64.
      rows: how many of the upper rows count.
    """

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    class_name: str = Field(alias="class")
    drawing: str
    rows: int = Field(ge=0)


class Completion(Measurement):
    """A request to complete the rows below a drawing's upper rows."""

    seed: int = Field(ge=0, le=2**31 - 1)
    temperature: float = Field(gt=0, le=10)
    guidance: float = Field(ge=1, le=100)


R = TypeVar("R", bound=Measurement)


def application(model: TrainedModel, run: str, real: Mapping[str, Images], names: Iterable[str]) -> ASGIApp:
    """The application of a model.

    Args:
      model: the model.
      run: the name of its run, for people.
      real: real drawings by class; of each at least one.
      names: the host names under which the page can be opened.
    """
    interface = _Interface(model, run, real)
    routes = [
        *(Route(path, functools.partial(_send_file, file)) for path, file in _FILES.items()),
        Route("/model", interface.describe),
        Route("/real", interface.real),
        Route("/complete", interface.complete, methods=["POST"]),
        Route("/measure", interface.measure, methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={ClientDisconnect: _ignore}), names)


class _Interface:
    """The requests that depend on the model."""

    def __init__(self, model: TrainedModel, run: str, real: Mapping[str, Images]) -> None:
        self._model, self._run = model, run
        self._real = {name: drawings for name, drawings in real.items() if name in model.classes}
        self._worker = Worker()

    async def describe(self, _: Request) -> Response:
        # An empty sheet of coloured or inverted pictures is not black: take the usual colour of a picture's edge.
        edges = [drawings[:50, 0].reshape(-1, self._model.image_shape[2]) for drawings in self._real.values()]
        paper = np.median(np.concatenate(edges), axis=0) if edges else np.zeros(self._model.image_shape[2])
        return JSONResponse(
            {
                "run": self._run,
                "classes": self._model.classes,
                "shape": self._model.image_shape,
                "paper": [int(value) for value in paper],
                "settings": vars(self._model.settings),
                "completions": COMPLETIONS,
                "real": {name: len(drawings) for name, drawings in self._real.items()},
            }
        )

    async def real(self, request: Request) -> Response:
        drawings = self._real.get(request.query_params.get("class", ""))
        number = request.query_params.get("number", "0")
        if drawings is None:
            raise HTTPException(404, "class: there is no real drawing of it here")
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise HTTPException(400, "number: expected: a whole number of at least 0")
        return JSONResponse({"drawing": _encode(drawings[int(number) % len(drawings)])})

    async def complete(self, request: Request) -> Response:
        wanted, drawing = await self._read(request, Completion)

        def compute(report: Report) -> None:
            completions = self._model.complete(
                drawing,
                wanted.class_name,
                COMPLETIONS,
                rows=wanted.rows,
                seed=wanted.seed,
                temperature=wanted.temperature,
                guidance=wanted.guidance,
                row_done=lambda part, row, pixels: report({"first": part.start, "row": row, "pixels": _encode(pixels)}),
            )
            settings = {"model": self._run, **wanted.model_dump(by_alias=True, exclude={"drawing"})}
            report({"pictures": [_png(x, settings | {"number": i}) for i, x in enumerate(completions[0])]})

        return _json_lines(self._worker.stream(compute))

    async def measure(self, request: Request) -> Response:
        wanted, drawing = await self._read(request, Measurement)

        def compute(report: Report) -> None:
            report({})  # ends the computation here, if the request has been cancelled before
            bits = self._model.bits_by_class(drawing)[0]
            given = bits[:, : wanted.rows].sum(axis=(1, 2))
            label = self._model.classes.index(wanted.class_name)
            report(
                {
                    "probabilities": [round(float(x), 6) for x in class_probabilities(given)],
                    "bits": [round(float(x), 3) for x in bits[label].ravel()],
                }
            )

        return _json_lines(self._worker.stream(compute))

    async def _read(self, request: Request, kind: type[R]) -> tuple[R, Images]:
        """The request and its drawing, (1, height, width, channels). Raises `HTTPException` if it cannot be used."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise HTTPException(415, "content-type: expected: application/json")
        try:
            body = await asyncio.wait_for(_read_body(request), BODY_TIMEOUT)
        except asyncio.TimeoutError:
            raise HTTPException(408, f"the request did not arrive within {BODY_TIMEOUT:g} seconds") from None
        try:
            wanted = kind.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"])) or "the request"
            raise HTTPException(400, one_line(f"{where}: {first['msg']}", 200)) from None
        if wanted.class_name not in self._model.classes:
            raise HTTPException(400, one_line(f"class: {wanted.class_name!r} is not a class of the model", 200))
        height, width, channels = self._model.image_shape
        if wanted.rows > height:
            raise HTTPException(400, f"rows: expected: a whole number from 0 to {height}")
        try:
            pixels = np.frombuffer(base64.b64decode(wanted.drawing, validate=True), np.uint8)
            drawing = pixels.reshape(1, height, width, channels)
        except ValueError:
            raise HTTPException(400, f"drawing: expected: {height * width * channels} bytes in base64") from None
        return wanted, drawing


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"the request has more than {MAX_BODY} bytes")
    return bytes(body)


def _json_lines(results: AsyncIterator[dict[str, Any]]) -> Response:
    async def lines() -> AsyncIterator[str]:
        async for result in results:
            if result:
                yield json.dumps(result) + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


def _encode(pixels: Images) -> str:
    return base64.b64encode(pixels.tobytes()).decode("ascii")


def _png(picture: Images, settings: Mapping[str, object]) -> str:
    """A picture as PNG in base64, with its settings in text chunks."""
    texts = PngInfo()
    for key, value in settings.items():
        texts.add_itxt(key, str(value))
    png = io.BytesIO()
    Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(png, "PNG", pnginfo=texts)
    return base64.b64encode(png.getvalue()).decode("ascii")


async def _send_file(file: Path, _: Request) -> Response:
    return FileResponse(file)


async def _ignore(_: Request, error: Exception) -> Response:
    """The client has gone, so nobody reads this response."""
    return PlainTextResponse(type(error).__name__, 400)
