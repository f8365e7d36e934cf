"""A user's clone on real libvirt: whose it is stands in its metadata, as Kimchi reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest
from lxml import etree

from cloner.engine.domainxml import KIMCHI_NAMESPACE
from support import people
from support.answers import refusal
from support.libvirtd import PrivateLibvirtd
from support.people import GROUP, STRANGER, USER
from support.server import Server
from support.storage import MiB, make_qcow2

OTHERS = f"<user>root</user><group>{GROUP}</group>"


def kimchis(inside: str) -> str:
    return f"<kimchi:metadata xmlns:kimchi='{KIMCHI_NAMESPACE}'>{inside}</kimchi:metadata>"


def owners(domain: libvirt.virDomain) -> list[str]:
    """Whom Kimchi gives a guest to that logs in by PAM: the way in which it reads its metadata."""
    found = etree.fromstring(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, KIMCHI_NAMESPACE))
    return [f"{etree.QName(node).localname} {node.text}" for node in found.iterfind("access/auth[@type='pam']/*")]


@pytest.mark.parametrize(
    "metadata",
    [
        kimchis(f"<access><auth type='pam'>{OTHERS}</auth></access><os distro='debian' version='12'/>"),
        kimchis(f"<access>{OTHERS}</access>").replace("kimchi:metadata", "kimchi:kimchi"),
    ],
    ids=["of now", "of old"],
)
def test_a_users_clone_is_that_users_alone(
    libvirtd: PrivateLibvirtd,
    conn: libvirt.virConnect,
    pool: libvirt.virStoragePool,
    guest: Callable[..., libvirt.virDomain],
    tmp_path: Path,
    metadata: str,
) -> None:
    web = guest("web", [make_qcow2(pool, "web.qcow2", 16 * MiB)], metadata=metadata)
    before = web.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    with Server(libvirtd.uri, tmp_path / "state") as server:
        user, stranger = (
            {"Authorization": f"Bearer {people.token(server.state_dir, name, user=name)}"} for name in (USER, STRANGER)
        )
        answer = server.request("POST", "vms/web/clone", headers=user, anonymous=True)
        assert answer.status == 202, answer.text
        name = answer.json["name"]
        assert server.wait_task(answer.json["id"])["status"] == "finished"
        assert owners(conn.lookupByName(name)) == [f"user {USER}"]
        assert web.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) == before
        assert refusal(server.request("GET", f"vms/{name}", headers=stranger, anonymous=True)) == (404, "KCHVM0002E")
        assert server.request("DELETE", f"vms/{name}", headers=user, anonymous=True).status == 204
    assert pool.listVolumes() == ["web.qcow2"]
