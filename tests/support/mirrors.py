"""A web server of bundles that belongs to an attacker: it answers whatever the test says, also without end."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Mirror:
    """What the server answers from now on."""

    url: str
    data: bytes = b""
    endless: bool = False
    """Send `data` again and again, and never end."""
    down: bool = False
    """Answer with an error."""
    asked: int = 0
    most: int = 0
    """Bytes, of the longest answer without an end."""


@contextlib.contextmanager
def mirror() -> Iterator[Mirror]:
    """Run one on a free port of this machine."""
    found = Mirror("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found.asked += 1
            tag = f'"{hashlib.sha256(found.data).hexdigest()}"'
            same = not found.endless and self.headers.get("If-None-Match") == tag
            self.send_response(503 if found.down else 304 if same else 200)
            self.send_header("ETag", tag)
            self.send_header("Content-Type", "application/gzip")
            if found.endless:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self._go_on()
                return
            body = b"" if same or found.down else found.data
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _go_on(self) -> None:
            self.close_connection = True
            chunk, sent = found.data[:65536], 0
            with contextlib.suppress(OSError):
                while found.endless:
                    self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                    sent += len(chunk)
                    found.most = max(found.most, sent)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  as its base has it
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        found.url = f"http://127.0.0.1:{server.server_address[1]}/bundle.tar.gz"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield found
        finally:
            found.endless = False
            server.shutdown()
            thread.join()
