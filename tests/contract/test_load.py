"""Many at once: what Kimchi loses three clones of four to, and half of its connections."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from support.answers import at_once
from support.running import wait_until
from support.server import MOUNT_POINT, Response, Server

MANY = 200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(None, tmp_path_factory.mktemp("load")) as busy:
        yield busy


def wait_until_nothing_runs(server: Server) -> None:
    wait_until(lambda: not server.request("GET", "tasks?status=running").json, 60, "no task runs any more")


def accept_many(server: Server, source: str) -> list[Response]:
    """The answers to 200 requests whose threads are let go at one moment."""
    return at_once(MANY, lambda _: server.request("POST", f"{source}/clone", timeout=60))


def test_200_clones_of_one_guest_at_once(server: Server) -> None:
    answers = accept_many(server, "vms/web")
    assert [answer.status for answer in answers] == [202] * MANY
    names = {answer.json["name"] for answer in answers}
    assert len(names) == len({answer.json["uuid"] for answer in answers}) == MANY
    assert all(re.fullmatch(r"web-clone-\d{16}", name) for name in names)

    wait_until_nothing_runs(server)
    tasks = server.request("GET", f"tasks?status=finished&target_uri={quote('^/plugins/kimchi/vms/.+/clone')}").json
    assert {task["id"] for task in tasks} == {answer.json["id"] for answer in answers}
    assert names | {"db", "mail", "web", "win-uefi"} == {guest["name"] for guest in server.request("GET", "vms").json}
    volumes = server.request("GET", "storagepools/default/storagevolumes?name=web-clone").json
    assert {volume["name"]: volume["used_by"] for volume in volumes} == {f"{name}-vda.qcow2": [name] for name in names}


def test_200_clones_of_one_volume_at_once(server: Server) -> None:
    answers = accept_many(server, "storagepools/default/storagevolumes/web.qcow2")
    assert [answer.status for answer in answers] == [202] * MANY
    names = {answer.json["name"] for answer in answers}
    assert len(names) == MANY
    assert all(re.fullmatch(r"web-clone-\d{16}\.qcow2", name) for name in names)

    wait_until_nothing_runs(server)
    statuses = {server.request("GET", f"tasks/{answer.json['id']}").json["status"] for answer in answers}
    assert statuses == {"finished"}
    volumes = server.request("GET", "storagepools/default/storagevolumes?name=web-clone").json
    assert names <= {volume["name"] for volume in volumes if not volume["used_by"]}


def test_500_connections_at_once_are_all_served(server: Server) -> None:
    """All are opened before any is accepted, since the server is held still: none is refused, none is reset."""
    connections = [http.client.HTTPConnection(*server.address, timeout=60) for _ in range(500)]
    try:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            for connection in connections:
                connection.connect()
        finally:
            os.kill(server.pid, signal.SIGCONT)
        for connection in connections:
            connection.request("GET", f"{MOUNT_POINT}/config", headers={"Authorization": f"Bearer {server.token}"})
        assert {connection.getresponse().status for connection in connections} == {200}
    finally:
        for connection in connections:
            connection.close()


def test_500_connections_that_say_nothing_keep_nobody_out(server: Server) -> None:
    silent = [socket.create_connection(server.address, timeout=60) for _ in range(500)]
    try:
        assert server.request("GET", "config").status == 200
    finally:
        for connection in silent:
            connection.close()
