"""The access matrix: every route of the server's own document × everybody who may ask, and what they get.

A route without a line in the tables below fails. What is asked for was made by a user: guest, task and batch; who only
sees things, sees a guest that an admin made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from cloner.callers import ADMIN, CLONE, READ
from cloner.engine.journal import Journal
from cloner.engine.tokens import Tokens
from support import people
from support.people import STRANGER, USER
from support.server import MOUNT_POINT, Server

OK, ACCEPTED, GONE, REFUSED = 200, 202, 204, 400
NOT_LOGGED_IN, FORBIDDEN, NOT_THERE = 401, 403, 404

ALL = (OK, OK, OK, OK, OK, OK)
ADMINS = (NOT_THERE, NOT_THERE, NOT_THERE, OK, OK, OK)

ROUTES = {
    #                                             stranger, who sees, who made it, clone token, read token, admin
    "GET P/vms": ALL,
    "GET P/vms/{name}": (NOT_THERE, OK, OK, OK, OK, OK),
    "POST P/vms/{name}/clone": (NOT_THERE, ACCEPTED, ACCEPTED, ACCEPTED, FORBIDDEN, ACCEPTED),
    "POST P/vms/{name}/start": (NOT_THERE, FORBIDDEN, OK, FORBIDDEN, FORBIDDEN, OK),
    "DELETE P/vms/{name}": (NOT_THERE, FORBIDDEN, GONE, FORBIDDEN, FORBIDDEN, GONE),
    "GET P/storagepools": ADMINS,
    "GET P/storagepools/{pool}": ADMINS,
    "GET P/storagepools/{pool}/storagevolumes": ADMINS,
    "GET P/storagepools/{pool}/storagevolumes/{name}": ADMINS,
    "POST P/storagepools/{pool}/storagevolumes/{name}/clone": (*ADMINS[:3], ACCEPTED, FORBIDDEN, ACCEPTED),
    "GET P/tasks": ALL,
    "GET P/tasks/{id}": (NOT_THERE, NOT_THERE, OK, OK, OK, OK),
    "DELETE P/tasks/{id}": (NOT_THERE, NOT_THERE, GONE, FORBIDDEN, FORBIDDEN, GONE),
    "GET P/batches/{id}": (NOT_THERE, NOT_THERE, OK, OK, OK, OK),
    "DELETE P/batches/{id}": (NOT_THERE, NOT_THERE, ACCEPTED, FORBIDDEN, FORBIDDEN, ACCEPTED),
    "GET P/events": ALL,
    "GET P/config": ALL,
    "GET P/openapi.json": ALL,
    "GET /metrics": ADMINS,
}
"""What those get who come in. Who does not is refused everywhere, and so is what a page of another site has changed."""

FOR_EVERYBODY = {
    "GET /docs": OK,
    "GET /livez": OK,
    "GET /readyz": OK,
    "POST /login": REFUSED,  # as it is asked here, without a name
    "POST /logout": OK,
}
BY_ANY_NAME = ("GET /livez", "GET /readyz")
"""What a probe asks for, by whatever name of the host."""

INSIDERS = ("stranger", "who sees", "who made it", "clone token", "read token", "admin")
OUTSIDERS = ("nobody", "expired token", "revoked token", "wrong token")
every_route = pytest.mark.parametrize("route", [*ROUTES, *FOR_EVERYBODY])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("access")
    with Server(people.inventory(folder), folder / "state") as running:
        yield running


@pytest.fixture(scope="module")
def secrets(server: Server) -> Mapping[str, str]:
    """The token of everybody who has one."""
    user = {"who sees": USER, "who made it": USER, "stranger": STRANGER}
    made = {who: people.token(server.state_dir, who.replace(" ", "-"), CLONE, user=name) for who, name in user.items()}
    made |= {f"{scope} token": people.token(server.state_dir, scope, scope) for scope in (CLONE, READ)}
    made["expired token"] = people.token(server.state_dir, "expired", ADMIN, lifetime_s=-1)
    made["revoked token"] = people.token(server.state_dir, "revoked", ADMIN)
    with closing(Journal(f"sqlite:///{server.state_dir}/journal.sqlite")) as journal:
        Tokens(journal).revoke("revoked")
    return made | {"admin": server.token, "wrong token": "cln_" + "x" * 43}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def ask(server: Server, route: str, names: Mapping[str, str], headers: Mapping[str, str]) -> int:
    """The status of an answer. What is asked for may have no end, so that only its beginning is waited for."""
    method, _, path = route.partition(" ")
    place = path.format(**names).replace("P/", f"{MOUNT_POINT}/", 1) if path.startswith("P/") else path
    connection = HTTPConnection(*server.address, timeout=60)
    try:
        connection.request(method, place, headers=dict(headers))
        return connection.getresponse().status
    finally:
        connection.close()


def names_for(server: Server, secrets: Mapping[str, str], route: str, who: str) -> dict[str, str]:
    """What stands for the places of a route's path: something new that USER made; for who only sees, an admin."""
    if "{" not in route:
        return {}
    if "storagepools" in route:
        return {"pool": "default", "name": "web.qcow2"}
    maker = bearer(secrets["admin" if who == "who sees" else "who made it"])
    made = server.request("POST", "vms/db/clone", {"count": 2} if "batches" in route else {}, maker, anonymous=True)
    assert made.status == ACCEPTED, made.text
    tasks = made.json.get("tasks", [made.json])
    for task in tasks:
        server.wait_task(task["id"])
    return {"name": tasks[0]["name"], "id": made.json.get("batch", made.json.get("id")) or tasks[0]["id"]}


# --- The tables ------------------------------------------------------------------------------------------------------


def test_every_route_has_its_line_and_nothing_else_has(server: Server) -> None:
    paths = server.request("GET", "openapi.json").json["paths"]
    served = {f"{method.upper()} {path.replace(MOUNT_POINT, 'P', 1)}" for path in paths for method in paths[path]}
    assert served == ROUTES.keys() | FOR_EVERYBODY.keys()


def test_every_controller_is_in_the_document() -> None:
    """Or a route could be served that the test above does not see."""
    folder = Path(__file__).parents[2]
    sources = [*folder.glob("control/*.py"), *folder.glob("server/*.py")]
    count = sum(source.read_text("utf-8").count("    @route(") for source in sources)
    assert count == len(ROUTES) + len(FOR_EVERYBODY)


# --- The cells -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", INSIDERS)
@pytest.mark.parametrize("route", ROUTES)
def test_who_comes_in_gets_what_is_theirs(server: Server, secrets: Mapping[str, str], route: str, who: str) -> None:
    names = names_for(server, secrets, route, who)
    assert ask(server, route, names, bearer(secrets[who])) == ROUTES[route][INSIDERS.index(who)]


@pytest.mark.parametrize("who", OUTSIDERS)
@every_route
def test_who_does_not_come_in_gets_nothing(server: Server, secrets: Mapping[str, str], route: str, who: str) -> None:
    names = names_for(server, secrets, route, who)
    headers = {} if who == "nobody" else bearer(secrets[who])
    assert ask(server, route, names, headers) == FOR_EVERYBODY.get(route, NOT_LOGGED_IN)


@pytest.mark.parametrize("sign", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}], ids=str)
@every_route
def test_a_page_of_another_site_changes_nothing(
    server: Server, secrets: Mapping[str, str], route: str, sign: dict[str, str]
) -> None:
    names = names_for(server, secrets, route, "admin")
    may = FOR_EVERYBODY.get(route) or ROUTES[route][INSIDERS.index("admin")]
    status = ask(server, route, names, {**bearer(server.token), **sign})
    assert status == (may if route.startswith("GET ") else FORBIDDEN)


@every_route
def test_by_another_name_nothing_is_there(server: Server, secrets: Mapping[str, str], route: str) -> None:
    names = names_for(server, secrets, route, "admin")
    status = ask(server, route, names, {**bearer(server.token), "Host": "evil.example"})
    assert status == (OK if route in BY_ANY_NAME else FORBIDDEN)
