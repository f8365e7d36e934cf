"""The client's commands against a real server, in a pipe and on a terminal."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cloner.server import cli
from support.client import Done, Running, cloner, environment, fields, on_terminal
from support.scripted import Scripted, answer
from support.server import Server

ESCAPE = "\x1b"
TASK = {"id": "1", "status": "running", "name": "clone", "progress": 0}


SMALL = """
<node>
  <pool type="dir"><name>default</name><target><path>/default</path></target>
    <volume type="file">
      <name>web.raw</name><key>/default/web.raw</key><capacity unit="MiB">1</capacity>
      <target><path>/default/web.raw</path><format type="raw"/></target>
    </volume>
  </pool>
  <domain type="test" xmlns:test="http://libvirt.org/schemas/domain/test/1.0">
    <test:runstate>5</test:runstate><name>web</name><memory>1024</memory><os><type>hvm</type></os>
    <devices><disk type="file"><source file="/default/web.raw"/><target dev="vda"/></disk></devices>
  </domain>
</node>
"""


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Server]:
    """A server with room for many clones, which makes one after the other, so that they take a while."""
    config, inventory = tmp_path / "slow.conf", tmp_path / "small.xml"
    config.write_text("[cloner]\nworkers = 1\n")
    inventory.write_text(SMALL)
    with Server(f"test://{inventory}", tmp_path / "state", args=("--config", str(config))) as server:
        yield server


def names(server: Server) -> set[str]:
    return {guest["name"] for guest in server.request("GET", "vms").json}


def tasks(server: Server, **filters: str) -> list[dict[str, Any]]:
    query = "&".join(f"{field}={value}" for field, value in filters.items())
    found: list[dict[str, Any]] = server.request("GET", f"tasks?{query}").json
    return found


def cloner_in_this_process(server: Server, capsys: pytest.CaptureFixture[str], *args: str) -> Done:
    """A command that ends at once, in a tenth of the time that a process of its own takes."""
    with mock.patch.dict(os.environ, environment(server), clear=True):
        try:
            status = cli.main(args)
        except SystemExit as ended:  # argparse's way
            status = int(ended.code or 0)
    said = capsys.readouterr()
    return Done(status, said.out, said.err)


# --- Lists -----------------------------------------------------------------------------------------------------------


def test_ls_has_a_line_for_each_guest(server: Server) -> None:
    done = cloner(server, "ls")
    assert (done.status, done.err) == (0, "")
    found = {row[0]: row for row in fields(done.out)}
    assert set(found) == names(server)
    assert found["web"] == ["web", "shutoff", "2", "2048", "Web front end"]
    assert cloner(server, "ls", "guests").out == done.out


def test_ls_has_pools_and_their_volumes(server: Server) -> None:
    pools = fields(cloner(server, "ls", "pools").out)
    assert [row[:3] for row in pools] == [["data", "active", "dir"], ["default", "active", "dir"]]
    volumes = {row[0]: row for row in fields(cloner(server, "ls", "volumes", "default").out)}
    assert volumes["web.qcow2"][1:3] == ["qcow2", str(20 << 30)]


@pytest.mark.parametrize(
    ("args", "path"),
    [
        (("ls",), "vms"),
        (("ls", "pools"), "storagepools"),
        (("ls", "volumes", "data"), "storagepools/data/storagevolumes"),
        (("tasks", "--all"), "tasks"),
        (("tasks", "--failed"), "tasks?status=failed"),
    ],
)
def test_json_is_what_the_server_says(server: Server, args: tuple[str, ...], path: str) -> None:
    assert cloner(server, *args, "--json").out == server.request("GET", path).text + "\n"


def test_tasks_are_those_that_run_unless_told_otherwise(server: Server) -> None:
    made = fields(cloner(server, "clone", "web", "--wait").out)[-1][0]
    assert cloner(server, "tasks").out == ""
    assert [row[1] for row in fields(cloner(server, "tasks", "--all").out) if row[3] == made] == ["finished"]


def test_names_that_command_terminals_do_not(start: Callable[..., Server], tmp_path: Path) -> None:
    """What XML has room for, libvirt takes: here a control of eight bits, and one that turns the text around."""
    inventory = tmp_path / "evil.xml"
    inventory.write_text(
        '<node><domain type="test"><name>a\u009b2J\u202eb&lt;i></name><memory>1</memory><os><type>hvm</type></os>'
        "</domain></node>"
    )
    with Server(f"test://{inventory}", tmp_path / "state") as server:
        assert fields(cloner(server, "ls").out)[0][0] == "a�2J�b<i>"
        said = cloner(server, "ls", "--json").out
        assert json.loads(said) == server.request("GET", "vms").json
        assert "\\u009b2J\\u202eb" in said
        shown = on_terminal(server, "ls")[1]
    assert not {"\u009b", "\u202e"} & set(said + shown)


# --- Clones ----------------------------------------------------------------------------------------------------------


def test_clone_prints_the_new_name_and_ends(server: Server) -> None:
    done = cloner(server, "clone", "web")
    assert (done.status, done.err) == (0, "")
    assert re.fullmatch(r"web-clone-\d{16}\n", done.out)
    (task,) = [task for task in tasks(server) if task["name"] == done.out.strip()]
    assert server.wait_task(task["id"])["status"] == "finished"


def test_clone_waits_and_says_how_it_goes(server: Server) -> None:
    done = cloner(server, "clone", "web", "--wait", "--name", "waited-for")
    assert (done.status, done.err) == (0, "")
    rows = fields(done.out)
    assert {row[0] for row in rows} == {"waited-for"}
    assert rows[0][1] == "running"
    assert rows[-1][1:] == ["finished", "100", "OK"]
    assert "waited-for" in names(server)


def test_clones_of_a_batch_are_waited_for_together(server: Server) -> None:
    done = cloner(server, "clone", "web", "--count", "20", "--wait")
    assert (done.status, done.err) == (0, "")
    ended = [row[0] for row in fields(done.out) if row[1] == "finished"]
    assert len(ended) == len(set(ended)) == 20
    assert set(ended) <= names(server)


def test_clone_takes_all_that_the_api_takes(server: Server) -> None:
    guest = ("--title", "T & t", "--description", "D", "--start", "--flatten", "--drop-hostdevs", "--method", "libvirt")
    assert cloner(server, "clone", "web", "--name", "full", "--pool", "data", *guest, "--wait").status == 0
    found = server.request("GET", "vms/full").json
    assert (found["title"], found["description"], found["state"]) == ("T & t", "D", "running")


@pytest.mark.parametrize("action", ["vm_clone", "storagevolume_clone"])
def test_no_field_of_the_api_is_missing(action: str) -> None:
    root = Path(__file__).resolve().parents[2]
    known = json.loads((root / "API.json").read_text())["properties"][action]["properties"]
    argv = [sys.executable, "-m", "cloner", "clone", "--help"]
    text = subprocess.run(argv, cwd="/", capture_output=True, text=True, check=True).stdout
    assert {f"--{field.replace('_', '-')}" for field in known} <= set(re.findall(r"--[a-z-]+", text))
    assert "{" + ",".join(known["method"]["enum"]) + "}" in text


def test_a_name_with_a_slash_is_a_volumes(server: Server) -> None:
    done = cloner(server, "clone", "data/db-data.raw", "--name", "copy.raw", "--pool", "default", "--wait")
    assert (done.status, fields(done.out)[-1][:2]) == (0, ["copy.raw", "finished"])
    assert server.request("GET", "storagepools/default/storagevolumes/copy.raw").status == 200


def test_json_of_a_clone_is_its_task(server: Server) -> None:
    told = json.loads(cloner(server, "clone", "web", "--json").out)
    assert server.wait_task(told["id"])["name"] == told["name"]
    ended = json.loads(cloner(server, "clone", "web", "--json", "--wait").out)
    assert ended == server.request("GET", f"tasks/{ended['id']}").json


def test_json_of_a_batch_has_its_tasks(server: Server) -> None:
    told = json.loads(cloner(server, "clone", "web", "--count", "3", "--json", "--wait").out)
    assert list(told) == ["batch", "tasks"]
    assert told["tasks"] == tasks(server, batch=f"{told['batch']}$")
    assert {task["status"] for task in told["tasks"]} == {"finished"}


def test_a_dry_run_says_what_would_be_done_and_does_nothing(server: Server) -> None:
    before = (names(server), tasks(server))
    done = cloner(server, "clone", "win-uefi", "--dry-run", "--count", "2")
    rows = fields(done.out)
    assert [row[1:3] for row in rows] == [["sda", "clone"], ["nvram", "clone"]] * 2
    assert json.loads(cloner(server, "clone", "web", "--dry-run", "--json").out)["dry_run"] is True
    assert (names(server), tasks(server)) == before


def test_what_is_complete_but_not_as_asked_for_is_said() -> None:
    """A clone that could not be started is there, and its task has finished."""
    ended = TASK | {"status": "finished", "warning": "CLNTASK0008E: could not be started"}
    with Scripted(answer(202, TASK), answer(200, ended)) as scripted:
        done = cloner(scripted.url, "clone", "web", "--start", "--wait")
    assert (done.status, done.err) == (1, "cloner: clone: CLNTASK0008E: could not be started\n")


# --- Guests ----------------------------------------------------------------------------------------------------------


def test_a_guest_is_started_and_not_twice(server: Server) -> None:
    name = fields(cloner(server, "clone", "web", "--wait").out)[-1][0]
    assert cloner(server, "start", name).status == 0
    assert server.request("GET", f"vms/{name}").json["state"] == "running"
    again = cloner(server, "start", name)
    assert (again.status, again.err[:20]) == (3, "cloner: CLNVM0008E: ")


def test_a_clone_is_deleted_and_nobody_is_asked(server: Server) -> None:
    name = fields(cloner(server, "clone", "web", "--wait").out)[-1][0]
    assert cloner(server, "rm", name).status == 0
    assert name not in names(server)
    assert cloner(server, "rm", name).status == 3


# --- How it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ("clone",),
        ("clone", ""),
        ("clone", "/volume"),
        ("clone", "pool/"),
        ("clone", "web", "--count", "0"),
        ("clone", "web", "--count", "many"),
        ("clone", "web", "--count", "2", "--name", "one"),
        ("clone", "web", "--method", "magic"),
        ("clone", "web", "--bandwidth", "-1"),
        ("clone", "default/web.qcow2", "--start"),
        ("clone", "default/web.qcow2", "--title", "none"),
        ("ls", "volumes"),
        ("ls", "pools", "default"),
        ("ls", "nothing"),
        ("ls", "--timeout", "nan"),
        ("ls", "--url", "nowhere"),
        ("ls", "--token-file", "/no/such/file"),
        ("ls", "--cacert", "/no/such/file", "--url", "https://127.0.0.1:1"),
        ("tasks", "--all", "--failed"),
        ("cancel",),
        ("cancel", "1", "--batch", "1"),
        ("cancel", "1", "--undo"),
        ("start", ""),
        ("rm",),
    ],
)
def test_what_must_be_changed_ends_with_2(
    server: Server, capsys: pytest.CaptureFixture[str], args: tuple[str, ...]
) -> None:
    before = tasks(server)
    done = cloner_in_this_process(server, capsys, *args)
    assert (done.status, done.out) == (2, "")
    assert re.match("(cloner|usage): ", done.err)
    assert tasks(server) == before


@pytest.mark.parametrize(
    ("args", "status", "code"),
    [
        (("clone", "nope"), 3, "KCHVM0002E"),
        (("clone", "mail"), 3, "KCHVM0033E"),
        (("clone", "web", "--name", "mail"), 3, "CLNNAME0002E"),
        (("clone", "web", "--count", "1001"), 3, "CLNAPI0004E"),
        (("clone", "win-uefi", "--count", "30"), 4, "KCHVM0034E"),
        (("ls", "volumes", "nope"), 3, "KCHPOOL0002E"),
        (("tasks", "--batch", "4711"), 3, "CLNBATCH0001E"),
        (("tasks", "--batch", "4711", "--follow"), 3, "CLNBATCH0001E"),
        (("cancel", "4711"), 3, "WOKASYNC0001E"),
        (("cancel", "--batch", "4711"), 3, "CLNBATCH0001E"),
        (("start", "nope"), 3, "KCHVM0002E"),
        (("rm", "mail"), 3, "CLNVM0004E"),
    ],
)
def test_a_refusal_ends_with_its_reason(
    server: Server, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], status: int, code: str
) -> None:
    before = len(tasks(server))
    done = cloner_in_this_process(server, capsys, *args)
    assert done.status == status
    assert done.err.startswith(f"cloner: {code}: ")
    assert done.err.count("\n") == 1
    assert len(tasks(server)) == before


@pytest.mark.parametrize("token", ["", "another"])
def test_who_is_not_known_is_refused(server: Server, token: str) -> None:
    done = cloner(server, "ls", env={"CLONER_TOKEN": token})
    assert (done.status, done.err[:23]) == (3, "cloner: WOKAUTH0002E: Y")


def test_a_server_that_is_not_there_ends_with_5() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    done = cloner(url, "clone", "web", "--wait")
    assert (done.status, done.err) == (5, f"cloner: {url} does not answer: Connection refused\n")


def test_a_token_of_a_file_is_as_good(server: Server, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(server.token + "\n")
    assert cloner(server, "ls", "--token-file", str(tmp_path / "token"), env={"CLONER_TOKEN": ""}).status == 0


def test_who_has_read_enough_gets_no_complaint(server: Server) -> None:
    cloner(server, "clone", "web", "--count", "100", "--wait")
    argv = ["bash", "-c", f"{sys.executable} -m cloner tasks --all --json | head -c 1"]
    done = subprocess.run(
        argv, cwd="/", env=environment(server), capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("[", "")


@pytest.mark.parametrize("command", [["ls"], ["completion", "bash"]])
def test_who_reads_nothing_gets_no_complaint(server: Server, command: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as pipe:
        argv = [sys.executable, "-m", "cloner", *command]
        done = subprocess.run(
            argv, cwd="/", env=environment(server), stdout=pipe, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_where_nothing_can_be_written_a_line_says_so_and_no_clone_has_failed(server: Server) -> None:
    argv = [sys.executable, "-m", "cloner", "clone", "web", "--wait"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            argv, cwd="/", env=environment(server), stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith(b"cloner: the output cannot be written: ")
    assert done.stderr.count(b"\n") == 1


# --- Cancelling ------------------------------------------------------------------------------------------------------


def test_a_task_that_has_ended_is_not_cancelled(server: Server) -> None:
    task = json.loads(cloner(server, "clone", "web", "--wait", "--json").out)
    done = cloner(server, "cancel", task["id"])
    assert (done.status, fields(done.out)[0][:2]) == (1, [task["id"], "finished"])
    assert done.err.startswith(f"cloner: task {task['id']}: ")
    assert task["name"] in names(server)


def test_the_worst_of_several_cancels_is_the_status(server: Server) -> None:
    task = json.loads(cloner(server, "clone", "web", "--wait", "--json").out)["id"]
    done = cloner(server, "cancel", "4711", task, "--json")
    assert (done.status, [each["id"] for each in json.loads(done.out)]) == (3, [task])


def test_a_batch_is_cancelled_and_undone(slow: Server) -> None:
    before = names(slow)
    with Running(slow, "clone", "web", "--count", "500", "--wait") as command:
        command.until("finished")
        batch = tasks(slow)[0]["batch"]
        done = cloner(slow, "cancel", "--batch", batch, "--undo")
        assert (done.status, fields(done.out)[0][:2]) == (0, [batch, "500"])
        was_cancelled = command.end() == 1  # else a busy machine had made them all before it was asked
        assert was_cancelled == ("CLNTASK0003E" in command.text)
    with Running(slow, "tasks", "--batch", batch, "--follow") as command:
        assert command.end() == 1 or not was_cancelled  # else what was finished may not be undone yet
    assert {task["status"] for task in tasks(slow)} <= {"killed", "finished"}
    assert before <= names(slow)


def test_ctrl_c_cancels_and_waits_for_the_end(slow: Server) -> None:
    with Running(slow, "clone", "web", "--count", "500", "--wait") as command:
        command.until("finished")
        command.interrupt()
        assert command.end() == 130
        assert "cancelling" in command.text
        assert "--undo" in command.text
    statuses = [task["status"] for task in tasks(slow)]
    assert set(statuses) == {"finished", "killed"}
    assert len(names(slow)) == 1 + statuses.count("finished")


def test_a_second_ctrl_c_leaves() -> None:
    """Of a server that does not come to an end with it."""
    with (
        Scripted(answer(202, TASK), answer(200, TASK)) as scripted,
        Running(scripted.url, "clone", "web", "--wait") as command,
    ):
        command.until("running")
        command.interrupt()
        command.until("cancelling")
        command.interrupt()
        assert command.end() == 130
    assert scripted.requests[0].method == "POST"


def test_ctrl_c_before_the_answer_says_that_nobody_knows() -> None:
    with Scripted(None) as scripted, Running(scripted.url, "clone", "web", "--wait") as command:
        while not scripted.requests:
            assert "cloner: " not in command.text
        command.interrupt()
        assert command.end() == 130
        assert "cloner tasks" in command.text


# --- Whatever happens to the server ----------------------------------------------------------------------------------


@contextmanager
def losing_answers(server: Server) -> Iterator[tuple[str, list[int]]]:
    """A way to the server on which the first answer to each of two POSTs is lost; its address, and their sizes."""
    lost: list[int] = []

    def carry(client: socket.socket) -> None:
        is_post = False
        with client, socket.create_connection(server.address) as beyond:
            while True:
                for source in select.select([client, beyond], [], [])[0]:
                    data = source.recv(65536)
                    is_post = is_post or (source is client and data.startswith(b"POST"))
                    if source is beyond and is_post and len(lost) < 2:
                        lost.append(len(data))
                        return
                    if not data:
                        return
                    (client if source is beyond else beyond).sendall(data)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=carry, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", lost
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_an_answer_that_is_lost_costs_no_second_clone(server: Server) -> None:
    before = names(server)
    with losing_answers(server) as (url, lost):
        done = cloner(url, "clone", "web", "--count", "2")
    assert (done.status, done.err, len(lost)) == (0, "", 2)
    made = set(done.out.split())
    for task in tasks(server):
        server.wait_task(task["id"])
    assert len(made) == 2
    assert names(server) == before | made


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_comes_back_is_waited_for(tmp_path: Path, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    with Server(None, tmp_path, args=("--port", port)) as server:
        with Running(server, "clone", "web", "--count", "100", "--wait", "--json") as command:
            while not tasks(server, status="finished"):
                assert command.text == ""
            if number == signal.SIGKILL:
                server.kill()
            else:
                server.terminate()
            server.start()
            status = command.end()
            told = json.loads(next(line for line in command.text.splitlines() if line.startswith("{")))
        ended = {task["status"] for task in told["tasks"]}
        assert len(told["tasks"]) == 100
        assert ended <= {"finished", "failed", "killed"}
        assert status == (0 if ended == {"finished"} else 1)


def test_without_a_stream_for_it_a_batch_is_waited_for_as_well(start: Callable[..., Server], tmp_path: Path) -> None:
    path = tmp_path / "streams.conf"
    path.write_text("[server]\nmax_streams = 0\n")
    server = start("--config", str(path))
    done = cloner(server, "clone", "web", "--count", "20", "--wait")
    assert (done.status, done.err) == (0, "")
    assert len({row[0] for row in fields(done.out) if row[1] == "finished"}) == 20


# --- Following -------------------------------------------------------------------------------------------------------


def test_what_happens_is_followed(server: Server) -> None:
    with Running(server, "tasks", "--follow") as command:
        made: list[str] = []
        while not any(f"{name}\tOK" in command.text for name in made):  # it may still be starting
            made.append(fields(cloner(server, "clone", "web", "--wait").out)[-1][0])
        command.interrupt()
        assert command.end() == 130


def test_what_happens_is_followed_as_json(server: Server) -> None:
    batch = json.loads(cloner(server, "clone", "web", "--count", "5", "--json").out)["batch"]
    with Running(server, "tasks", "--batch", batch, "--follow", "--json") as command:
        assert command.end() == 0
        told = [json.loads(line) for line in command.text.splitlines()]
    assert {task["id"]: task for task in told} == {task["id"]: task for task in tasks(server, batch=f"{batch}$")}


def test_a_batch_is_told_from_those_whose_number_begins_alike(start: Callable[..., Server]) -> None:
    server = start()
    for _ in range(10):
        assert server.request("POST", "vms/web/clone", {"count": 1}).status == 202
    assert [row[5] for row in fields(cloner(server, "tasks", "--batch", "1").out)] == ["1"]


# --- On a terminal ---------------------------------------------------------------------------------------------------

COLOUR = re.compile("\x1b\\[[0-9;]*3[0-7]")


def test_on_a_terminal_lists_have_headings_and_fit(server: Server) -> None:
    status, text = on_terminal(server, "ls", "volumes", "default")
    lines = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", text).splitlines()
    assert status == 0
    assert lines[0].split() == ["NAME", "FORMAT", "CAPACITY", "ALLOCATION", "USED", "BY"]
    assert "20.0 GiB" in text
    assert max(map(len, lines)) <= 80


def test_on_a_terminal_clones_have_bars(server: Server) -> None:
    status, text = on_terminal(server, "clone", "web", "--count", "3", "--wait")
    assert status == 0
    assert "3 of 3" in text
    assert "━" in text
    assert COLOUR.search(text)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0  # the cursor is there again


def test_without_colours_bars_are_still_bars(server: Server) -> None:
    text = on_terminal(server, "clone", "web", "--wait", env={"NO_COLOR": "1"})[1]
    assert "━" in text
    assert "done" in text
    assert not COLOUR.search(text)


def test_on_a_terminal_json_alone_is_on_stdout(server: Server) -> None:
    """A person who sends it to a file sees the bars; here both are the terminal."""
    text = on_terminal(server, "clone", "web", "--wait", "--json")[1]
    assert "━" in text
    assert json.loads(text.splitlines()[-1].rpartition(ESCAPE + "[?25h")[2])["status"] == "finished"


@pytest.mark.parametrize("args", [("ls",), ("tasks", "--all"), ("clone", "web", "--count", "2", "--wait")])
def test_nothing_commands_a_pipe_or_a_dumb_terminal(server: Server, args: tuple[str, ...]) -> None:
    assert ESCAPE not in cloner(server, *args).out
    status, text = on_terminal(server, *args, env={"TERM": "dumb"})
    assert (status, ESCAPE in text) == (0, False)


def test_ctrl_c_on_a_terminal_leaves_it_as_it_was(slow: Server) -> None:
    with Running(slow, "clone", "web", "--count", "500", "--wait", on_terminal=True) as command:
        command.until("done")
        command.interrupt()
        assert command.end() == 130
        assert "cancelling" in command.text
        assert command.text.rindex("\x1b[?25h") > command.text.rindex("\x1b[?25l"), "the cursor can be seen"


def test_told_to_stop_it_leaves_the_terminal_as_it_was(slow: Server) -> None:
    with Running(slow, "clone", "web", "--count", "500", "--wait", on_terminal=True) as command:
        command.until("\x1b[?25l")
        command.terminate()
        assert command.end() == 128 + signal.SIGTERM
        assert command.text.rindex("\x1b[?25h") > command.text.rindex("\x1b[?25l"), "the cursor can be seen"
