"""Files of another machine, read by ranges or as a whole, with every answer checked before it is believed.

An origin answers, raises `Unanswered` where another try may help, or raises `StageError`.
"""

from __future__ import annotations

import asyncio
import errno
import html
import ipaddress
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, TypeVar
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from stages.errors import StageError, one_line
from stages.quickdraw import npy
from stages.quickdraw.patience import Patience, Unanswered, retry_after

T = TypeVar("T")

CONNECTIONS = 64  # at once: with answers 20 ms away, 3,000 a second, near what one core of this machine can ask
BLOCK = 1 << 20  # bytes of a stream at a time
LONGEST_LISTING = 4 << 20  # bytes of a page that lists files
REDIRECTS = 5


class Refused(StageError):
    """The server knows who asks, or that it does not know, and says no; some say so of what is not there."""


class Start(NamedTuple):
    """What a file's server says of it, and how the file begins."""

    size: int  # bytes
    version: str  # what changes when the file does; empty where the server does not say
    ranges: bool  # whether a part can be asked for
    content: bytes  # the first `npy.LONGEST_HEADER` bytes, or all of them


class Origin(ABC):
    """Files at an address, in use within `async with`."""

    def __init__(self, address: str, patience: Patience) -> None:
        self.address = address.rstrip("/")
        self.patience = patience

    async def __aenter__(self) -> Origin:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    @abstractmethod
    def shown(self, name: str) -> str:
        """The address of a class's file as a person may see it: without what lets one in."""

    @abstractmethod
    async def names(self) -> list[str]:
        """The names of the `.npy` files there, less the ending; none where the origin has no list."""

    @abstractmethod
    async def start(self, name: str) -> Start | None:
        """The beginning of a class's file, or None where there is no such file."""

    @abstractmethod
    async def read(self, name: str, start: int, stop: int, of: Start) -> bytes:
        """The bytes of a class's file from `start` to `stop`, in number and from the file that `of` began."""

    @abstractmethod
    def stream(self, name: str, start: int, of: Start) -> AsyncGenerator[bytes, None]:
        """The bytes of a class's file from `start` to its end, in blocks."""


class Http(Origin):
    """A web server, asked over connections that are kept alive."""

    def __init__(self, address: str, patience: Patience) -> None:
        super().__init__(address, patience)
        self._parts = urlsplit(self.address)
        # aiohttp's own way to the system's proxy reads ~/.netrc in another thread for each request.
        self._proxy = _proxy(self._parts)
        self._hosts = _Hosts(_host(self._parts), _host(urlsplit(self._proxy)) if self._proxy else None)

    async def __aenter__(self) -> Http:
        import aiohttp

        connect, silence = self.patience.connect, self.patience.silence
        self._for_all = aiohttp.ClientTimeout(None, sock_connect=connect, sock_read=silence)
        self._for_part = aiohttp.ClientTimeout(self.patience.request, sock_connect=connect, sock_read=silence)
        hosts: Any = self._hosts  # no subclass of aiohttp's, for that takes importing it
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ttl_dns_cache=300, resolver=hosts),
            headers={"Accept-Encoding": "identity", "User-Agent": "quickdraw-pixelcnn"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._asking = asyncio.Semaphore(CONNECTIONS)  # so that waiting for a connection is not waiting for an answer
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._session.close()

    def shown(self, name: str) -> str:
        """Less what may let one in."""
        return f"{without_secrets(self.address)}/{name}.npy"

    async def names(self) -> list[str]:
        """As linked from the page that many servers give for a folder."""
        what = self.shown("*")
        try:
            async with self._asking, self._answer(self._url(""), what, {}) as response:
                if response.status != 200 or response.content_type != "text/html":
                    return []
                page = await self._body(response, LONGEST_LISTING, what, exact=False)
        except Refused:
            return []
        folder = f"{self._parts.path}/"
        names = set()
        for link in re.findall(r"""href\s*=\s*["']([^"'?#]+\.npy)["']""", page.decode("utf-8", "replace")):
            with suppress(ValueError):  # a link to what is no address
                path = unquote(urlsplit(urljoin(folder, html.unescape(link))).path)
                if path.startswith(unquote(folder)) and "/" not in (file := path[len(unquote(folder)) :]):
                    names.add(file[: -len(".npy")])
        return sorted(names)

    async def start(self, name: str) -> Start | None:
        """By asking for the beginning, which shows whether the server gives parts."""
        what = self.shown(name)
        async with self._asking, self._answer(self._file(name), what, _range(0, npy.LONGEST_HEADER)) as response:
            if response.status in (404, 410):
                return None
            if response.status == 416:  # an empty file has no bytes to ask for
                return Start(0, _version(response), True, b"")
            size = self._size(response, what)
            first = min(size, npy.LONGEST_HEADER)
            if response.status == 206:
                self._check_range(response, what, 0, first, size)
                return Start(size, _version(response), True, await self._body(response, first, what))
            content = b""
            while len(content) < first and (block := await response.content.read(first - len(content))):
                content += block
            if len(content) < first:
                raise Unanswered(f"{what}: the answer broke off")
            return Start(size, _version(response), False, content)

    async def read(self, name: str, start: int, stop: int, of: Start) -> bytes:
        """One range a request: what servers make of several differs."""
        what = self.shown(name)
        async with self._asking, self._answer(self._file(name), what, _range(start, stop)) as response:
            if response.status != 206:
                raise self._refused(response, what)
            self._check_range(response, what, start, stop, of.size)
            _check_version(response, what, of)
            return await self._body(response, stop - start, what)

    async def stream(self, name: str, start: int, of: Start) -> AsyncGenerator[bytes, None]:
        """From a server that ignores ranges too, at the price of what comes before `start`."""
        what = self.shown(name)
        asked = _range(start, of.size) if start else {}
        async with self._asking, self._answer(self._file(name), what, asked, whole=True) as response:
            if response.status == 206:
                self._check_range(response, what, start, of.size, of.size)
            elif response.status == 200:
                if (size := self._size(response, what)) != of.size:
                    raise StageError(f"{what} has {size:,} bytes, and had {of.size:,}: it has changed")
            else:
                raise self._refused(response, what)
            _check_version(response, what, of)
            position = start if response.status == 206 else 0
            async for block in response.content.iter_chunked(BLOCK):
                if position + len(block) > of.size:
                    raise Unanswered(f"{what}: the answer is longer than it said")
                if position + len(block) > start:
                    yield block[max(start - position, 0) :]
                position += len(block)
            if position < of.size:
                raise Unanswered(f"{what}: the answer broke off after {position:,} of {of.size:,} bytes")

    def _url(self, file: str) -> str:
        parts = self._parts
        return urlunsplit((parts.scheme, parts.netloc, f"{parts.path}/{file}", parts.query, ""))

    def _file(self, name: str) -> str:
        return self._url(quote(f"{name}.npy"))

    @asynccontextmanager
    async def _answer(self, url: str, what: str, headers: dict[str, str], whole: bool = False) -> AsyncIterator[Any]:
        """The answer to a request, redirects followed where they may lead, refusals and failures raised."""
        import aiohttp

        try:
            for _ in range(REDIRECTS + 1):
                async with await self._ask(url, what, headers, self._for_all if whole else self._for_part) as response:
                    if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                        url = await self._redirected(url, response.headers["Location"], what)
                        continue
                    if response.status in (408, 429) or response.status >= 500:
                        raise self._refused(response, what)
                    if response.status not in (200, 206, 404, 410, 416):
                        raise Refused(f"{what}: the server refuses it ({_status(response)})")
                    if response.headers.get("Content-Encoding", "identity") != "identity":
                        raise StageError(f"{what}: the server sends it compressed, and was asked not to")
                    yield response
                    return
            raise StageError(f"{what}: redirected more than {REDIRECTS} times")
        except asyncio.TimeoutError:
            raise Unanswered(f"{what}: no answer in time") from None
        except aiohttp.ClientResponseError as error:  # which says in full what was asked, and so what signs it
            raise Unanswered(f"{what}: {error.status} {_said(error.message)}") from None
        except aiohttp.ClientError as error:
            raise Unanswered(f"{what}: {_said(error)}") from None

    async def _ask(self, url: str, what: str, headers: dict[str, str], timeout: Any) -> Any:
        """The answer to one request, whatever it is."""
        from yarl import URL

        try:
            return await self._session.get(
                URL(url, encoded=True), headers=headers, allow_redirects=False, timeout=timeout, proxy=self._proxy
            )
        except ValueError:  # of yarl, aiohttp, or the codec of hosts' names
            raise StageError(f"{what}: not an address that can be asked") from None

    async def _redirected(self, url: str, location: str, what: str) -> str:
        """Where a redirect leads; never from the open network into a closed one, nor from https to http."""
        try:
            target = quote(urljoin(url, location), safe="%/:=&?~#+!$,;'@()*[]")  # some servers send spaces
            parts = urlsplit(target)
            host, port = _host(parts)
        except ValueError:
            raise StageError(f"{what}: redirected to what is no address") from None
        if parts.scheme != "https" and parts.scheme != urlsplit(url).scheme:
            raise StageError(f"{what}: redirected to {parts.scheme}://, which is not followed")
        if parts.netloc != self._parts.netloc:
            try:
                await self._hosts.permitted(host, port)
            except PermissionError:
                into = f"into a private network ({one_line(host)})"
                raise StageError(f"{what}: redirected {into}, which is not followed") from None
            except OSError as error:
                if not self._proxy:  # which may know hosts that are not known here
                    raise Unanswered(f"{what}: redirected to {one_line(host)}: {_said(error)}") from None
        return target

    def _refused(self, response: Any, what: str) -> Unanswered | StageError:
        """The error for a status that is not the one that was asked for."""
        after = retry_after(response.headers.get("Retry-After"))
        if response.status in (408, 429) or response.status >= 500:
            said = f"{what}: the server says {_status(response)}"
            return Unanswered(said, throttled=response.status in (429, 503), after=after)
        if response.status == 416:
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            return StageError(f"{what} has {total or 'fewer'} bytes now: it has changed")
        if response.status == 200:
            return Unanswered(f"{what}: the server ignores the range and sends the whole file")
        return StageError(f"{what} is not there any more ({response.status})")

    def _size(self, response: Any, what: str) -> int:
        """The size of the whole file, according to the answer."""
        said = response.headers.get("Content-Length", "")
        if response.status == 206:
            said = response.headers.get("Content-Range", "").rpartition("/")[2]
        if not re.fullmatch(r"[0-9]{1,19}", said):
            raise StageError(f"{what}: the server does not say how long the file is")
        return int(said)

    def _check_range(self, response: Any, what: str, start: int, stop: int, size: int) -> None:
        """Raise where the answer is about other bytes than were asked for, or about a file of another size."""
        said = response.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19})", said.strip())
        if not found:
            raise Unanswered(f"{what}: the server does not say which bytes it sends (Content-Range: {said[:60]!r})")
        if int(found[3]) != size:
            raise StageError(f"{what} has {int(found[3]):,} bytes, and {size:,} were expected: it has changed")
        if (int(found[1]), int(found[2])) != (start, stop - 1):
            raise Unanswered(f"{what}: the server sends other bytes ({said[:60]}) than {start}-{stop - 1}")
        length = response.headers.get("Content-Length", str(stop - start))
        if length != str(stop - start):
            raise Unanswered(f"{what}: the server sends {length[:20]} bytes, and {stop - start} were asked for")

    async def _body(self, response: Any, length: int, what: str, exact: bool = True) -> bytes:
        """The body of an answer: `length` bytes, or no more than that."""
        body = bytearray()
        async for block in response.content.iter_any():
            body += block
            if len(body) > length:
                raise Unanswered(f"{what}: the answer is longer than {length} bytes")
        if exact and len(body) < length:
            raise Unanswered(f"{what}: the answer broke off after {len(body)} of {length} bytes")
        return bytes(body)


class _Hosts:
    """The addresses of hosts, looked up for aiohttp whenever it connects: a redirect leads to none it may not lead to.

    To check them before alone would not do: when the connection is made, a name may have others (DNS rebinding).

    Args:
      mirror: the host and the port that were asked for, which may be connected to wherever they are.
      proxy: those of the proxy, likewise.
    """

    def __init__(self, mirror: tuple[str, int], proxy: tuple[str, int] | None) -> None:
        self._mirror, self._proxy = mirror, proxy
        self._of_mirror: set[str] = set()  # all that were ever found

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[Any]:
        """As aiohttp wants them. Raises `OSError` where there are none, or none that may be connected to."""
        asked = host.lower(), port
        if asked not in (self._mirror, self._proxy):
            return await self.permitted(host, port, family)
        found = await self._find(host, port, family)
        if asked == self._mirror:
            self._of_mirror.update(each["host"] for each in found)
        return found

    async def permitted(self, host: str, port: int, family: int = socket.AF_UNSPEC) -> list[Any]:
        """Those of a host that a redirect leads to.

        Raises:
          PermissionError: one of them is in a private network, and the mirror is not, with all that it ever had.
          OSError: there are none.
        """
        found = await self._find(host, port, family)
        if not all(_is_open(each["host"]) for each in found):
            with suppress(OSError):  # nothing has looked for them yet behind a proxy, or of a mirror named by number
                await self.resolve(*self._mirror)
            if not self._of_mirror or any(map(_is_open, self._of_mirror)):
                raise PermissionError(errno.EACCES, "a redirect leads into a private network")
        return found

    async def close(self) -> None:
        """As aiohttp wants it; there is nothing to close."""

    async def _find(self, host: str, port: int, family: int) -> list[Any]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        except UnicodeError:
            raise OSError(errno.EINVAL, "not the name of a host") from None
        return [
            {"hostname": host, "host": str(address[0]), "port": port, "family": kind, "proto": protocol, "flags": 0}
            for kind, _, protocol, _, address in found
        ]


class Store(Origin):
    """Whatever else fsspec can read: gs://, s3://."""

    def __init__(self, address: str, patience: Patience) -> None:
        super().__init__(address, patience)
        import fsspec

        scheme = address.partition("://")[0]
        try:
            self._files, self._path = fsspec.core.url_to_fs(self.address)
        except ImportError as error:
            raise StageError(f"mirror: {scheme}:// needs a package that is not installed: {error}") from None
        except ValueError as error:
            raise StageError(f"mirror: {self.address}: {error}") from None
        self._threads = ThreadPoolExecutor(CONNECTIONS, "fetching")

    async def __aexit__(self, *error: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def shown(self, name: str) -> str:
        """As it is."""
        return f"{self.address}/{name}.npy"

    async def names(self) -> list[str]:
        """As the store lists them."""
        listed = await self._call(self.address, lambda: self._files.ls(self._path, detail=False))
        files = [str(path).rpartition("/")[2] for path in listed or ()]
        return sorted(file[: -len(".npy")] for file in files if file.endswith(".npy"))

    async def start(self, name: str) -> Start | None:
        """By the store's account of the file."""
        path, what = self._file(name), self.shown(name)
        info = await self._call(what, lambda: self._files.info(path))
        if info is None:
            return None
        size = int(info["size"])
        version = next(
            (str(info[key]) for key in ("etag", "ETag", "generation", "md5Hash", "updated") if info.get(key)), ""
        )
        content = await self._range(what, path, 0, min(size, npy.LONGEST_HEADER))
        return Start(size, version, True, content)

    async def read(self, name: str, start: int, stop: int, of: Start) -> bytes:
        """One range."""
        return await self._range(self.shown(name), self._file(name), start, stop)

    async def stream(self, name: str, start: int, of: Start) -> AsyncGenerator[bytes, None]:
        """As ranges of many bytes."""
        for position in range(start, of.size, 16 * BLOCK):
            yield await self._range(self.shown(name), self._file(name), position, min(position + 16 * BLOCK, of.size))

    def _file(self, name: str) -> str:
        return f"{self._path}/{name}.npy"

    async def _range(self, what: str, path: str, start: int, stop: int) -> bytes:
        if start == stop:
            return b""
        content = await self._call(what, lambda: bytes(self._files.cat_file(path, start=start, end=stop)))
        if content is None:
            raise StageError(f"{what} is not there any more")
        if len(content) != stop - start:
            raise Unanswered(f"{what}: {len(content)} bytes came, and {stop - start} were asked for")
        return content

    async def _call(self, what: str, function: Callable[[], T]) -> T | None:
        """What `function` returns, called in a thread; None for a file that is not there."""
        try:
            return await asyncio.wait_for(
                asyncio.get_running_loop().run_in_executor(self._threads, function), self.patience.request
            )
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise StageError(f"{what}: {_said(error)}") from None
        except asyncio.TimeoutError:
            raise Unanswered(f"{what}: no answer in time") from None
        except Exception as error:  # the errors of whatever package reads this kind of store
            raise Unanswered(f"{what}: {_said(error)}") from None


def without_secrets(address: str) -> str:
    """A URL less a user's name, a password, and a query, which may sign it."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def open_origin(address: str, patience: Patience) -> Origin:
    """The origin for a URL."""
    return (Http if urlsplit(address).scheme in ("http", "https") else Store)(address, patience)


def _range(start: int, stop: int) -> dict[str, str]:
    return {"Range": f"bytes={start}-{stop - 1}"}


def _version(response: Any) -> str:
    """What the server calls this version of the file; a weak ETag may stay when bytes change."""
    tag = response.headers.get("ETag", "")
    return str(tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", ""))


def _check_version(response: Any, what: str, of: Start) -> None:
    if (version := _version(response)) != of.version and version and of.version:
        raise StageError(f"{what} changed while it was read")


def _host(parts: SplitResult) -> tuple[str, int]:
    """The host and the port of a URL."""
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _proxy(parts: SplitResult) -> str | None:
    """The proxy to ask for a URL, as the environment names it: without a scheme it is one of HTTP, as curl has it."""
    if not (proxy := getproxies().get(parts.scheme)) or proxy_bypass(parts.hostname or ""):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        if urlsplit(proxy).scheme in ("http", "https") and _host(urlsplit(proxy))[0]:
            return proxy
    except ValueError:
        pass
    raise StageError(f"mirror: the proxy that {parts.scheme}_proxy names is none of http:// or https://")


def _is_open(address: str) -> bool:
    """Whether an address is on the open network."""
    return ipaddress.ip_address(address.partition("%")[0]).is_global


def _status(response: Any) -> str:
    return one_line(f"{response.status} {response.reason}")


def _said(error: object) -> str:
    """An error in one line."""
    return one_line(error, 200) or type(error).__name__
