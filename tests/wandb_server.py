"""A loopback stand-in for W&B's server: enough of its protocol for a run, or one of the ways in which it fails."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROJECT = {"id": "p", "name": "unigen", "entity": {"id": "e", "name": "lab"}}


def answer(query: str, variables: dict, lines: int = 0) -> dict:
    """What W&B's client needs to hear; it does without answers to its other questions.

    `lines` is the number of lines of history that the server has of the run.
    """
    run = {"id": "b", "name": variables.get("name"), "config": "{}", "historyLineCount": lines, "project": PROJECT}
    return {
        "RunResumeStatus": {"model": {**PROJECT, "bucket": None}},
        "UpsertBucket": {"upsertBucket": {"bucket": run, "inserted": True}},
        "CreateRunFiles": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}},
    }.get(query, {})


class Server(ThreadingHTTPServer):
    """`mode` is works, hangs (accepts and never answers), or a status that all requests get; it may change."""

    daemon_threads = True

    def __init__(self, mode: str | int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mode, self.received, self.closing = mode, "", threading.Event()
        self.asked: list[tuple[str, dict]] = []  # questions of GraphQL, with their variables
        self.history: dict[str, list[dict]] = {}  # by run, as W&B keeps it: a file whose lines are written at an offset

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    """Answers in JSON, and says nothing on the terminal."""

    def _answer(self, status: int, value: dict) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: object) -> None:
        """Says nothing."""


class _Handler(Answers):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.mode == "hangs":
            self.server.closing.wait()
            return
        if isinstance(self.server.mode, int):
            self._answer(self.server.mode, {"errors": [{"message": "refused by the test"}]})
        elif self.path == "/graphql":
            asked = json.loads(body)
            name, variables = asked["query"].partition("(")[0].split()[-1], asked.get("variables", {})
            self.server.asked.append((name, variables))
            known = len(self.server.history.get(variables.get("name"), ()))
            self._answer(200, {"data": answer(name, variables, known)})
        else:
            self.server.received += body.decode(errors="replace")
            if self.path.endswith("/file_stream"):
                self._keep(self.path.split("/")[-2], json.loads(body))
            self._answer(200, {})

    do_GET = do_HEAD = do_PUT = do_POST

    def _keep(self, run: str, sent: dict) -> None:
        if file := (sent.get("files") or {}).get("wandb-history.jsonl"):
            lines, kept = [json.loads(line) for line in file["content"]], self.server.history.setdefault(run, [])
            kept[file["offset"] : file["offset"] + len(lines)] = lines


@contextmanager
def serving(mode: str | int = "works") -> Iterator[Server]:
    """The server, for the time of the block."""
    server = Server(mode)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
