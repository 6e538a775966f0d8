"""One server process of the demo, on listening sockets that it inherits.

``python -m examples.demo.serve --db sqlite:///shop.db --fd 5 --fd 6``. It stops on SIGTERM, and when its
standard input is closed: then the process that started it is gone.
"""

from __future__ import annotations

import argparse
import os
import socket
import threading

import uvicorn

from examples.shop.app import create_app
from sessiondb import Cookie, SessionDB


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--db", required=True)
    parser.add_argument("--fd", type=int, action="append", required=True)
    arguments = parser.parse_args()
    # The demo runs on plain http, where browsers other than Chromium and Firefox drop a Secure cookie, and so do
    # programs. Behind https leave this out: the default is Secure, with the prefix __Host-.
    app = create_app(SessionDB(arguments.db), cookie=Cookie(secure=False))
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        # A browser that has paused connects anew, so that either process may answer its next page.
        timeout_keep_alive=2,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    threading.Thread(target=stop_when_alone, args=(server,), daemon=True).start()
    server.run(sockets=[socket.socket(fileno=fd) for fd in arguments.fd])


def stop_when_alone(server: uvicorn.Server) -> None:
    """The pipe on standard input ends with the process that holds its other end, however that dies."""
    while os.read(0, 1024):
        pass
    server.should_exit = True


if __name__ == "__main__":
    main()
