"""TODO"""

from __future__ import annotations

import asyncio
import errno
import html
import ipaddress
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from stages.common.errors import StageError, one_line
from stages.common.urls import without_secrets
from stages.quickdraw import npy_header
from stages.quickdraw.file_server import BLOCK, CONNECTIONS, AccessDenied, FileHead, FileServer, describe_error
from stages.quickdraw.retry import RetryableError, RetryPolicy, retry_after

MAX_LISTING_BYTES = 4 << 20  # bytes of a page that lists files
MAX_REDIRECTS = 5


class HttpServer(FileServer):
    """A web server, asked over connections that are kept alive."""

    def __init__(self, address: str, patience: RetryPolicy) -> None:
        super().__init__(address, patience)
        self._parts = urlsplit(self.address)
        # aiohttp's own way to the system's proxy reads ~/.netrc in another thread for each request.
        self._proxy = _proxy(self._parts)
        self._hosts = _SafeResolver(_host(self._parts), _host(urlsplit(self._proxy)) if self._proxy else None)

    async def __aenter__(self) -> HttpServer:
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
                page = await self._body(response, MAX_LISTING_BYTES, what, exact=False)
        except AccessDenied:
            return []
        folder = f"{self._parts.path}/"
        names = set()
        for link in re.findall(r"""href\s*=\s*["']([^"'?#]+\.npy)["']""", page.decode("utf-8", "replace")):
            with suppress(ValueError):  # a link to what is no address
                path = unquote(urlsplit(urljoin(folder, html.unescape(link))).path)
                if path.startswith(unquote(folder)) and "/" not in (file := path[len(unquote(folder)) :]):
                    names.add(file[: -len(".npy")])
        return sorted(names)

    async def start(self, name: str) -> FileHead | None:
        """By asking for the beginning, which shows whether the server gives parts."""
        what = self.shown(name)
        async with (
            self._asking,
            self._answer(self._file(name), what, _range(0, npy_header.MAX_HEADER_BYTES)) as response,
        ):
            if response.status in (404, 410):
                return None
            if response.status == 416:  # an empty file has no bytes to ask for
                return FileHead(0, _version(response), True, b"")
            size = self._size(response, what)
            first = min(size, npy_header.MAX_HEADER_BYTES)
            if response.status == 206:
                self._check_range(response, what, 0, first, size)
                return FileHead(size, _version(response), True, await self._body(response, first, what))
            content = b""
            while len(content) < first and (block := await response.content.read(first - len(content))):
                content += block
            if len(content) < first:
                raise RetryableError(f"{what}: the answer broke off")
            return FileHead(size, _version(response), False, content)

    async def read(self, name: str, start: int, stop: int, of: FileHead) -> bytes:
        """One range a request: what servers make of several differs."""
        what = self.shown(name)
        async with self._asking, self._answer(self._file(name), what, _range(start, stop)) as response:
            if response.status != 206:
                raise self._refused(response, what)
            self._check_range(response, what, start, stop, of.size)
            _check_version(response, what, of)
            return await self._body(response, stop - start, what)

    async def stream(self, name: str, start: int, of: FileHead) -> AsyncGenerator[bytes, None]:
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
                    raise RetryableError(f"{what}: the answer is longer than it said")
                if position + len(block) > start:
                    yield block[max(start - position, 0) :]
                position += len(block)
            if position < of.size:
                raise RetryableError(f"{what}: the answer broke off after {position:,} of {of.size:,} bytes")

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
            for _ in range(MAX_REDIRECTS + 1):
                async with await self._ask(url, what, headers, self._for_all if whole else self._for_part) as response:
                    if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                        url = await self._redirected(url, response.headers["Location"], what)
                        continue
                    if response.status in (408, 429) or response.status >= 500:
                        raise self._refused(response, what)
                    if response.status not in (200, 206, 404, 410, 416):
                        raise AccessDenied(f"{what}: the server refuses it ({_status(response)})")
                    if response.headers.get("Content-Encoding", "identity") != "identity":
                        raise StageError(f"{what}: the server sends it compressed, and was asked not to")
                    yield response
                    return
            raise StageError(f"{what}: redirected more than {MAX_REDIRECTS} times")
        except asyncio.TimeoutError:
            raise RetryableError(f"{what}: no answer in time") from None
        except aiohttp.ClientResponseError as error:  # which says in full what was asked, and so what signs it
            raise RetryableError(f"{what}: {error.status} {describe_error(error.message)}") from None
        except aiohttp.ClientError as error:
            raise RetryableError(f"{what}: {describe_error(error)}") from None

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
                    raise RetryableError(f"{what}: redirected to {one_line(host)}: {describe_error(error)}") from None
        return target

    def _refused(self, response: Any, what: str) -> RetryableError | StageError:
        """The error for a status that is not the one that was asked for."""
        after = retry_after(response.headers.get("Retry-After"))
        if response.status in (408, 429) or response.status >= 500:
            said = f"{what}: the server says {_status(response)}"
            return RetryableError(said, throttled=response.status in (429, 503), after=after)
        if response.status == 416:
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            return StageError(f"{what} has {total or 'fewer'} bytes now: it has changed")
        if response.status == 200:
            return RetryableError(f"{what}: the server ignores the range and sends the whole file")
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
            raise RetryableError(f"{what}: the server does not say which bytes it sends (Content-Range: {said[:60]!r})")
        if int(found[3]) != size:
            raise StageError(f"{what} has {int(found[3]):,} bytes, and {size:,} were expected: it has changed")
        if (int(found[1]), int(found[2])) != (start, stop - 1):
            raise RetryableError(f"{what}: the server sends other bytes ({said[:60]}) than {start}-{stop - 1}")
        length = response.headers.get("Content-Length", str(stop - start))
        if length != str(stop - start):
            raise RetryableError(f"{what}: the server sends {length[:20]} bytes, and {stop - start} were asked for")

    async def _body(self, response: Any, length: int, what: str, exact: bool = True) -> bytes:
        """The body of an answer: `length` bytes, or no more than that."""
        body = bytearray()
        async for block in response.content.iter_any():
            body += block
            if len(body) > length:
                raise RetryableError(f"{what}: the answer is longer than {length} bytes")
        if exact and len(body) < length:
            raise RetryableError(f"{what}: the answer broke off after {len(body)} of {length} bytes")
        return bytes(body)


class _SafeResolver:
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
        if not all(_is_public_address(each["host"]) for each in found):
            with suppress(OSError):  # nothing has looked for them yet behind a proxy, or of a mirror named by number
                await self.resolve(*self._mirror)
            if not self._of_mirror or any(map(_is_public_address, self._of_mirror)):
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


def _range(start: int, stop: int) -> dict[str, str]:
    return {"Range": f"bytes={start}-{stop - 1}"}


def _version(response: Any) -> str:
    """What the server calls this version of the file; a weak ETag may stay when bytes change."""
    tag = response.headers.get("ETag", "")
    return str(tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", ""))


def _check_version(response: Any, what: str, of: FileHead) -> None:
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


def _is_public_address(address: str) -> bool:
    """Whether an address is on the open network."""
    return ipaddress.ip_address(address.partition("%")[0]).is_global


def _status(response: Any) -> str:
    return one_line(f"{response.status} {response.reason}")
