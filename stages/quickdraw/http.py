"""Files on a web server, read over HTTP or HTTPS with range requests.

Every response is checked: its status, the bytes it claims to send, its length, and the version of the file. A redirect
is not followed from the public internet into a private network, nor from https to http.
"""

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
from stages.quickdraw.file_server import (
    BLOCK_BYTES,
    MAX_CONNECTIONS,
    AccessDenied,
    FileHead,
    FileServer,
    describe_error,
)
from stages.quickdraw.retry import RetryableError, RetryPolicy, retry_after

MAX_LISTING_BYTES = 4 << 20  # of a page that lists files
MAX_REDIRECTS = 5


class HttpServer(FileServer):
    """A web server, reached over connections that are reused."""

    def __init__(self, address: str, retry_policy: RetryPolicy) -> None:
        super().__init__(address, retry_policy)
        self._parts = urlsplit(self.address)
        # aiohttp can find the system's proxy itself, but then reads ~/.netrc in another thread for each request.
        self._proxy = _find_proxy(self._parts)
        proxy = _host_and_port(urlsplit(self._proxy)) if self._proxy else None
        self._resolver = _SafeResolver(_host_and_port(self._parts), proxy)

    async def __aenter__(self) -> HttpServer:
        import aiohttp

        policy = self.retry_policy
        self._stream_timeout = aiohttp.ClientTimeout(
            None, sock_connect=policy.connect_timeout, sock_read=policy.read_timeout
        )
        self._request_timeout = aiohttp.ClientTimeout(
            policy.request_timeout, sock_connect=policy.connect_timeout, sock_read=policy.read_timeout
        )
        resolver: Any = self._resolver  # not a subclass of aiohttp's resolver: defining one would import aiohttp
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ttl_dns_cache=300, resolver=resolver),
            headers={"Accept-Encoding": "identity", "User-Agent": "quickdraw-pixelcnn"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        # Limits the requests, so that the wait for a free connection does not count against a request's timeout.
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._session.close()

    def display_url(self, name: str) -> str:
        """The URL of a class's file without user name, password and query."""
        return f"{without_secrets(self.address)}/{self.file_name(name)}"

    async def names(self) -> list[str]:
        """The names of the `.npy` files linked from the page that many servers send for a folder."""
        display_url = self.display_url("*")
        try:
            async with self._slots, self._request(self._url(""), display_url, {}) as response:
                if response.status != 200 or response.content_type != "text/html":
                    return []
                page = await self._body(response, MAX_LISTING_BYTES, display_url, exact=False)
        except AccessDenied:
            return []
        folder = f"{self._parts.path}/"
        names = set()
        for link in re.findall(r"""href\s*=\s*["']([^"'?#]+\.npy)["']""", page.decode("utf-8", "replace")):
            with suppress(ValueError):  # the link is not a valid URL
                path = unquote(urlsplit(urljoin(folder, html.unescape(link))).path)
                if path.startswith(unquote(folder)) and "/" not in (file := path[len(unquote(folder)) :]):
                    names.add(file[: -len(".npy")])
        return sorted(names)

    async def _read_head(self, name: str) -> FileHead | None:
        """Request the range at the start of a class's file. The response shows whether the server accepts ranges."""
        display_url = self.display_url(name)
        headers = _range_header(0, npy_header.MAX_HEADER_BYTES)
        async with self._slots, self._request(self._file_url(name), display_url, headers) as response:
            if response.status in (404, 410):
                return None
            if response.status == 416:  # an empty file has no byte to send
                return FileHead(0, _version(response), True, b"")
            size = self._size(response, display_url)
            length = min(size, npy_header.MAX_HEADER_BYTES)
            if response.status == 206:
                self._check_range(response, display_url, 0, length, size)
                return FileHead(size, _version(response), True, await self._body(response, length, display_url))
            content = b""
            while len(content) < length and (block := await response.content.read(length - len(content))):
                content += block
            if len(content) < length:
                raise RetryableError(f"{display_url}: the response broke off")
            return FileHead(size, _version(response), False, content)

    async def read(self, name: str, start: int, stop: int, head: FileHead) -> bytes:
        """Request one range: servers handle several ranges in one request in different ways."""
        display_url = self.display_url(name)
        async with (
            self._slots,
            self._request(self._file_url(name), display_url, _range_header(start, stop)) as response,
        ):
            if response.status != 206:
                raise self._status_error(response, display_url)
            self._check_range(response, display_url, start, stop, head.size)
            _check_version(response, display_url, head)
            return await self._body(response, stop - start, display_url)

    async def stream(self, name: str, start: int, head: FileHead) -> AsyncGenerator[bytes, None]:
        """Read a class's file from byte `start` to its end.

        A server that ignores ranges sends the bytes before `start` too; they are discarded.
        """
        display_url = self.display_url(name)
        headers = _range_header(start, head.size) if start else {}
        async with self._slots, self._request(self._file_url(name), display_url, headers, streaming=True) as response:
            if response.status == 206:
                self._check_range(response, display_url, start, head.size, head.size)
            elif response.status == 200:
                if (size := self._size(response, display_url)) != head.size:
                    raise StageError(f"{display_url} has {size:,} bytes, expected {head.size:,}: it has changed")
            else:
                raise self._status_error(response, display_url)
            _check_version(response, display_url, head)
            position = start if response.status == 206 else 0
            async for block in response.content.iter_chunked(BLOCK_BYTES):
                if position + len(block) > head.size:
                    raise RetryableError(f"{display_url}: the response is longer than its stated length")
                if position + len(block) > start:
                    yield block[max(start - position, 0) :]
                position += len(block)
            if position < head.size:
                raise RetryableError(f"{display_url}: the response broke off after {position:,} of {head.size:,} bytes")

    def _url(self, file: str) -> str:
        parts = self._parts
        return urlunsplit((parts.scheme, parts.netloc, f"{parts.path}/{file}", parts.query, ""))

    def _file_url(self, name: str) -> str:
        return self._url(quote(self.file_name(name)))

    @asynccontextmanager
    async def _request(
        self, url: str, display_url: str, headers: dict[str, str], streaming: bool = False
    ) -> AsyncIterator[Any]:
        """Send a GET request, follow safe redirects, and yield the response.

        Its status is 200, 206, 404, 410 or 416; any other status and all failures raise.

        Args:
          streaming: do not limit the total time of the response.
        """
        import aiohttp

        timeout = self._stream_timeout if streaming else self._request_timeout
        try:
            for _ in range(MAX_REDIRECTS + 1):
                async with await self._get(url, display_url, headers, timeout) as response:
                    if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                        url = await self._redirected(url, response.headers["Location"], display_url)
                        continue
                    if response.status in (408, 429) or response.status >= 500:
                        raise self._status_error(response, display_url)
                    if response.status not in (200, 206, 404, 410, 416):
                        raise AccessDenied(f"{display_url}: the server refused the request ({_status(response)})")
                    if response.headers.get("Content-Encoding", "identity") != "identity":
                        raise StageError(
                            f"{display_url}: the server sends it compressed, although the request forbids that"
                        )
                    yield response
                    return
            raise StageError(f"{display_url}: redirected more than {MAX_REDIRECTS} times")
        except asyncio.TimeoutError:
            raise RetryableError(f"{display_url}: timed out") from None
        except aiohttp.ClientResponseError as error:  # str(error) would show the full URL with its signature
            raise RetryableError(f"{display_url}: {error.status} {describe_error(error.message)}") from None
        except aiohttp.ClientError as error:
            raise RetryableError(f"{display_url}: {describe_error(error)}") from None

    async def _get(self, url: str, display_url: str, headers: dict[str, str], timeout: Any) -> Any:
        """The response to one GET request, of any status."""
        from yarl import URL

        try:
            return await self._session.get(
                URL(url, encoded=True), headers=headers, allow_redirects=False, timeout=timeout, proxy=self._proxy
            )
        except ValueError:  # from yarl, aiohttp, or the codec of host names
            raise StageError(f"{display_url}: not a valid URL") from None

    async def _redirected(self, url: str, location: str, display_url: str) -> str:
        """The target of a redirect.

        Raises:
          StageError: the target is invalid, in a private network while the mirror is public, or neither https nor of
            the scheme of `url`.
          RetryableError: the target's host is unknown.
        """
        try:
            target = quote(urljoin(url, location), safe="%/:=&?~#+!$,;'@()*[]")  # some servers send spaces
            parts = urlsplit(target)
            host, port = _host_and_port(parts)
        except ValueError:
            raise StageError(f"{display_url}: redirected to an invalid address") from None
        if parts.scheme != "https" and parts.scheme != urlsplit(url).scheme:
            raise StageError(f"{display_url}: redirected to {parts.scheme}://, which is not followed")
        if parts.netloc != self._parts.netloc:
            try:
                await self._resolver.resolve_target(host, port)
            except PermissionError:
                into = f"into a private network ({one_line(host)})"
                raise StageError(f"{display_url}: redirected {into}, which is not followed") from None
            except OSError as error:
                if not self._proxy:  # a proxy may know hosts that this machine does not
                    raise RetryableError(
                        f"{display_url}: redirected to {one_line(host)}: {describe_error(error)}"
                    ) from None
        return target

    def _status_error(self, response: Any, display_url: str) -> RetryableError | StageError:
        """The error for a response of an unexpected status."""
        wait = retry_after(response.headers.get("Retry-After"))
        if response.status in (408, 429) or response.status >= 500:
            message = f"{display_url}: the server answered {_status(response)}"
            return RetryableError(message, throttled=response.status in (429, 503), retry_after=wait)
        if response.status == 416:
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            return StageError(f"{display_url} now has {total or 'fewer'} bytes: it has changed")
        if response.status == 200:
            return RetryableError(f"{display_url}: the server ignored the range and sent the whole file")
        return StageError(f"{display_url} no longer exists ({response.status})")

    def _size(self, response: Any, display_url: str) -> int:
        """The size of the whole file in bytes, according to the response."""
        size = response.headers.get("Content-Length", "")
        if response.status == 206:
            size = response.headers.get("Content-Range", "").rpartition("/")[2]
        if not re.fullmatch(r"[0-9]{1,19}", size):
            raise StageError(f"{display_url}: the server does not say how large the file is")
        return int(size)

    def _check_range(self, response: Any, display_url: str, start: int, stop: int, size: int) -> None:
        """Raise if the response holds other bytes than requested, or the file has another size."""
        content_range = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19})", content_range.strip())
        if not match:
            raise RetryableError(
                f"{display_url}: the server sends a part without a valid Content-Range ({content_range[:60]!r})"
            )
        first, last, total = map(int, match.groups())
        if total != size:
            raise StageError(f"{display_url} has {total:,} bytes, expected {size:,}: it has changed")
        if (first, last) != (start, stop - 1):
            raise RetryableError(
                f"{display_url}: the server sent the wrong bytes ({content_range[:60]}), expected {start}-{stop - 1}"
            )
        length = response.headers.get("Content-Length", str(stop - start))
        if length != str(stop - start):
            raise RetryableError(f"{display_url}: the server sent {length[:20]} bytes, expected {stop - start}")

    async def _body(self, response: Any, length: int, display_url: str, exact: bool = True) -> bytes:
        """The body of a response: `length` bytes, or at most that many if `exact` is False."""
        body = bytearray()
        async for block in response.content.iter_any():
            body += block
            if len(body) > length:
                raise RetryableError(f"{display_url}: the response is longer than {length} bytes")
        if exact and len(body) < length:
            raise RetryableError(f"{display_url}: the response broke off after {len(body)} of {length} bytes")
        return bytes(body)


class _SafeResolver:
    """A resolver for aiohttp that refuses private addresses for the targets of redirects.

    The check is repeated for every connection. A single check before a redirect is followed is not enough, because the
    host name may resolve to other addresses when the connection is made (DNS rebinding).

    Args:
      mirror: the host and port of the mirror, to which any address is allowed.
      proxy: the host and port of the proxy, likewise; None without a proxy.
    """

    def __init__(self, mirror: tuple[str, int], proxy: tuple[str, int] | None) -> None:
        self._mirror, self._proxy = mirror, proxy
        self._mirror_addresses: set[str] = set()  # all that the mirror's host has ever had

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[Any]:
        """The addresses of a host, in aiohttp's format.

        Raises:
          PermissionError: as `resolve_target`.
          OSError: the host is unknown.
        """
        target = host.lower(), port
        if target not in (self._mirror, self._proxy):
            return await self.resolve_target(host, port, family)
        addresses = await self._look_up(host, port, family)
        if target == self._mirror:
            self._mirror_addresses.update(address["host"] for address in addresses)
        return addresses

    async def resolve_target(self, host: str, port: int, family: int = socket.AF_UNSPEC) -> list[Any]:
        """The addresses of the target of a redirect, in aiohttp's format.

        Raises:
          PermissionError: one of them is in a private network, and the mirror's host is unknown or has had a public
            address.
          OSError: the host is unknown.
        """
        addresses = await self._look_up(host, port, family)
        if not all(_is_public_address(address["host"]) for address in addresses):
            # The mirror may not have been resolved yet: behind a proxy, or if its URL has a number for a host.
            with suppress(OSError):
                await self.resolve(*self._mirror)
            if not self._mirror_addresses or any(map(_is_public_address, self._mirror_addresses)):
                raise PermissionError(errno.EACCES, "a redirect leads into a private network")
        return addresses

    async def close(self) -> None:
        """Do nothing. aiohttp requires the method."""

    async def _look_up(self, host: str, port: int, family: int) -> list[Any]:
        try:
            entries = await asyncio.get_running_loop().getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        except UnicodeError:
            raise OSError(errno.EINVAL, "not the name of a host") from None
        return [
            {"hostname": host, "host": str(address[0]), "port": port, "family": kind, "proto": protocol, "flags": 0}
            for kind, _, protocol, _, address in entries
        ]


def _range_header(start: int, stop: int) -> dict[str, str]:
    return {"Range": f"bytes={start}-{stop - 1}"}


def _version(response: Any) -> str:
    """The version of the file: its ETag, or Last-Modified if the ETag is missing or weak.

    A weak ETag may stay the same when bytes change.
    """
    tag = response.headers.get("ETag", "")
    return str(tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", ""))


def _check_version(response: Any, display_url: str, head: FileHead) -> None:
    if (version := _version(response)) != head.version and version and head.version:
        raise StageError(f"{display_url} changed while it was read")


def _host_and_port(parts: SplitResult) -> tuple[str, int]:
    """The host and the port of a URL, with the scheme's default port."""
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _find_proxy(parts: SplitResult) -> str | None:
    """The URL of the proxy that the environment names for a URL. Without a scheme it is an HTTP proxy, as for curl."""
    if not (proxy := getproxies().get(parts.scheme)) or proxy_bypass(parts.hostname or ""):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        if urlsplit(proxy).scheme in ("http", "https") and _host_and_port(urlsplit(proxy))[0]:
            return proxy
    except ValueError:
        pass
    raise StageError(f"source: the proxy in {parts.scheme}_proxy cannot be used; expected: an http:// or https:// URL")


def _is_public_address(address: str) -> bool:
    """Whether an IP address is on the public internet."""
    return ipaddress.ip_address(address.partition("%")[0]).is_global


def _status(response: Any) -> str:
    return one_line(f"{response.status} {response.reason}")
