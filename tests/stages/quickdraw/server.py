"""A local web server with range requests, whose responses a test can change.

As a command it prints its address and serves a folder until it is stopped:
`python -m tests.stages.quickdraw.server <folder> [latency]`.
"""

import asyncio
import hashlib
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import quote, unquote


@dataclass
class Request:
    """A request. `start` and `stop` (exclusive) are the range; both are None for a whole file."""

    path: str
    start: int | None
    stop: int | None
    headers: dict[str, str]


@dataclass
class Answer:
    """The response that is about to be sent. A test's `misbehave` can change it."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    latency: float = 0  # seconds before the response is sent
    cut: int | None = None  # bytes of the body after which the connection is reset
    stall: int | None = None  # bytes of the body after which no more is sent


Misbehave = Callable[[Request, Answer], None]


class Server:
    """Serves `<folder>/<path>` at `address` within a `with` block.

    Args:
      folder: with the files to serve.
      misbehave: called with each request and response, which it may change.
      latency: of each response, in seconds.
      ranges: whether to answer range requests; if False, the whole file is sent.

    Attributes:
      listing: whether to answer the request for a folder with a page of links.
      requests: all requests received.
      connections: the number of connections accepted.
      sent: the number of bytes sent; a client can request it under the path ".sent".
    """

    def __init__(
        self, folder: Path, misbehave: Misbehave | None = None, latency: float = 0, ranges: bool = True
    ) -> None:
        self.folder = folder
        self.misbehave = misbehave
        self.latency = latency
        self.ranges = ranges
        self.listing = False
        self.requests: list[Request] = []
        self.connections = 0
        self.sent = 0
        self.address = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._contents: dict[str, tuple[float, bytes, str]] = {}

    def __enter__(self) -> "Server":
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self.listen(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def parts(self) -> list[Request]:
        """The requests for drawings: all except those for the head of a file and for the folder."""
        return [request for request in self.requests if request.path.endswith(".npy") and request.start != 0]

    def wait_until_idle(self) -> None:
        """Wait until no more requests arrive."""
        count = -1
        while count < len(self.requests):
            count = len(self.requests)
            time.sleep(0.3)

    async def listen(self) -> asyncio.Server:
        """Listen on a free port of the loopback interface."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=512)
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _close(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request_line, *lines = head.decode("latin-1").split("\r\n")
                headers = {
                    key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines if line)
                }
                match = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", ""))
                start, stop = (int(match[1]), int(match[2]) + 1) if match else (None, None)
                target = re.sub("^http://[^/]*", "", request_line.split(" ")[1])  # a proxy receives the whole URL
                request = Request(unquote(target.partition("?")[0]).lstrip("/"), start, stop, headers)
                self.requests.append(request)
                if not await self._send(request, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client closed the connection
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            writer.close()

    async def _send(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        answer = self._answer(request)
        if self.misbehave:
            self.misbehave(request, answer)
        if answer.latency:
            await asyncio.sleep(answer.latency)
        headers = {"Content-Length": str(len(answer.body))} | answer.headers
        lines = [f"HTTP/1.1 {answer.status} {'OK' if answer.status < 300 else 'Trouble'}"]
        lines += [f"{key}: {value}" for key, value in headers.items() if value]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        end = next((limit for limit in (answer.cut, answer.stall) if limit is not None), len(answer.body))
        writer.write(head + answer.body[:end])
        self.sent += len(head) + end
        await writer.drain()
        if answer.stall is not None:
            await asyncio.sleep(3600)
        if answer.cut is not None:
            await asyncio.sleep(0.01)
            writer.transport.abort()
            return False
        return "Content-Length" not in answer.headers  # a wrong length ends the connection

    def _answer(self, request: Request) -> Answer:
        if self.listing and (self.folder / request.path).is_dir():
            links = [f'<a href="{quote(path.name)}">{path.name}</a>' for path in (self.folder / request.path).iterdir()]
            return Answer(200, "\n".join(links).encode(), {"Content-Type": "text/html"}, self.latency)
        if request.path == ".sent":
            return Answer(200, str(self.sent).encode())
        content, tag = self._content(request.path)
        if not content:
            return Answer(404, b"no such file", latency=self.latency)
        if request.start is None or not self.ranges:
            return Answer(200, content, {"ETag": tag}, self.latency)
        assert request.stop is not None
        stop = min(request.stop, len(content))
        if request.start >= stop:
            return Answer(416, b"", {"Content-Range": f"bytes */{len(content)}"}, self.latency)
        headers = {"Content-Range": f"bytes {request.start}-{stop - 1}/{len(content)}", "ETag": tag}
        return Answer(206, content[request.start : stop], headers, self.latency)

    def _content(self, path: str) -> tuple[bytes, str]:
        file = self.folder / path
        if not file.is_file():
            return b"", ""
        modified = file.stat().st_mtime_ns
        if path not in self._contents or self._contents[path][0] != modified:
            content = file.read_bytes()
            self._contents[path] = (modified, content, f'"{hashlib.md5(content).hexdigest()}"')
        return self._contents[path][1:]


async def _serve(folder: Path, latency: float) -> None:
    server = Server(folder, latency=latency)
    listening = await server.listen()
    print(server.address, flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0))
