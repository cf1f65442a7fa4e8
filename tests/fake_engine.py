"""A process that behaves like an engine: HTTP on a Unix socket, a worker child, words on stdout.

Run as `python fake_engine.py SOCKET MODE [DIRECTORY…]`; modes: serve, stubborn, die, silent. Uses
the standard library alone, as it runs in the bootstrap's interpreter.
"""

import json
import os
import resource
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = False


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def address_string(self):
        return "unix"

    def do_GET(self):
        self._whole(200, b"")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/where":
            return self._whole(200, json.dumps(surroundings()).encode())
        if "status" in body:
            return self._whole(body["status"], b'{"error": "CANARY"}')
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(body.get("events", 3)):
            self._chunk(b'data: {"n": %d}\n\n' % number)
            time.sleep(body.get("pause", 0))
        if body.get("done", True):
            self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")
        return None

    def _whole(self, status, body):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


def surroundings():
    """Report what this process sees, so that tests can compare it with what was asked for."""
    status = Path("/proc/self/status").read_text()
    devices = Path("/proc/net/dev").read_text().splitlines()[2:]
    return {
        "pid": os.getpid(),
        "environment": dict(os.environ),
        "cwd": str(Path.cwd()),
        "umask": os.umask(0o077),
        "core": list(resource.getrlimit(resource.RLIMIT_CORE)),
        "devices": [line.split(":")[0].strip() for line in devices],
        "processes": sorted(int(name) for name in names("/proc") if name.isdigit()),
        "shm": names("/dev/shm"),
        "listing": {path: names(path) for path in sys.argv[3:]},
        "capabilities": [line.split()[1] for line in status.splitlines() if line.startswith("Cap")],
        "no_new_privileges": "NoNewPrivs:\t1" in status,
        "loopback": _loopback(),
    }


def names(path):
    return sorted(entry.name for entry in Path(path).iterdir())


def _loopback():
    with socket.socket() as listening, socket.socket() as calling:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        calling.settimeout(2)
        try:
            calling.connect(listening.getsockname())
        except OSError:
            return False
        return True


def main():
    path, mode = sys.argv[1:3]
    print("INFO 11-25 08:00:00 [fake_engine.py:1] CANARY in a log message", flush=True)
    print("a line of CANARY text", flush=True)
    if mode == "die":
        print('  File "/opt/venv/fake_engine.py", line 77, in load', flush=True)
        print("ValueError: CANARY", flush=True)
        sys.exit(3)
    # a worker that does not listen to SIGTERM, in a session of its own
    code = "import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    worker = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], start_new_session=True)
    Path("/dev/shm", f"psm_fake_{os.getpid()}").write_bytes(b"ring")
    if mode == "silent":
        time.sleep(600)
    server = Server(path, Answers)

    def finish(number, frame):
        if mode != "stubborn":
            worker.kill()
            threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, finish)
    server.serve_forever(poll_interval=0.05)
    server.server_close()  # waits for open streams


if __name__ == "__main__":
    main()
