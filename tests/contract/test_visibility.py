"""Who sees what: to a user what is not theirs does not exist, and what others made is not theirs to end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cloner.engine.journal import Journal
from support import people
from support.answers import refusal
from support.people import GROUP, SEEN, STRANGER, USER
from support.server import Response, Server

VOLUME = "storagepools/default/storagevolumes/web.qcow2"
NO_POOL, NO_GUEST, NO_TASK = (404, "KCHPOOL0002E"), (404, "KCHVM0002E"), (404, "WOKASYNC0001E")
NOT_YOURS = (403, "CLNAUTH0004E")


class Person:
    """Somebody who asks a server by a token."""

    def __init__(self, server: Server, secret: str) -> None:
        self._server = server
        self.secret = secret
        self._headers = {"Authorization": f"Bearer {secret}"}

    def ask(self, method: str, path: str, body: object = None) -> Response:
        return self._server.request(method, path, body, self._headers, anonymous=True)

    def names(self, path: str = "vms") -> list[str]:
        return [found["name"] for found in self.ask("GET", path).json]

    def cloned(self, guest: str = "web") -> dict[str, Any]:
        """The task of a clone that is there."""
        answer = self.ask("POST", f"vms/{guest}/clone")
        assert answer.status == 202, answer.text
        self._server.wait_task(answer.json["id"])
        task: dict[str, Any] = self.ask("GET", f"tasks/{answer.json['id']}").json
        assert task["status"] == "finished"
        return task


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("people")
    with Server(people.inventory(folder), folder / "state") as running:
        yield running


@pytest.fixture(scope="module")
def user(server: Server) -> Person:
    return Person(server, people.token(server.state_dir, "a-user", user=USER))


@pytest.fixture(scope="module")
def stranger(server: Server) -> Person:
    return Person(server, people.token(server.state_dir, "a-stranger", user=STRANGER))


@pytest.fixture(scope="module")
def program(server: Server) -> Person:
    """A token of scope clone that acts for nobody."""
    return Person(server, people.token(server.state_dir, "a-program"))


@pytest.fixture(scope="module")
def admin(server: Server) -> Person:
    return Person(server, server.token)


def same_but_for_its_name(answer: Response, name: str, other: Response, missing: str) -> bool:
    return (answer.status, answer.text.replace(name, missing)) == (other.status, other.text)


# --- Guests ----------------------------------------------------------------------------------------------------------


def test_a_user_sees_the_guests_that_name_them_or_a_group_of_theirs(user: Person, stranger: Person) -> None:
    assert [name for name in user.names() if "-clone-" not in name] == SEEN[USER]
    assert [name for name in stranger.names() if "-clone-" not in name] == SEEN[STRANGER]


def test_an_admin_and_a_token_that_acts_for_nobody_see_all(admin: Person, program: Person) -> None:
    assert {"db", "mail", "web", "win-uefi"} <= set(admin.names())
    assert {"db", "mail", "web", "win-uefi"} <= set(program.names())


def test_filters_find_nothing_of_what_is_not_there(user: Person) -> None:
    assert user.names("vms?name=win-uefi") == []
    assert user.names("vms?name=.*&users=.*ann") == ["mail"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "vms/{}"), ("HEAD", "vms/{}"), ("POST", "vms/{}/clone"), ("DELETE", "vms/{}")]
)
def test_what_is_not_theirs_does_not_exist(user: Person, method: str, path: str) -> None:
    hidden, missing = (user.ask(method, path.format(name)) for name in ("win-uefi", "nope"))
    assert hidden.status == 404
    assert same_but_for_its_name(hidden, "win-uefi", missing, "nope")


@pytest.mark.parametrize("body", [{"name": "web"}, {"name": "a/b"}, {"pool": "default"}, {"pool": "nope"}])
def test_nor_does_the_rest_of_a_request_tell(user: Person, body: dict[str, str]) -> None:
    hidden, missing = (user.ask("POST", f"vms/{name}/clone", body) for name in ("win-uefi", "nope"))
    assert refusal(hidden) == NO_GUEST
    assert same_but_for_its_name(hidden, "win-uefi", missing, "nope")


# --- Storage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "storagepools/{}"),
        ("GET", "storagepools/{}/storagevolumes"),
        ("GET", "storagepools/{}/storagevolumes/web.qcow2"),
        ("POST", "storagepools/{}/storagevolumes/web.qcow2/clone"),
    ],
)
def test_to_a_user_no_pool_exists(user: Person, method: str, path: str) -> None:
    hidden, missing = (user.ask(method, path.format(name)) for name in ("default", "nope"))
    assert refusal(hidden) == NO_POOL
    assert same_but_for_its_name(hidden, "default", missing, "nope")


def test_nor_is_there_a_list_of_pools(user: Person) -> None:
    assert refusal(user.ask("GET", "storagepools")) == (404, "CLNAPI0001E")


def test_nor_can_a_clone_be_put_into_one(user: Person) -> None:
    hidden, missing = (user.ask("POST", "vms/web/clone", {"pool": name}) for name in ("data", "nope"))
    assert refusal(hidden) == NO_POOL
    assert same_but_for_its_name(hidden, "data", missing, "nope")


def test_for_an_admin_they_are_there(admin: Person, program: Person) -> None:
    for person in (admin, program):
        assert person.names("storagepools") == ["data", "default"]
        assert person.ask("GET", VOLUME).status == 200


# --- Tasks -----------------------------------------------------------------------------------------------------------


def test_a_task_is_there_for_who_asked_for_it_and_for_admins(
    user: Person, stranger: Person, program: Person, admin: Person
) -> None:
    task = user.cloned()
    assert task["owner"] == USER
    for person, is_there in ((user, True), (stranger, False), (program, True), (admin, True)):
        assert (task["id"] in [found["id"] for found in person.ask("GET", "tasks").json]) == is_there
        assert (task["id"] in [found["id"] for found in person.ask("GET", "tasks?status=finished").json]) == is_there
        assert person.ask("GET", f"tasks/{task['id']}").status == (200 if is_there else 404)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_anothers_task_does_not_exist(user: Person, admin: Person, method: str) -> None:
    task = admin.cloned()["id"]
    hidden, missing = user.ask(method, f"tasks/{task}"), user.ask(method, "tasks/999999")
    assert refusal(hidden) == NO_TASK
    assert same_but_for_its_name(hidden, f" {task} ", missing, " 999999 ")
    assert admin.ask("GET", f"tasks/{task}").status == 200


def test_a_task_is_ended_by_who_asked_for_it_and_by_admins(user: Person, program: Person, admin: Person) -> None:
    mine, again = user.cloned(), user.cloned()
    assert refusal(program.ask("DELETE", f"tasks/{mine['id']}")) == NOT_YOURS
    assert user.ask("DELETE", f"tasks/{mine['id']}").status == 204
    assert admin.ask("DELETE", f"tasks/{again['id']}").status == 204


# --- What one made ---------------------------------------------------------------------------------------------------


def test_a_guest_is_deleted_by_who_made_it(program: Person, admin: Person) -> None:
    name = program.cloned()["name"]
    assert program.ask("DELETE", f"vms/{name}").status == 204
    assert refusal(admin.ask("GET", f"vms/{name}")) == NO_GUEST


def test_a_users_clone_is_that_users_alone(user: Person, stranger: Person, admin: Person) -> None:
    """Of `db`, which the user sees by a group that others are in too."""
    name = user.cloned("db")["name"]
    guest = user.ask("GET", f"vms/{name}").json
    assert (guest["users"], guest["groups"]) == ([USER], [])
    assert name in user.names()
    assert refusal(stranger.ask("GET", f"vms/{name}")) == NO_GUEST
    assert admin.ask("GET", f"vms/{name}").status == 200
    assert user.ask("DELETE", f"vms/{name}").status == 204


def test_and_can_be_cloned_and_deleted_by_that_user(user: Person) -> None:
    name = user.cloned()["name"]
    again = user.cloned(name)["name"]
    assert [user.ask("DELETE", f"vms/{each}").status for each in (again, name)] == [204, 204]


def test_an_admins_clone_is_for_whom_its_source_is_for(user: Person, admin: Person, program: Person) -> None:
    for person in (admin, program):
        name = person.cloned("db")["name"]
        guest = user.ask("GET", f"vms/{name}").json
        assert (guest["users"], guest["groups"]) == (["root"], [GROUP])
        assert admin.ask("DELETE", f"vms/{name}").status == 204


def test_not_by_somebody_else_who_may_clone(user: Person, program: Person, admin: Person) -> None:
    name = admin.cloned()["name"]
    for person in (user, program):
        assert refusal(person.ask("DELETE", f"vms/{name}")) == NOT_YOURS
    assert admin.ask("DELETE", f"vms/{name}").status == 204


@pytest.mark.parametrize("body", [{}, {"storage": True}])
def test_what_one_only_sees_is_not_deleted(user: Person, program: Person, body: dict[str, bool]) -> None:
    for person in (user, program):
        assert refusal(person.ask("DELETE", "vms/db", body)) == NOT_YOURS


def test_storage_that_cloner_did_not_make_is_for_admins(program: Person, admin: Person) -> None:
    name = program.cloned()["name"]
    assert refusal(program.ask("DELETE", f"vms/{name}", {"storage": True})) == NOT_YOURS
    assert admin.ask("DELETE", f"vms/{name}", {"storage": True}).status == 204


def test_that_a_guest_is_needed_is_told_without_names_to_all_but_admins(
    user: Person, program: Person, admin: Person
) -> None:
    name = program.cloned()["name"]
    linked = admin.ask("POST", f"vms/{name}/clone", {"method": "linked"}).json
    assert admin_waits(admin, linked["id"])
    needed = program.ask("DELETE", f"vms/{name}")
    assert refusal(needed) == (409, "CLNVM0007E")
    assert linked["name"] in needed.text  # it is there for this token
    assert linked["name"] in admin.ask("DELETE", f"vms/{name}").text
    assert linked["name"] not in user.ask("DELETE", f"vms/{name}").text


def admin_waits(admin: Person, task: str) -> bool:
    return bool(admin._server.wait_task(task)["status"] == "finished")


def test_anothers_batch_does_not_exist(user: Person, stranger: Person, admin: Person) -> None:
    batch = user.ask("POST", "vms/web/clone", {"count": 2}).json["batch"]
    assert user.ask("GET", f"batches/{batch}").json["count"] == 2
    assert admin.ask("GET", f"batches/{batch}").json["count"] == 2
    for method in ("GET", "DELETE"):
        assert refusal(stranger.ask(method, f"batches/{batch}")) == (404, "CLNBATCH0001E")
    assert user.ask("DELETE", f"batches/{batch}", {"undo": True}).status == 202


def test_events_tell_each_of_what_is_theirs(server: Server, user: Person, stranger: Person, admin: Person) -> None:
    mine = user.cloned()
    theirs = stranger.cloned("win-uefi")
    told = {person: people.events(server, person.secret, until=theirs["id"]) for person in (stranger, admin)}
    assert mine["id"] not in told[stranger]
    assert mine["id"] in told[admin]
    assert theirs["id"] not in people.events(server, user.secret, until=mine["id"])


def test_metrics_tell_of_everybody_so_they_are_for_admins(user: Person, program: Person, admin: Person) -> None:
    assert refusal(user.ask("GET", "/metrics")) == (404, "CLNAPI0001E")
    assert (program.ask("GET", "/metrics").status, admin.ask("GET", "/metrics").status) == (200, 200)


def test_after_a_restart_it_is_still_known_whose_a_clone_is(tmp_path: Path) -> None:
    with Server(people.inventory(tmp_path), tmp_path / "state") as server:
        program = Person(server, people.token(server.state_dir, "p"))
        other = Person(server, people.token(server.state_dir, "o"))
        task = program.cloned()
        server.kill()
        server.start()
        assert refusal(other.ask("DELETE", f"tasks/{task['id']}")) == NOT_YOURS
        assert program.ask("DELETE", f"tasks/{task['id']}").status == 204


# --- Limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("max_running_per_user = 1", (429, "CLNLIMIT0001E")), ("max_bytes_per_user = 300000000", (507, "CLNLIMIT0002E"))],
)
def test_who_has_enough_in_the_making_is_told_when_to_come_back(
    tmp_path: Path, setting: str, expected: tuple[int, str]
) -> None:
    conf = tmp_path / "cloner.conf"
    conf.write_text(f"[cloner]\n{setting}\n")
    with Server(people.inventory(tmp_path), tmp_path / "state", args=["--config", str(conf)]) as server:
        with (
            closing(Journal(f"sqlite:///{server.state_dir}/journal.sqlite")) as journal,
            journal.transaction() as open_,
        ):
            task = open_.new_task_id()  # of a server that lives, but that takes for ever
            lease = next((server.state_dir / "servers").iterdir()).name
            open_.promise(task, "default", "x", 200_000_000)
            open_.add_task(task, "domain", "/p/vms/x/clone", lease, {"name": "x"}, owner=USER)
        user = Person(server, people.token(server.state_dir, "u", user=USER))
        answer = user.ask("POST", "vms/web/clone")
        assert refusal(answer) == expected
        assert int(answer.headers["Retry-After"]) > 0
        assert Person(server, server.token).ask("POST", "vms/web/clone").status == 202
