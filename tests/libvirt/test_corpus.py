"""The corpus of guests with a real libvirt: it takes their clones, and sees nothing changed but what is published."""

from __future__ import annotations

import libvirt
import pytest
from lxml import etree

from cloner.hypervisor.infos import SHUT_OFF, DomainInfo
from cloner.model.guests import Guest, read_guest
from support import corpus
from support.corpus import CASES, Case, Element

MAY_BE_REFUSED = {
    "display-rdp": (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, "rdp graphics are not supported"),
    "file-systems": (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, "virtiofs is not yet supported in session mode"),
    "host-model": (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, "SEV launch security is not supported"),
    "newer": (libvirt.VIR_ERR_XML_INVALID_SCHEMA, "failed to validate against schema"),
    "passt": (libvirt.VIR_ERR_XML_ERROR, "'passt'"),
    "spice-tls": (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, "TLS is disabled in qemu.conf"),
    "spice-tls-only": (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, "TLS is disabled in qemu.conf"),
    "tpm-external": (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, "does not support TPM backend type external"),
    "uefi-varstore": (libvirt.VIR_ERR_XML_INVALID_SCHEMA, "failed to validate against schema"),
}
"""Guests that ask for what this host may not have, with libvirt's words for that."""


BY_LIBVIRT = {
    # The first console is that of the first serial port that is left.
    "host-consoles": {"devices/console/target/@port"},
    # The device that it booted from is left out.
    "hostdev": {"os/boot"},
}
"""What libvirt makes of a definition of its own accord, by guest."""


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_libvirt_takes_the_clone_and_sees_what_is_published(conn: libvirt.virConnect, case: Case) -> None:
    source = defined(conn, case.xml)
    if isinstance(source, libvirt.libvirtError):
        code, words = MAY_BE_REFUSED[case.name]
        assert source.get_error_code() == code
        assert words in str(source)
        return
    if case.refused:
        return
    sent = corpus.clone(source, 1)
    clone = defined(conn, sent)
    assert isinstance(clone, str), clone
    if not case.dropped:
        assert guest(sent) == guest(clone)  # the inventory takes in what was sent
    old, new = etree.fromstring(source), etree.fromstring(clone)
    found = corpus.changes(old, new)
    unexpected = [change for change in found if not corpus.is_published(change, old)]
    assert {change.path for change in unexpected} == BY_LIBVIRT.get(case.name, set())
    assert {"name", "uuid"} <= {change.path for change in found}


def guest(xml: str) -> Guest:
    name, uuid = (etree.fromstring(xml).findtext(tag, "") for tag in ("name", "uuid"))
    return read_guest(DomainInfo(name, uuid, SHUT_OFF, xml, persistent=True, autostart=False, saved_state=False))


def defined(conn: libvirt.virConnect, xml: str) -> str | libvirt.libvirtError:
    """Defines a guest, under emulation, and gives its inactive XML, or what libvirt has against it."""
    domain: Element = etree.fromstring(xml)
    domain.set("type", "qemu")  # there may be no KVM here
    try:
        made = conn.defineXMLFlags(etree.tostring(domain, encoding="unicode"), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    except libvirt.libvirtError as error:
        return error
    return made.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
