"""A server of the page with a small untrained model, in a thread of the test."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import uvicorn

from pipeline.drawing.app import application
from pipeline.drawing.guard import names_of
from stages.inference.trained_model import Images, TrainedModel
from stages.outputs.model import Class, Model
from stages.outputs.samples import Settings
from stages.pixelcnn import network

CLASSES = (Class(26, "bee"), Class(255, "sea turtle"), Class(323, "tree"))


def untrained(shape: tuple[int, int, int]) -> TrainedModel:
    """The smallest model of pictures of a shape."""
    config = network.Config(shape, (len(CLASSES),), 1, 2, 2, 2, position="coordinates")
    weights = {name: np.asarray(value) for name, value in network.initialise(config, 0).items()}
    return TrainedModel(Model(config, CLASSES, "one_hot", weights), Settings(3, 0.8, 2.0))


@contextmanager
def serving(model: TrainedModel, real: Mapping[str, Images] = {}) -> Iterator[int]:
    """Serve the page of a model, and give the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = application(model, "quick-1a2b3c4d", real, names_of("127.0.0.1"))
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", log_level="error"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


def send(
    port: int, method: str, path: str, body: object = None, headers: Mapping[str, str] = {}
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Send a request, and return the status, the headers and the body of its response."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        start(connection, method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def start(
    connection: http.client.HTTPConnection, method: str, path: str, body: object, headers: Mapping[str, str] = {}
) -> None:
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method, path, content, {"content-type": "application/json", **headers})


def lines_of(response: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.splitlines()]
