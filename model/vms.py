"""Domains: what exists, and what may be asked of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Container, Mapping
from typing import Any
from uuid import uuid4

from .. import errors
from ..engine import domainxml
from ..engine.journal import Task, Transaction
from ..engine.plan import DomainPlan, Draft, draft_domain
from ..hypervisor.host import DomainInfo, Host
from ..utils import get_next_clone_name
from .services import AUTO, DOMAIN_NAME, MAC, VOLUME_NAME, Services, check_domain_name, paths_in_use, room

_MIB_PER_UNIT = {"b": 2**-20, "bytes": 2**-20, "KB": 1e3 / 2**20, "k": 2**-10, "KiB": 2**-10, "MB": 1e6 / 2**20}
_MIB_PER_UNIT |= {
    "M": 1,
    "MiB": 1,
    "GB": 1e9 / 2**20,
    "G": 2**10,
    "GiB": 2**10,
    "TB": 1e12 / 2**20,
    "T": 2**20,
    "TiB": 2**20,
}


class VMsModel:
    def __init__(self, services: Services) -> None:
        self._services = services

    def get_list(self) -> list[dict[str, Any]]:
        return [_resource(domain) for domain in self._services.host.list_domains()]

    def lookup(self, name: str) -> dict[str, Any]:
        """Raises DomainNotFound."""
        return _resource(self._services.host.domain(name))

    def clone(self, name: str, params: Mapping[str, Any], mount: str) -> Task:
        """Accepts a clone of the domain; workers make it.

        Args:
            name: of the source.
            params: as API.json's `vm_clone` has them.
            mount: URI path that the plugin is served at, which `target_uri` starts with.

        Raises what the survey and the plan raise, InvalidName and NameTaken; nothing is written then.
        """
        services = self._services
        wanted, pool = params.get("name"), params.get("pool")
        if wanted is not None:
            check_domain_name(wanted)
        survey = services.surveyor.domain(name, pool)
        with services.journal.transaction() as transaction:
            draft = draft_domain(survey, pool, params.get("method", AUTO), room(transaction, services.host))
            plan, task = self._accept(transaction, draft, name, wanted, mount)
        services.executor.submit(task.id, plan)
        return task

    def _accept(
        self, transaction: Transaction, draft: Draft, name: str, wanted: str | None, mount: str
    ) -> tuple[DomainPlan, Task]:
        taken = _TakenNames(self._services.host, transaction, draft)
        if wanted is not None and wanted in taken:
            raise errors.NameTaken(name=wanted)
        new_name = wanted or get_next_clone_name(
            taken, name, ts=True, clock=transaction, max_bytes=draft.max_name_bytes()
        )
        task_id = transaction.new_task_id()
        uuid = str(uuid4())
        macs = _reserve_macs(transaction, draft.macs(), task_id, uuid)
        plan = draft.domain_plan(domainxml.Identity(new_name, uuid, str(uuid4()), macs))
        transaction.reserve(DOMAIN_NAME, "", new_name, task=task_id)
        for copy in plan.copies:
            transaction.reserve(VOLUME_NAME, copy.pool, copy.name, task=task_id)
            transaction.promise(task_id, copy.pool, copy.item, copy.size)
        uri = f"{mount}/vms/{new_name}/clone"
        return plan, transaction.add_task(task_id, DOMAIN_NAME, uri, self._services.lease.id, plan.describe())

    def delete(self, name: str, *, storage: bool = False) -> None:
        """Deletes a domain that is shut off, and its storage if we made it or `storage` asks for it.

        Storage that another domain uses, and media that are read-only or shareable, stay. Raises DomainNotFound,
        DomainIsRunning, DomainDeletedInPart.
        """
        host, journal = self._services.host, self._services.journal
        domain = host.domain(name)
        if not domain.is_off:
            raise errors.DomainIsRunning(name=name, state=domain.state)
        clone = journal.clone(domain.uuid)
        others = [other for other in host.list_domains() if other.uuid != domain.uuid]
        ours = None if clone is None else [dict(item) for item in clone.storage]
        doomed = _storage_to_delete(host, domain, ours, others, everything=storage)
        nvram = domainxml.nvram(domainxml.parse(domain.xml))
        shared = nvram is not None and any(domainxml.nvram(domainxml.parse(other.xml)) == nvram for other in others)
        host.undefine(domain.uuid, keep_nvram=shared or (clone is None and not storage))
        for pool, volume in doomed:
            try:
                host.delete_volume(pool, volume)
            except errors.ClonerError as error:
                raise errors.DomainDeletedInPart(name=name, storage=f"{pool}/{volume}", cause=error.reason) from error
        journal.clone_is_gone(domain.uuid)


class _TakenNames(Container[str]):
    """Names that a clone cannot have: asked one by one, since listing a host costs more the more it has."""

    def __init__(self, host: Host, transaction: Transaction, draft: Draft) -> None:
        self._host = host
        self._transaction = transaction
        self._draft = draft

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if self._transaction.is_reserved(DOMAIN_NAME, "", name) or self._host.has_domain(name):
            return True
        nvram = self._draft.nvram_path(name)
        return self._volumes_in_the_way(name) or (nvram is not None and os.path.lexists(nvram))

    def _volumes_in_the_way(self, name: str) -> bool:
        for copy in self._draft.copies:
            volume = self._draft.volume_name(copy, name)
            if self._transaction.is_reserved(VOLUME_NAME, copy.pool, volume):
                return True
            if self._host.has_volume(self._draft.pool(copy.pool), volume):
                return True
        return False


def _reserve_macs(transaction: Transaction, of_source: list[str], task: int, uuid: str) -> list[str]:
    """New MACs with the vendor prefixes of the source's, which no clone of this journal has."""
    macs = []
    for old in of_source:
        while True:
            mac = old[:8].lower() + "".join(f":{byte:02x}" for byte in secrets.token_bytes(3))
            taken = mac in {known.lower() for known in of_source}
            if not taken and transaction.reserve(MAC, "", mac, task=task, domain=uuid):
                break
        macs.append(mac)
    return macs


def _storage_to_delete(
    host: Host,
    domain: DomainInfo,
    ours: list[dict[str, str]] | None,
    others: list[DomainInfo],
    *,
    everything: bool,
) -> list[tuple[str, str]]:
    """(pool, volume) of each disk that goes with its domain."""
    used = paths_in_use(others)
    doomed = []
    for disk in domainxml.disks(domainxml.parse(domain.xml)):
        if not disk.has_source or disk.readonly or disk.shareable or disk.device == "cdrom":
            continue
        volume = host.volume(disk.pool, disk.volume) if disk.pool and disk.volume else host.volume_at(disk.path or "")
        if volume is None or volume.path in used or f"{volume.pool}/{volume.name}" in used:
            continue
        if everything or (ours is not None and {"pool": volume.pool, "volume": volume.name} in ours):
            doomed.append((volume.pool, volume.name))
    return doomed


def _resource(domain: DomainInfo) -> dict[str, Any]:
    """A domain in Kimchi's words. What is not measured is null or 0."""
    root = domainxml.parse(domain.xml)
    users, groups = domainxml.access(root)
    measured = ("cpu_utilization", "mem_utilization", "net_throughput", "net_throughput_peak")
    return {
        "name": domain.name,
        "title": root.findtext("title") or "",
        "description": root.findtext("description") or "",
        "uuid": domain.uuid,
        "state": domain.state,
        "persistent": domain.persistent,
        "memory": {"current": _mib(root, "memory"), "maxmemory": _mib(root, "maxMemory") or _mib(root, "memory")},
        "cpu_info": _cpu_info(root),
        "graphics": _graphics(root, domain.state),
        "users": users,
        "groups": groups,
        "access": "full",
        "bootorder": [node.get("dev") for node in root.iterfind("os/boot")],
        "bootmenu": root.find("os/bootmenu[@enable='yes']") is not None,
        "autostart": domain.autostart,
        "icon": None,
        "screenshot": None,
        "stats": dict.fromkeys((*measured, "io_throughput", "io_throughput_peak"), 0),
    }


def _mib(root: domainxml.Element, tag: str) -> int:
    node = root.find(tag)
    if node is None or not node.text:
        return 0
    return int(int(node.text) * _MIB_PER_UNIT.get(node.get("unit", "KiB"), 2**-10))


def _cpu_info(root: domainxml.Element) -> dict[str, Any]:
    vcpu = root.find("vcpu")
    most = int(vcpu.text or 1) if vcpu is not None else 1
    topology = root.find("cpu/topology")
    parts = ("sockets", "cores", "threads")
    return {
        "vcpus": int(vcpu.get("current", most)) if vcpu is not None else most,
        "maxvcpus": most,
        "topology": {} if topology is None else {part: int(topology.get(part, "1")) for part in parts},
    }


def _graphics(root: domainxml.Element, state: str) -> dict[str, Any]:
    node = root.find("devices/graphics")
    attributes: Mapping[str, str] = dict(node.attrib) if node is not None else {}
    port = attributes.get("port", "-1")
    return {
        "type": attributes.get("type"),
        "listen": attributes.get("listen"),
        "port": int(port) if state == "running" and port.isdigit() else None,
        "passwd": attributes.get("passwd"),
        "passwdValidTo": attributes.get("passwdValidTo"),
    }
