"""Following what becomes of guests, on the stream that tells of tasks."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from cloner.callers import USER, Caller
from cloner.control.events import _event_of_guest
from cloner.hypervisor.infos import DomainInfo
from cloner.model.feed import GuestChange
from cloner.model.guests import Guest, read_guest
from support.answers import cloned, refusal
from support.server import MOUNT_POINT, Server

KIMCHI = "xmlns:k='https://github.com/kimchi-project/kimchi'"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(None, tmp_path_factory.mktemp("state")) as running:
        yield running


@contextmanager
def told(server: Server, query: str) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
    """Name and data of each event of a stream that is open."""
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    with closing(connection):
        connection.request("GET", f"{MOUNT_POINT}/events{query}", headers={"Authorization": f"Bearer {server.token}"})
        answer = connection.getresponse()
        answer.readline()  # how soon to come again: from now on everything is told
        yield _events(answer)


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in answer:
        key, _, value = line.decode().rstrip("\n").partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            yield name, json.loads(value)


def test_a_guest_that_is_new_or_starts_or_goes_is_told_of(server: Server) -> None:
    with told(server, "?guests=true") as events:
        of_guests = ((name, data) for name, data in events if name not in ("task", "guests"))
        made = cloned(server, "vms/web")["name"]
        name, guest = next(of_guests)
        assert (name, guest) == ("guest", server.request("GET", f"vms/{made}").json)
        server.request("POST", f"vms/{made}/start")
        assert [(name, data["state"]) for name, data in [next(of_guests)]] == [("guest", "running")]
        other = cloned(server, "vms/web")["name"]
        assert next(of_guests)[1]["name"] == other
        server.request("DELETE", f"vms/{other}")
        assert [(name, data["name"]) for name, data in [next(of_guests)]] == [("guest-removed", other)]


def test_who_does_not_ask_for_guests_is_told_of_tasks_alone(server: Server) -> None:
    with told(server, "") as events:
        task = cloned(server, "vms/web")["id"]
        seen = []
        for name, data in events:
            seen.append(name)
            if data.get("id") == task and data["status"] == "finished":
                break
    assert set(seen) == {"task"}


@pytest.mark.parametrize("value", ["", "1", "yes", "true&guests=true"])
def test_the_flag_is_true_or_false(server: Server, value: str) -> None:
    assert refusal(server.request("GET", f"events?guests={value}")) == (400, "CLNAPI0004E")


def guest(*users: str) -> Guest:
    access = "".join(f"<user>{user}</user>" for user in users)
    xml = (
        f"<domain {KIMCHI}><name>web</name><memory>1</memory>"
        f"<metadata><k:metadata><access>{access}</access></k:metadata></metadata></domain>"
    )
    return read_guest(DomainInfo("web", "u", "shutoff", xml, persistent=True, autostart=False, saved_state=False))


@pytest.mark.parametrize(
    ("before", "now", "names"),
    [
        (None, guest("ann"), ["guest"]),
        (None, guest("bob"), []),
        (guest("bob"), guest("bob"), []),
        (guest("ann"), guest("bob"), ["guest-removed"]),
        (guest("ann"), None, ["guest-removed"]),
        (guest("bob"), None, []),
        (None, None, ["guests"]),
    ],
)
def test_a_user_is_told_of_what_is_there_for_them(before: Guest | None, now: Guest | None, names: list[str]) -> None:
    pieces = _event_of_guest(GuestChange(before, now), Caller("ann", role=USER))
    assert [piece.decode().partition("\n")[0] for piece in pieces] == [f"event: {name}" for name in names]
