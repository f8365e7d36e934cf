"""Users with guests of their own: an inventory in which Kimchi's metadata name them, and tokens that act for them.

`nobody` is an account that every system has, and its group is known to the system; `ann` is none, so that she has no
groups.
"""

from __future__ import annotations

import grp
import http.client
import json
import pwd
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from lxml import etree

from cloner.callers import CLONE
from cloner.engine.domainxml import KIMCHI_NAMESPACE
from cloner.engine.journal import Journal
from cloner.engine.tokens import Tokens
from cloner.settings import DEMO_INVENTORY
from support.server import Server

USER, STRANGER = "nobody", "ann"
GROUP = grp.getgrgid(pwd.getpwnam(USER).pw_gid).gr_name
ACCESS = {
    "web": f"<user>{USER}</user>",
    "db": f"<user>root</user><group>{GROUP}</group>",
    "mail": f"<user>{USER}</user><user>{STRANGER}</user>",
    "win-uefi": f"<user>{STRANGER}</user>",
}
"""Whom each guest of the inventory is there for; `mail` runs, so that it cannot be cloned."""

SEEN = {USER: ["db", "mail", "web"], STRANGER: ["mail", "win-uefi"]}


def inventory(folder: Path, log_in: str = "pam") -> str:
    """The URI of libvirt's test driver with the demo's guests, each somebody's by a kind of log-in."""
    node = etree.parse(DEMO_INVENTORY)
    for domain in node.iterfind("domain"):
        access = f"<access><auth type='{log_in}'>{ACCESS[domain.findtext('name', '')]}</auth></access>"
        root = f"<kimchi:metadata xmlns:kimchi='{KIMCHI_NAMESPACE}'>{access}</kimchi:metadata>"
        domain.insert(2, etree.fromstring(f"<metadata>{root}</metadata>"))
    path = folder / "inventory.xml"
    node.write(path)
    return f"test://{path}"


def token(folder: Path, name: str, scope: str = CLONE, *, user: str = "", lifetime_s: float | None = None) -> str:
    """The secret of a new token of a state directory."""
    with closing(Journal(f"sqlite:///{folder}/journal.sqlite")) as journal:
        return Tokens(journal).create(name, scope, owner=user, lifetime_s=lifetime_s)


def events(server: Server, secret: str, until: str) -> list[str]:
    """Ids of the tasks that somebody is told of who follows the events from their beginning, up to one of them."""
    seen: list[str] = []
    with closing(http.client.HTTPConnection(*server.address, timeout=30)) as connection:
        headers = {"Authorization": f"Bearer {secret}", "Last-Event-ID": "0-0"}
        connection.request("GET", f"{urlsplit(server.base).path}/events", headers=headers)
        for line in connection.getresponse():
            if line.startswith(b"data: "):
                seen.append(json.loads(line[6:])["id"])
                if seen[-1] == until:
                    break
    return seen
