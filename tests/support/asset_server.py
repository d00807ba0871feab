"""A small web server for the download tests: one file under any path, with the faults that a test asks for."""

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """What the server offers, how it fails, and which requests it saw: (path, Range or None), HEAD left out."""

    def __init__(self, content: bytes):
        self.content = content
        self.etag: str | None = f'"{hashlib.sha256(content).hexdigest()}"'
        self.headers: dict[str, str] = {}  # besides the usual ones
        self.knows_ranges = True
        self.cuts: list[int] = []  # bytes after which each next answer breaks off
        self.status = 200
        self.redirects: dict[str, str] = {}  # path -> path
        self.seen: list[tuple[str, str | None]] = []
        self.address = ""


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        site = self.server.site
        site.seen.append((self.path, self.headers["Range"]))
        self.answer()

    def do_HEAD(self):
        self.answer(body=False)

    def answer(self, body=True):
        site = self.server.site
        if self.path in site.redirects:
            self.start(302, 0, Location=site.redirects[self.path])
        elif site.status != 200:
            self.start(site.status, 0)
        else:
            self.send_content(body)

    def send_content(self, body):
        site, first = self.server.site, 0
        size = len(site.content)
        same = self.headers["If-Range"] in (None, site.etag, site.headers.get("Last-Modified"))
        if site.knows_ranges and self.headers["Range"] and same:
            first = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if first >= size:
                return self.start(416, 0, **{"Content-Range": f"bytes */{size}"})
        ranged = {"Content-Range": f"bytes {first}-{size - 1}/{size}"} if first else {}
        self.start(206 if first else 200, size - first, **ranged)
        if body:
            cut = site.cuts.pop(0) if site.cuts else size
            self.wfile.write(site.content[first : first + cut])
            self.close_connection = True

    def start(self, status, length, **headers):
        site = self.server.site
        self.send_response(status)
        named = {"ETag": site.etag} if site.etag else {}
        for name, value in {"Content-Length": length, **named, **site.headers, **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()

    def log_message(self, *arguments):
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        pass  # a client that refuses the offer hangs up


@contextmanager
def serve(content: bytes):
    """A site at `.address` on this machine."""
    server = _Server(("127.0.0.1", 0), _Answer)
    server.site = Site(content)
    server.site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
