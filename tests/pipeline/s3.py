"""An S3 on the loopback interface, for tests: moto's server, and one that forbids everything."""

import http.server
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# What a client needs to know, as docs/prefect.md says, besides AWS_ENDPOINT_URL.
VARIABLES = {
    "AWS_ACCESS_KEY_ID": "a",
    "AWS_SECRET_ACCESS_KEY": "b",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",  # a client that asks a refused port five times needs seconds
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def moto_server(*buckets: str) -> Iterator[str]:
    """Start moto's server, with these buckets, and yield its URL. Skip the test if it is not installed."""
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    pytest.importorskip("dvc_s3", reason="dvc-s3 is not installed")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        urllib.request.urlopen(
            f"{url}/moto-api/reset", data=b""
        ).close()  # all servers of a process share their buckets
        for bucket in buckets:
            client(url).create_bucket(Bucket=bucket)
        yield url
    finally:
        server.stop()


def client(url: str) -> Any:
    """Amazon's client of the S3 at a URL."""
    return pytest.importorskip("boto3").client(
        "s3", endpoint_url=url, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
    )


class _Forbid(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _forbid(self) -> None:
        body = b"" if self.command == "HEAD" else b"<Error><Code>AccessDenied</Code><Message>No</Message></Error>"
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = _forbid

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def forbidding_server() -> Iterator[str]:
    """Start a server that answers every request with 403, and yield its URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Forbid) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
