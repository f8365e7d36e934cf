"""Names, in requests and in paths: which are refused and how, and that the strangest of them are only names."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest

from support.answers import cloned, refusal
from support.server import Server

SOURCES = ("vms/web", "storagepools/default/storagevolumes/web.qcow2")
STRANGE = [
    "a b",
    "a'b",
    'a"b',
    "a\\b",
    "a&b;c|d$(e)`f`",
    "-rf",
    "a%2Fb",
    "a%b",
    "a+b",
    "a?b=c",
    "a#b",
    "a:b@c",
    "x[1]",
    "open(",
    "a.",
    ".a",
    "名前",
    "žluťoučký",
    "e\u0301",
    "😀",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)<b>",
    "{name}",
    "%s",
    "__class__",
    "__init__",
    "default",
    "index",
    "exposed",
    "self",
    "clone",
    "null",
    "0",
]


# --- Names that are refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "name",
    [
        "/",
        "a/b",
        "../x",
        "..",
        ".",
        "a\nb",
        "\n",
        "a\rb",
        "a\tb",
        "a\x01b",
        "\x7f",
        "a\x85b",
        " ",
        "  ",
        " a",
        "a ",
        "\u2028",
    ],
)
def test_a_name_that_cannot_be_is_400_and_shown(server: Server, source: str, name: str) -> None:
    answer = server.request("POST", f"{source}/clone", {"name": name})
    assert refusal(answer) == (400, "CLNNAME0001E")
    assert answer.json["reason"].isprintable()


@pytest.mark.parametrize("source", SOURCES)
def test_an_empty_name_is_400(server: Server, source: str) -> None:
    assert refusal(server.request("POST", f"{source}/clone", {"name": ""})) == (400, "CLNAPI0004E")


@pytest.mark.parametrize("name", ["x" * 248, "ü" * 124, "😀" * 62, "x" * 300, "x" * 10_000])
def test_a_guests_name_of_more_than_247_bytes_is_400(server: Server, name: str) -> None:
    """Of bytes, not of characters: that is what libvirt's files end at."""
    assert refusal(server.request("POST", "vms/web/clone", {"name": name})) == (400, "CLNNAME0001E")


@pytest.mark.parametrize("name", ["x" * 256, "ü" * 128, "x" * 10_000])
def test_a_volumes_name_of_more_than_255_bytes_is_400(server: Server, name: str) -> None:
    answer = server.request("POST", "storagepools/default/storagevolumes/web.qcow2/clone", {"name": name})
    assert refusal(answer) == (400, "CLNNAME0001E")


@pytest.mark.parametrize("source", SOURCES)
def test_a_refused_name_leaves_nothing(server: Server, source: str) -> None:
    before = server.request("GET", "tasks").json, server.request("GET", "vms").json
    server.request("POST", f"{source}/clone", {"name": "a/b"})
    assert (server.request("GET", "tasks").json, server.request("GET", "vms").json) == before


# --- Names that are taken --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["web", "db", "mail"])
def test_the_name_of_another_guest_is_409(server: Server, name: str) -> None:
    answer = server.request("POST", "vms/web/clone", {"name": name})
    assert refusal(answer) == (409, "CLNNAME0002E")
    assert f"name {name} is taken: a virtual machine is called so" in answer.json["reason"]


def test_the_name_of_another_volume_is_409_in_its_pool_only(server: Server) -> None:
    source = "storagepools/default/storagevolumes/web.qcow2"
    assert refusal(server.request("POST", f"{source}/clone", {"name": "mail.qcow2"})) == (409, "CLNNAME0002E")
    assert cloned(server, source, name="mail.qcow2", pool="data")["name"] == "mail.qcow2"


def test_a_guests_name_is_409_when_a_disk_of_that_name_is_in_the_way(server: Server) -> None:
    cloned(server, "storagepools/default/storagevolumes/web.qcow2", name="in-the-way-vda.qcow2")
    answer = server.request("POST", "vms/web/clone", {"name": "in-the-way"})
    assert refusal(answer) == (409, "CLNNAME0002E")
    assert "a disk of it would be in-the-way-vda.qcow2 in pool default" in answer.json["reason"]


def test_a_name_is_taken_from_the_moment_it_is_accepted(server: Server) -> None:
    first = server.request("POST", "vms/db/clone", {"name": "twice"})
    second = server.request("POST", "vms/db/clone", {"name": "twice"})
    assert first.status == 202
    assert refusal(second) == (409, "CLNNAME0002E")
    assert server.wait_task(first.json["id"])["status"] == "finished"


# --- Names that are given --------------------------------------------------------------------------------------------


def test_a_clone_is_called_after_its_source_and_the_time(server: Server) -> None:
    task = cloned(server, "vms/web")
    assert re.fullmatch(r"web-clone-\d{16}", task["name"])  # µs since 1970
    volume = cloned(server, "storagepools/default/storagevolumes/web.qcow2")
    assert re.fullmatch(r"web-clone-\d{16}\.qcow2", volume["name"])


def test_names_are_given_in_increasing_order(server: Server) -> None:
    given = [server.request("POST", "vms/web/clone").json["name"] for _ in range(5)]
    assert given == sorted(set(given))


def test_a_clone_gets_the_name_that_was_asked_for(server: Server) -> None:
    task = cloned(server, "vms/web", name="as-asked")
    assert task["name"] == "as-asked"
    assert task["target_uri"] == "/plugins/kimchi/vms/as-asked/clone"
    assert server.request("GET", "vms/as-asked").json["name"] == "as-asked"


@pytest.mark.parametrize("name", ["x" * 247, "ü" * 123, "😀" * 61], ids=["x", "ü", "😀"])
def test_the_longest_name_of_a_guest_works(server: Server, name: str) -> None:
    task = cloned(server, "vms/web", name=name)
    (disk,) = [disk["target"]["name"] for disk in task["disks"] if disk["action"] == "clone"]
    assert server.request("GET", f"vms/{quote(name)}").json["name"] == name
    assert len(disk.encode()) <= 255
    assert disk.endswith("-vda.qcow2")
    assert server.request("GET", f"storagepools/default/storagevolumes/{quote(disk)}").status == 200


def test_a_clone_of_the_longest_name_has_a_name_of_its_own(server: Server) -> None:
    name = "y" * 247
    cloned(server, "vms/web", name=name)
    again = cloned(server, f"vms/{name}")
    assert re.fullmatch(r"y+-clone-\d{16}", again["name"])
    assert len(again["name"]) <= 247


# --- Strange names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRANGE)
def test_a_guest_of_any_name_is_found_cloned_and_deleted(server: Server, name: str) -> None:
    path = f"vms/{quote(name, safe='')}"
    assert refusal(server.request("GET", path)) == (404, "KCHVM0002E")
    assert cloned(server, "vms/web", name=name)["target_uri"] == f"/plugins/kimchi/vms/{name}/clone"
    assert server.request("GET", path).json["name"] == name
    again = cloned(server, path)
    assert again["name"].startswith(f"{name}-clone-")
    assert server.request("DELETE", f"vms/{quote(again['name'], safe='')}").status == 204
    assert server.request("DELETE", path).status == 204
    assert refusal(server.request("GET", path)) == (404, "KCHVM0002E")


@pytest.mark.parametrize("name", STRANGE)
def test_a_volume_of_any_name_is_found_and_cloned(server: Server, name: str) -> None:
    volume = f"v{name}.qcow2"
    cloned(server, "storagepools/default/storagevolumes/web.qcow2", name=volume)
    path = f"storagepools/default/storagevolumes/{quote(volume, safe='')}"
    assert server.request("GET", path).json["name"] == volume
    assert re.fullmatch(rf"{re.escape('v' + name)}-clone-\d+\.qcow2", cloned(server, path)["name"])


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", "\x1b[31mred", "a\u202eb", "<script>"])
def test_a_name_is_never_markup_in_a_reason(server: Server, name: str) -> None:
    """Kimchi's page shows a reason as markup, and people see it on terminals."""
    for method, path, body in [
        ("GET", f"vms/{quote(name)}", None),
        ("GET", f"storagepools/{quote(name)}", None),
        ("GET", f"storagepools/default/storagevolumes/{quote(name)}", None),
        ("GET", f"tasks/{quote(name)}", None),
        ("GET", f"{quote(name)}", None),
        ("GET", f"vms?{quote(name)}=(", None),
        ("POST", "vms/web/clone", {"pool": name}),
        ("POST", "vms/web/clone", {"name": f"{name}/"}),
        ("POST", "vms/web/clone", {name: 1}),
        ("POST", "vms/web/clone", {"name": [name]}),
    ]:
        answer = server.request(method, path, body)
        refusal(answer)  # no < and no > in it
        assert answer.json["reason"].isprintable()


@pytest.mark.parametrize(
    "path", ["vms/%00", "vms/a%00b", "vms/%ff", "vms/%c3", "vms/web%00", "storagepools/%ff/storagevolumes"]
)
@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
def test_a_path_that_is_no_text_is_404(server: Server, method: str, path: str) -> None:
    assert refusal(server.request(method, path)) == (404, "CLNAPI0001E")


def test_a_name_is_not_taken_for_another_in_another_encoding(server: Server) -> None:
    cloned(server, "vms/web", name="ü")
    assert server.request("GET", "vms/%C3%BC").status == 200
    assert server.request("GET", "vms/%FC").status == 404  # ü in Latin-1


@pytest.mark.parametrize(
    "escaped", ["%2F", "%2f", "%5C", "..%2F", "%2e%2e", "%2e%2e%2f", "web%2Fclone", "web%252Fclone"]
)
def test_an_escaped_slash_is_no_slash(server: Server, escaped: str) -> None:
    assert refusal(server.request("GET", f"vms/{escaped}")) == (404, "KCHVM0002E")
    assert refusal(server.request("POST", f"vms/{escaped}/clone")) == (404, "KCHVM0002E")
