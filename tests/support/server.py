"""`cloner serve` as a real process, and a plain HTTP client for it, a connection for each request."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from support import nursery
from support.running import wait_until

MOUNT_POINT = "/plugins/kimchi"
TOKEN = "the-tests-own-token"  # noqa: S105 - a test's password
START_TIMEOUT = 30.0  # seconds
TERMINATE_TIMEOUT = 5.0  # seconds; what the server promises after SIGTERM
KILL_TIMEOUT = 15.0  # seconds; after SIGKILL, which asks nothing of the server
REQUEST_TIMEOUT = 30.0  # seconds
WAIT = 10  # seconds; what one request waits for the end of a task
TASK_TIMEOUT = 60.0  # seconds
SYNC_TIMEOUT = 400.0  # seconds; libvirt has the disk take all of a copy in before it says that it is there
LOG_LINES = 40


@dataclass(frozen=True)
class Response:
    """An HTTP answer; `headers` are looked up in any case."""

    status: int
    headers: Message
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """The body's JSON; ValueError, with the body in it, when it is none."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise ValueError(f"status {self.status}, no JSON: {self.body[:500]!r}") from error


class Server:
    """One `cloner serve`: `with Server(daemon.uri, tmp_path) as server: server.request("GET", "vms")`.

    `uri` is libvirt's, or None for the demo. `args` are further arguments, `env` further variables, `tls` whom a
    client trusts, for one that speaks HTTPS, `prefix` a command that runs the server. It can be
    started again after terminate() or kill(), on the same state directory and a new port.
    """

    is_documented = True
    """Whether every answer has to be as the OpenAPI document of the plugin says."""

    def __init__(
        self,
        uri: str | None,
        state_dir: Path,
        *,
        token: str = TOKEN,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        source = ["--demo"] if uri is None else ["--connect", uri]
        self._argv = [*prefix, sys.executable, "-m", "cloner", "serve", *source, "--port", "0"]
        self._argv += ["--state-dir", str(state_dir.resolve()), *args]
        self._env = {**os.environ, "CLONER_TOKEN": token, **(env or {})}
        self.tls = tls
        self.token = token
        self.state_dir = state_dir
        self.address = ("", 0)
        self.ready_line = ""
        self._process: nursery.Forked | subprocess.Popen[bytes] | None = None
        self._outputs: tuple[_Output, _Output] | None = None  # stdout and stderr

    @property
    def base(self) -> str:
        """The address of the plugin's root, such as http://127.0.0.1:40123/plugins/kimchi."""
        host, port = self.address
        return f"{'https' if self.tls else 'http'}://{host}:{port}{MOUNT_POINT}"

    @property
    def log(self) -> str:
        """All that this start of the server wrote to stderr."""
        return self._outputs[1].text if self._outputs else ""

    @property
    def pid(self) -> int:
        """The server's process id; RuntimeError before the first start."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait for its ready line.

        Raises RuntimeError, with the log's tail, when it ends at once, TimeoutError after START_TIMEOUT.
        """
        if self.running:
            raise RuntimeError("this server is running already")
        self._close_outputs()
        self._outputs = (_Output(), _Output())
        self._process = nursery.spawn(
            self._argv,
            self._env,
            self._outputs[0].fd,
            self._outputs[1].fd,
            cwd="/",  # the repository's folders must not be importable by their bare names
            start_new_session=True,
        )
        wait_until(self._is_ready, START_TIMEOUT, "the server prints its ready line", self._log_tail)

    def terminate(self) -> int:
        """SIGTERM; the exit code. TimeoutError, with the log's tail, after TERMINATE_TIMEOUT."""
        return self._end(signal.SIGTERM, TERMINATE_TIMEOUT)

    def kill(self) -> int:
        """SIGKILL of the server alone, as a crash would: what it started runs on."""
        return self._end(signal.SIGKILL, KILL_TIMEOUT)

    def close(self) -> None:
        """End the server and whatever of its session is left; can be repeated. The log stays readable."""
        try:
            if self.running:
                self.terminate()
        finally:
            self._kill_session()
            self._close_outputs()

    def url(self, path: str) -> str:
        """The address of a path: below the plugin's root, or the server's when it starts with a slash."""
        root = self.base.removesuffix(MOUNT_POINT)
        return f"{root}{path}" if path.startswith("/") else f"{self.base}/{path}"

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        anonymous: bool = False,
        timeout: float = REQUEST_TIMEOUT,
    ) -> Response:
        """One request on a connection of its own, with the Bearer token unless `anonymous`.

        `path` as for url(), already quoted. A `body` of str or bytes goes as it is, any other as JSON. Of server-sent
        events the first piece is read. Raises OSError or http.client.HTTPException when there is no answer,
        TimeoutError after `timeout` seconds.
        """
        fields = {} if anonymous else {"Authorization": f"Bearer {self.token}"}
        if body is not None and not isinstance(body, str | bytes):
            body = json.dumps(body)
            fields["Content-Type"] = "application/json"
        data = body.encode() if isinstance(body, str) else body
        target = self.url(path).partition("://")[2].partition("/")[2]
        connection = self._connection(timeout)
        try:
            connection.request(method, f"/{target}", data, {**fields, **(headers or {})})
            answer = connection.getresponse()
            is_endless = answer.headers.get("Content-Type", "").startswith("text/event-stream")
            response = Response(answer.status, answer.headers, answer.read1() if is_endless else answer.read())
        finally:
            connection.close()
        if self.is_documented:
            _check_documented(method, f"/{target}", response)
        return response

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection(*self.address, timeout=timeout)
        return http.client.HTTPSConnection(*self.address, timeout=timeout, context=self.tls)

    def raw(self, data: bytes, timeout: float = REQUEST_TIMEOUT) -> bytes:
        """Send bytes as they are, for malformed requests; all that the server says until it hangs up."""
        with socket.create_connection(self.address, timeout=timeout) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def wait_task(self, task_id: str | int, timeout: float = TASK_TIMEOUT) -> dict[str, Any]:
        """Wait until a task no longer runs; the task. TimeoutError, with the log, after `timeout` s."""
        task: dict[str, Any] = {}

        def ended() -> bool:
            # Seldom more than one request: the server answers when the task has ended, unless it lets too many wait.
            answer = self.request("GET", f"tasks/{task_id}?wait={WAIT}")
            if answer.status != http.client.OK:
                raise RuntimeError(f"tasks/{task_id}: {answer.status} {answer.text}")
            task.update(answer.json)
            return bool(task["status"] != "running")

        wait_until(ended, timeout, f"task {task_id} ends", lambda: f"{task}\n{self._log_tail()}")
        return task

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._kill_session()
            self._close_outputs()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_ready(self) -> bool:
        written = self._outputs[0].text if self._outputs else ""
        self.ready_line, newline, _ = written.partition("\n")
        found = re.search(r"https?://\S+", self.ready_line)
        if newline and found:
            address = urlsplit(found[0])
            self.address = (address.hostname or "", address.port or 0)
            return True
        if not self.running:
            raise RuntimeError(f"the server ended with {self._started().returncode}\n{self._log_tail()}")
        return False

    def _end(self, number: signal.Signals, timeout: float) -> int:
        process = self._started()
        process.send_signal(number)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            message = f"the server outlived {number.name} by {timeout:g} s\n{self._log_tail()}"
            raise TimeoutError(message) from error

    def _kill_session(self) -> None:
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self._process.wait(KILL_TIMEOUT)

    def _close_outputs(self) -> None:
        for output in self._outputs or ():
            output.close()

    def _started(self) -> nursery.Forked | subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("this server was never started")
        return self._process

    def _log_tail(self) -> str:
        return "\n".join(self.log.splitlines()[-LOG_LINES:])


def _check_documented(method: str, target: str, answer: Response) -> None:
    """Raises AssertionError for an answer that the OpenAPI document lacks: whatever a test asks, this is looked at."""
    is_json = "json" in (answer.headers.get("Content-Type") or "") and answer.body
    content = answer.json if is_json else answer.body.decode(errors="replace")
    from support.documented import undocumented  # noqa: PLC0415 - it loads cloner, which inside Wok there is none of

    problem = undocumented(method, target, answer.status, answer.headers, content)
    if problem:
        raise AssertionError(problem)


class _Output:
    """What a process writes, in memory: unlike a pipe it cannot fill up, and it goes by itself (man 2 memfd_create)."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("output")
        self._kept: str | None = None

    @property
    def text(self) -> str:
        """All of it so far; pread leaves the offset, which the process shares, where it is."""
        if self._kept is not None:
            return self._kept
        return os.pread(self.fd, os.fstat(self.fd).st_size, 0).decode(errors="replace")

    def close(self) -> None:
        """Free the memory file and keep its text; can be repeated."""
        if self._kept is None:
            self._kept = self.text
            os.close(self.fd)
