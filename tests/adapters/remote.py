"""A server on this machine that speaks as much of LangGraph's API as a RemoteGraph needs."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def graph_server(answer: Callable[[Any], Any]) -> Iterator[tuple[str, list[str]]]:
    """Serve runs whose final state is ``answer(input)``; gives the URL, and the paths asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            paths.append(self.path)
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            state = json.dumps(answer(asked["input"]))
            self.wfile.write(f"event: values\r\ndata: {state}\r\n\r\n".encode())
            self.wfile.write(b"event: end\r\ndata: null\r\n\r\n")

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", paths
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def shouting(state: Any) -> Any:
    """The state of an agent that has answered in blocks, with its reasoning beside."""
    blocks = [
        {"type": "reasoning", "reasoning": "Louder is better."},
        {"type": "text", "text": state["messages"][-1]["content"].upper()},
    ]
    return {"messages": [*state["messages"], {"type": "ai", "content": blocks, "id": "a"}]}
