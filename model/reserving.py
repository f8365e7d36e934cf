"""How the journal knows a volume that is being made: by its name in its pool, and in the folder that this leads to.

Several pools may lead to one folder, through a symbolic link or a bind mount, and libvirt's check that a name is free
and its making of the file are two things.
"""

from __future__ import annotations

import os

from ..engine.transaction import Transaction
from ..hypervisor.infos import PoolInfo, VolumeInfo
from .needs import led_to
from .services import FOLDER, VOLUME_NAME, Services


def is_reserved(services: Services, transaction: Transaction, pool: PoolInfo, name: str) -> bool:
    """Whether a clone on its way has a volume's name there."""
    return _is_any(transaction, _names(services, pool, name))


def is_being_made(services: Services, transaction: Transaction, volume: VolumeInfo) -> bool:
    """Whether a volume is that of a clone on its way, by whatever pool it was come to."""
    if transaction.is_reserved(VOLUME_NAME, volume.pool, volume.name):
        return True
    return volume.type == "file" and is_file_being_made(services, transaction, volume.path)


def is_file_being_made(services: Services, transaction: Transaction, path: str) -> bool:
    """Whether a path is that of a clone's volume on its way."""
    return _is_any(transaction, _in_folder(services, *os.path.split(path)))


def reserve(services: Services, transaction: Transaction, pool: PoolInfo, name: str, *, task: int) -> None:
    for kind, scope, each in _names(services, pool, name):
        transaction.reserve(kind, scope, each, task=task)


def _names(services: Services, pool: PoolInfo, name: str) -> list[tuple[str, str, str]]:
    return [(VOLUME_NAME, pool.name, name), *_in_folder(services, pool.path if pool.holds_files else "", name)]


def _in_folder(services: Services, folder: str, name: str) -> list[tuple[str, str, str]]:
    """Nothing where the server sees no folder."""
    seen = led_to(folder) if services.connections.is_local and folder else None
    return [(FOLDER, f"{seen[0]}:{seen[1]}", name)] if seen else []


def _is_any(transaction: Transaction, names: list[tuple[str, str, str]]) -> bool:
    return any(transaction.is_reserved(*each) for each in names)
