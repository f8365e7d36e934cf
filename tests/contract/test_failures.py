"""What goes wrong inside: an unforeseen error, a copy that fails, a cancel.

The application runs in this process, so that a disk can be made to fail and a copy to wait. Everything else is real.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from email.message import Message
from pathlib import Path
from typing import Any
from unittest import mock

import cherrypy
import pytest

from cloner import context, errors
from cloner.callers import ANYBODY
from cloner.clock import wall_clock
from cloner.engine.copying import ThroughLibvirt
from cloner.engine.job import Job
from cloner.engine.journal import Journal
from cloner.engine.lease import Lease
from cloner.engine.ledger import Ending, Ledger
from cloner.engine.plan import Copy
from cloner.engine.records import FINISHED, RUNNING
from cloner.hypervisor.inventory import Inventory
from cloner.model.gone import GoneClones
from cloner.model.vms import VMsModel
from cloner.plugin import Cloner
from cloner.settings import Settings, demo_uri
from support.answers import error_code, refusal
from support.running import wait_until
from support.server import MOUNT_POINT, Response, Server

HOUR_US = 3_600_000_000
REFERENCE = re.compile(r"CLN0001E: .* reference ([0-9a-f]{12})$")


class Application:
    """The plugin as CherryPy mounts it, called without a socket, by somebody who may do everything."""

    def __init__(self, plugin: Cloner) -> None:
        self.plugin = plugin
        settings = plugin.get_custom_conf()
        settings["/"]["hooks.on_start_resource"] = _let_in
        self._wsgi = cherrypy.Application(plugin, MOUNT_POINT, settings)

    def request(self, method: str, path: str, **fields: object) -> Response:
        body = json.dumps(fields).encode()
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": f"{MOUNT_POINT}/{path}",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "localhost",
            "wsgi.url_scheme": "http",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
        }
        answer: list[Any] = []
        parts = self._wsgi(environ, lambda status, headers, _=None: answer.extend([status, headers]))
        with closing(parts):  # as a server does when the answer was sent, see PEP 3333: the clones begin then
            content = b"".join(parts)
        message = Message()
        for name, value in answer[1]:
            message[name] = value
        return Response(int(answer[0].split()[0]), message, content)

    def clone(self, source: str, **fields: object) -> str:
        """Have a clone accepted; its task."""
        answer = self.request("POST", f"{source}/clone", **fields)
        assert answer.status == 202, answer.text
        return str(answer.json["id"])

    def task(self, task: str) -> dict[str, Any]:
        shown: dict[str, Any] = self.request("GET", f"tasks/{task}").json
        return shown

    def wait(self, task: str) -> dict[str, Any]:
        wait_until(lambda: self.task(task)["status"] != "running", 20, "the task ends", lambda: str(self.task(task)))
        return self.task(task)

    def everything(self) -> tuple[object, ...]:
        """What the host has, to tell whether something was left behind; with the room that is free and not promised."""
        services = self.plugin.services
        pools = services.host.list_pools()
        with services.journal.transaction() as transaction:
            promised = [transaction.promised(pool.name) for pool in pools]
        return (
            [domain.name for domain in services.host.list_domains()],
            [(pool.name, volume.name) for pool in pools for volume in services.host.list_volumes(pool.name)],
            promised,
            services.journal.reserved(),
        )


def _let_in() -> None:
    cherrypy.serving.request.caller = ANYBODY


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Application]:
    plugin = Cloner(Settings(connect=demo_uri(), state_dir=str(tmp_path)))
    # CherryPy's engine is the process's own; another test may start it.
    cherrypy.engine.unsubscribe("start", plugin.start)
    cherrypy.engine.unsubscribe("stop", plugin.stop)
    plugin.start()
    yield Application(plugin)
    plugin.stop()


def filling(do: Callable[[Copy], object]) -> Any:
    """Do something where a volume, which is made by then, is filled; its copy goes on after it."""
    fill = ThroughLibvirt.fill

    def do_and_fill(method: ThroughLibvirt, copy: Copy, made: Mapping[str, Any], job: Job) -> None:
        do(copy)
        fill(method, copy, made, job)

    return mock.patch.object(ThroughLibvirt, "fill", do_and_fill)


# --- Unforeseen ------------------------------------------------------------------------------------------------------


def test_an_unforeseen_error_is_500_and_its_stack_is_in_the_log_only(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    with mock.patch.object(VMsModel, "get_list", side_effect=RuntimeError("a secret")):
        answer = application.request("GET", "vms")
    assert refusal(answer) == (500, "CLN0001E")
    reference = REFERENCE.search(answer.json["reason"])
    assert reference
    assert "a secret" not in answer.text
    (logged,) = [record for record in caplog.records if reference[1] in record.getMessage()]
    assert logged.levelno == logging.ERROR
    assert logged.exc_info
    assert str(logged.exc_info[1]) == "a secret"
    assert application.request("GET", "vms").status == 200  # and life goes on


def test_each_unforeseen_error_has_a_reference_of_its_own(application: Application) -> None:
    with mock.patch.object(VMsModel, "get_list", side_effect=RuntimeError):
        reasons = {application.request("GET", "vms").json["reason"] for _ in range(3)}
    assert len(reasons) == 3


def test_over_a_real_socket_it_is_the_same(start: Callable[..., Server]) -> None:
    """A row of the journal that nobody could have written."""
    server = start()
    task = server.wait_task(server.request("POST", "vms/web/clone").json["id"])["id"]
    with closing(sqlite3.connect(server.state_dir / "journal.sqlite")) as journal, journal:
        journal.execute("UPDATE tasks SET plan = 'no JSON'")
    answer = server.request("GET", f"tasks/{task}")
    assert refusal(answer) == (500, "CLN0001E")
    reference = REFERENCE.search(answer.json["reason"])
    assert reference
    assert "Traceback" in server.log.partition(reference[1])[2]
    assert server.request("GET", "config").status == 200


def test_an_unforeseen_error_in_a_worker_fails_its_task_and_nothing_else(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    before = application.everything()
    with filling(mock.Mock(side_effect=RuntimeError("a secret"))):
        task = application.wait(application.clone("vms/web"))
    assert task["status"] == "failed"
    reference = REFERENCE.search(task["message"])
    assert reference
    assert "a secret" not in task["message"]
    assert reference[1] in caplog.text
    assert application.everything() == before
    assert application.wait(application.clone("vms/web"))["status"] == "finished"


# --- No libvirt ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose libvirt is not there."""
    with Server("qemu+unix:///system?socket=/no/such/socket", tmp_path_factory.mktemp("lonely")) as server:
        yield server


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "vms"),
        ("GET", "vms/web"),
        ("DELETE", "vms/web"),
        ("POST", "vms/web/clone"),
        ("GET", "storagepools"),
        ("GET", "storagepools/default"),
        ("GET", "storagepools/default/storagevolumes"),
        ("GET", "storagepools/default/storagevolumes/web.qcow2"),
        ("POST", "storagepools/default/storagevolumes/web.qcow2/clone"),
    ],
)
def test_without_libvirt_the_answer_is_503_and_when_to_ask_again(lonely: Server, method: str, path: str) -> None:
    answer = lonely.request(method, path)
    assert refusal(answer) == (503, "CLNVIRT0001E")
    assert int(answer.headers["Retry-After"]) > 0
    assert "/no/such/socket" in answer.json["reason"]


@pytest.mark.parametrize("path", ["tasks", "config", "/"])
def test_what_needs_no_libvirt_is_there_without(lonely: Server, path: str) -> None:
    assert lonely.request("GET", path).status == 200


# --- A copy that fails -----------------------------------------------------------------------------------------------


def test_a_copy_that_fails_at_the_second_disk_leaves_nothing_and_says_why(application: Application) -> None:
    before = application.everything()

    def fail_at_vdb(copy: Copy) -> None:
        if copy.item == "vdb":
            raise errors.StepFailed(cause="cannot extend file '<img src=x>': No space left on device")

    with filling(fail_at_vdb):
        task = application.wait(application.clone("vms/db"))
    assert task["status"] == "failed"
    assert error_code(502, {"code": "502 Bad Gateway", "reason": task["message"]}) == "CLNTASK0001E"
    assert "No space left on device" in task["message"]
    assert "‹img src=x›" in task["message"]
    assert application.everything() == before


@pytest.mark.parametrize("source", ["vms/web", "storagepools/default/storagevolumes/web.qcow2"])
def test_a_name_is_not_markup_in_the_message_of_a_task_that_runs(application: Application, source: str) -> None:
    """In Kimchi's page the name of a volume ran as script."""
    messages: list[str] = []
    with filling(lambda _: messages.append(application.task("1")["message"])):
        assert application.wait(application.clone(source, name="<img src=x onerror=alert(1)>"))["status"] == "finished"
    assert messages
    assert not [message for message in messages if set("<>") & set(message)]


# --- Cancelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["vms/db", "storagepools/default/storagevolumes/web.qcow2"])
def test_a_running_task_is_cancelled_and_everything_it_made_is_gone(application: Application, source: str) -> None:
    before = application.everything()
    made, cancelled = threading.Event(), threading.Event()

    def tell_and_wait(_: Copy) -> None:
        made.set()
        assert cancelled.wait(20)

    with filling(tell_and_wait):
        task = application.clone(source)
        assert made.wait(20)
        answers = [application.request("DELETE", f"tasks/{task}") for _ in range(2)]  # it can be repeated
        cancelled.set()
        ended = application.wait(task)
    assert [(answer.status, answer.json["id"]) for answer in answers] == [(202, task)] * 2
    assert ended["status"] == "killed"
    assert ended["message"].startswith("CLNTASK0003E: ")
    assert application.everything() == before


def test_a_task_that_waits_is_cancelled_before_it_begins(application: Application) -> None:
    go_on = threading.Event()

    with filling(lambda _: go_on.wait(20)):
        tasks = [application.clone("vms/web") for _ in range(6)]  # more than there are workers
        application.request("DELETE", f"tasks/{tasks[-1]}")
        assert application.task(tasks[-1])["status"] == "killed"
        assert {application.task(task)["status"] for task in tasks[:-1]} == {"running"}
        go_on.set()
        assert {application.wait(task)["status"] for task in tasks[:-1]} == {"finished"}
    assert application.request("DELETE", f"tasks/{tasks[-1]}").status == 204


# --- Late events -----------------------------------------------------------------------------------------------------


def test_what_the_server_itself_deleted_is_not_listed_however_late_libvirts_event_is(application: Application) -> None:
    services, take_in, go_on = application.plugin.services, Inventory._take_in, threading.Event()
    wait_until(lambda: services.inventory.entries() is not None, 20, "the inventory is complete")

    def take_in_late(inventory: Inventory[Any], known: Any, uuid: str) -> None:
        if threading.current_thread().name == "inventory":
            go_on.wait(20)
        take_in(inventory, known, uuid)

    with mock.patch.object(Inventory, "_take_in", take_in_late):
        assert application.request("DELETE", "vms/db").status == 204
        listed = [guest["name"] for guest in application.request("GET", "vms").json]
        go_on.set()
    assert listed == ["mail", "web", "win-uefi"]


# --- Ageing out ------------------------------------------------------------------------------------------------------


def test_ended_tasks_age_out_after_their_hours_and_running_ones_never(application: Application) -> None:
    old = Journal(application.plugin.settings.journal_url, clock=lambda: wall_clock() - 13 * HOUR_US)
    younger = Journal(application.plugin.settings.journal_url, clock=lambda: wall_clock() - 11 * HOUR_US)
    ids = {}
    for journal, age in ((old, "old"), (younger, "younger")):
        for status in (FINISHED, RUNNING):
            with journal.transaction() as transaction:
                number = transaction.new_task_id()
                lease = application.plugin.services.lease.id
                ids[age, status] = str(transaction.add_task(number, "volume", "/x", lease, {}).id)
            if status != RUNNING:
                journal.end(number, status, "OK")
        journal.close()
    application.plugin._age_out()
    left = {task["id"] for task in application.request("GET", "tasks").json}
    assert left == set(ids.values()) - {ids["old", FINISHED]}


def test_ageing_out_goes_on_after_the_journal_could_not_be_written(application: Application) -> None:
    """CherryPy's BackgroundTask ends for good at the first exception."""
    with mock.patch.object(Journal, "age_out", side_effect=errors.JournalUnavailable(cause="database is locked")):
        application.plugin._age_out()


def test_housekeeping_goes_on_after_what_nobody_has_foreseen(application: Application) -> None:
    """With that exception, as when the server has too many files open for a moment, it ended until the next start."""
    with application.plugin.services.journal.transaction() as transaction:
        transaction.hold(["/x"], "another server", "started")
    too_many = OSError(errno.EMFILE, "Too many open files")
    with mock.patch.object(Lease, "_opened", side_effect=too_many), mock.patch.object(GoneClones, "sweep") as swept:
        application.plugin._keep_house()
    assert swept.called


def test_with_no_hours_to_keep_them_ended_tasks_are_gone_at_once(tmp_path: Path, application: Application) -> None:
    application.wait(application.clone("vms/web"))
    application.plugin.settings = Settings(connect=demo_uri(), state_dir=str(tmp_path), keep_tasks_hours=0)
    application.plugin._age_out()
    assert application.request("GET", "tasks").json == []


# --- For whom --------------------------------------------------------------------------------------------------------


def test_every_thread_that_makes_a_clone_knows_for_which_request(application: Application) -> None:
    """As inside Wok, whose requests have no id before they get here."""
    seen: list[context.Context] = []
    with filling(lambda _: seen.append(context.current())):
        task = application.wait(application.clone("vms/db"))
    assert len(seen) == 2  # disks, copied side by side
    assert {found.task for found in seen} == {int(task["id"])}
    assert len({found.request_id for found in seen} - {""}) == 1


def test_a_task_is_undone_for_the_request_that_asked_for_it(application: Application) -> None:
    asked: list[context.Context] = []
    undone: list[context.Context] = []
    end = Ledger.fail

    def break_it(_: Copy) -> None:
        asked.append(context.current())
        raise errors.StepFailed(cause="the disk is bad")

    def look_on(ledger: Ledger, ending: Ending) -> None:
        undone.append(context.current())
        if len(undone) == 1:
            raise errors.Busy(what="the pool")  # so that the janitor has to do it
        end(ledger, ending)

    with filling(break_it), mock.patch.object(Ledger, "fail", look_on):
        application.wait(application.clone("vms/web"))
    assert undone == asked * 2
