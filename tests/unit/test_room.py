"""How much room pools have for clones, where several of them lie on one file system."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cloner.hypervisor.infos import PoolInfo
from cloner.model.accepting import Room

MiB = 1 << 20
FREE = {"wide": 100 * MiB, "narrow": 10 * MiB}


def pool(name: str) -> PoolInfo:
    return PoolInfo(name, "", "dir", "active", 0, 0, 0, f"/{name}", {}, True, True, device=7)


def test_a_quota_leaves_a_pool_less_than_its_file_system_has() -> None:
    """XFS and ext4 tell of a folder with a project quota what that leaves."""
    host: Any = SimpleNamespace(available=lambda of: FREE[of.name])
    transaction: Any = SimpleNamespace(promised=lambda *_: 30 * MiB, promises_under_way=lambda *_: [])
    plan: Any = SimpleNamespace(copies=[SimpleNamespace(pool="wide", size=5 * MiB)])
    room = Room(transaction, host)
    assert room(pool("wide")) == 70 * MiB
    assert room(pool("narrow")) == -20 * MiB
    room.take(plan)
    assert (room(pool("wide")), room(pool("narrow"))) == (65 * MiB, -25 * MiB)
    assert room.describe() == {"wide": {"needed": 5 * MiB, "available": 70 * MiB}}
