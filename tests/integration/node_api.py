"""Asks a node's API over its UNIX socket, without any verb between.

    answer = ask("/run/sublet/sublet.sock", "GET", "/v1/status")
    answer.status, answer.type, answer.text
"""

import http.client
import socket
import typing


class Answer(typing.NamedTuple):
    status: int
    type: str
    text: str


class _Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path, method, target, body=None):
    connection = _Connection(str(path))
    try:
        connection.request(method, target, body=body)
        response = connection.getresponse()
        return Answer(response.status, response.getheader("Content-Type", ""),
                      response.read().decode())
    finally:
        connection.close()
