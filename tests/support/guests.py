"""Guests from a few words, and an inventory of the host to tell whether anything was left behind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import libvirt

from support.running import wait_until
from support.storage import format_of, listing, pool_path

OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")  # Debian's and Ubuntu's package ovmf
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
STOP_TIMEOUT = 15.0  # seconds
SOURCE_ATTRIBUTE = {"file": "file", "block": "dev"}


@dataclass(frozen=True)
class Disk:
    """One disk of a guest.

    `source` is a path, a (pool, volume) pair, or None for an empty drive. The format is the image's unless
    given; the bus follows the target (vd: virtio, sd: sata, hd: ide, fd: fdc). `extra` is XML put inside.
    """

    source: Path | tuple[str, str] | None
    target: str = ""
    device: str = "disk"
    type: str = "file"
    format: str = ""
    readonly: bool = False
    shareable: bool = False
    extra: str = ""

    def xml(self, default_target: str) -> str:
        """The <disk> element; `default_target` serves when the disk names none."""
        target = self.target or default_target
        bus = {"vd": "virtio", "sd": "sata", "hd": "ide", "fd": "fdc"}[target[:2]]
        kind = "volume" if isinstance(self.source, tuple) else self.type
        flags = "<readonly/>" * self.readonly + "<shareable/>" * self.shareable
        return (
            f"<disk type='{kind}' device='{self.device}'><driver name='qemu' type='{self._format()}'/>"
            f"{self._source()}<target dev='{target}' bus='{bus}'/>{flags}{self.extra}</disk>"
        )

    def _format(self) -> str:
        if self.format or not isinstance(self.source, Path) or self.type != "file":
            return self.format or "raw"
        return format_of(self.source) if self.source.exists() else "raw"

    def _source(self) -> str:
        if self.source is None:
            return ""
        if isinstance(self.source, tuple):
            pool, volume = self.source
            return f"<source pool={quoteattr(pool)} volume={quoteattr(volume)}/>"
        return f"<source {SOURCE_ATTRIBUTE[self.type]}={quoteattr(str(self.source))}/>"


def define_guest(
    conn: libvirt.virConnect,
    name: str,
    disks: Sequence[Disk | Path | libvirt.virStorageVol] = (),
    *,
    macs: Iterable[str] = (),
    nvram: Path | None = None,
    uuid: str = "",
    title: str = "",
    description: str = "",
    metadata: str = "",
    devices: str = "",
    extra: str = "",
) -> libvirt.virDomain:
    """Define a guest of 32 MiB under plain emulation, with a user-mode interface for each of `macs`.

    A disk may be a path or a volume; the targets are vda, vdb, …. `nvram` makes it a UEFI guest with its
    variables in that file, which libvirt makes at the first start. `metadata`, `devices` and `extra` are XML
    inside <metadata>, <devices> and <domain>: <genid>, <sysinfo> and the like are `extra`.
    """
    parts = [_element("uuid", uuid), _element("title", title), _element("description", description)]
    parts += [f"<metadata>{metadata}</metadata>" if metadata else "", extra]
    inside = [_as_disk(disk).xml(f"vd{chr(ord('a') + place)}") for place, disk in enumerate(disks)]
    inside += [f"<interface type='user'><mac address='{mac}'/></interface>" for mac in macs]
    return conn.defineXML(
        f"<domain type='qemu'><name>{escape(name)}</name>{''.join(parts)}<memory unit='MiB'>32</memory>"
        f"<os><type arch='x86_64' machine='pc'>hvm</type>{_firmware(nvram)}</os><features><acpi/></features>"
        f"<devices><memballoon model='none'/>{''.join(inside)}{devices}</devices></domain>"
    )


def _element(tag: str, text: str) -> str:
    return f"<{tag}>{escape(text)}</{tag}>" if text else ""


def _firmware(nvram: Path | None) -> str:
    if nvram is None:
        return ""
    return (
        f"<loader readonly='yes' type='pflash'>{OVMF_CODE}</loader>"
        f"<nvram template='{OVMF_VARS}'>{escape(str(nvram))}</nvram>"
    )


def _as_disk(disk: Disk | Path | libvirt.virStorageVol) -> Disk:
    if isinstance(disk, libvirt.virStorageVol):
        return Disk(Path(disk.path()))
    return Disk(disk) if isinstance(disk, Path) else disk


def stop_guest(domain: libvirt.virDomain) -> None:
    """Pull a guest's plug and wait until it is shut off; fine when it is so already."""
    try:
        if domain.isActive():
            domain.destroy()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:  # it ended by itself meanwhile
            raise
    wait_until(lambda: not domain.isActive(), STOP_TIMEOUT, f"guest {domain.name()} is shut off")


def remove_guest(domain: libvirt.virDomain) -> None:
    """Stop and undefine a guest with its NVRAM, managed save, snapshots and checkpoints; disks stay."""
    stop_guest(domain)
    flags = libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    flags |= libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    domain.undefineFlags(flags)


def inventory(conn: libvirt.virConnect, *folders: Path) -> set[str]:
    """Domains, pools, the pools' volumes (as libvirt knows them) and files (as they are), files of `folders`.

    `assert inventory(conn) == before` tells what was left or lost: `domain web`, `pool default`,
    `volume default/web.img`, `file <path>`.
    """
    entries = {f"domain {domain.name()}" for domain in conn.listAllDomains()}
    places = set(folders)
    for pool in conn.listAllStoragePools():
        entries.add(f"pool {pool.name()}")
        places.add(pool_path(pool))
        if pool.isActive():
            entries |= {f"volume {pool.name()}/{volume}" for volume in pool.listVolumes()}
    return entries | {f"file {place / name}" for place in places if place.is_dir() for name in listing(place)}
