"""A proxy on loopback before an MLflow server, which disturbs what passes: it cuts, delays, answers 5xx and HTML."""

import contextlib
import http.client
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HTML = b"<html><body>The service is being upgraded.</body></html>"


class Proxy(ThreadingHTTPServer):
    """Passes requests on to `upstream`; `disturb(method, path)` names what befalls each: a method of `_Handler`."""

    daemon_threads = True

    def __init__(self, upstream):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.disturb = lambda method, path: "passes"
        self.seen = []

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_error):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A connection that is cut is what is wanted."""

    def during(self, seconds, what):
        """From now on disturb everything so, for some seconds."""
        until = time.monotonic() + seconds
        self.disturb = lambda method, path: what if time.monotonic() < until else "passes"

    def first(self, count, what):
        """Disturb the next requests so, and none after them."""
        left = iter(range(count))
        self.disturb = lambda method, path: "passes" if next(left, None) is None else what


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_words):
        pass

    def handle_one_request(self):
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        what = self.server.disturb(self.command, self.path)
        self.server.seen.append((self.command, self.path, what))
        getattr(self, what)()

    def _answer(self, status, content, kind="application/json", length=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def _upstream(self):
        connection = http.client.HTTPConnection(self.server.upstream, timeout=30)
        with contextlib.closing(connection):
            given = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            connection.request(self.command, self.path, self.body, given)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers.get("Content-Type", "")

    def passes(self):
        self._answer(*self._upstream())

    def is_late(self):
        time.sleep(0.3)
        self.passes()

    def hangs(self):
        time.sleep(60)

    def is_cut(self):
        """It is done, but half of the answer is lost."""
        status, content, kind = self._upstream()
        self._answer(status, content[: len(content) // 2], kind, len(content) + 9)
        self._end()

    def resets(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._end()

    def is_unavailable(self):
        self._answer(503, b'{"error": "try later"}')

    def fails(self):
        self._answer(500, HTML, "text/html")

    def is_html(self):
        self._answer(200, HTML, "text/html")

    def is_not_found(self):
        self._answer(404, HTML, "text/html")

    def _end(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
