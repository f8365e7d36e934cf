"""How much is measured: everything, or what two minutes allow."""

from __future__ import annotations

from dataclasses import dataclass

from support.storage import GiB, MiB

TiB = 1024 * GiB


@dataclass(frozen=True)
class Scale:
    """Sizes in bytes."""

    name_rounds: int
    names: int
    """How many names are taken from the journal in a turn."""

    namers: tuple[tuple[int, int], ...]
    """Processes, and threads of each, that take names."""

    sizes: tuple[int, ...]
    """Numbers of guests of the hosts that clones are accepted on."""

    accept_rounds: int
    crowd_rounds: int
    crowds: tuple[int, ...]
    """Numbers of clients that ask at once."""

    connections: tuple[int, ...]
    connection_rounds: int
    patience_s: float
    """How long a connection waits to be served."""

    clones: int
    """How many clones make a batch."""

    clone_rounds: int
    tool_every: int
    """Every how many rounds a tool that takes seconds takes its turn."""

    images: tuple[str, ...]
    guest_size: int
    guest_data: int
    """What is written of it."""

    file_systems: tuple[str, ...]
    """Those that share blocks."""

    disk_sizes: tuple[int, ...]
    disk_rounds: int
    copies: tuple[int, ...]
    sparse: int
    """Size of a sparse disk that is copied."""

    copy_rounds: int
    growth_rounds: int
    hosts: tuple[int, ...]
    """Numbers of other guests of the hosts that guests are cloned on."""

    batches: tuple[int, ...]
    extents: tuple[int, ...]
    memory: int
    """Size of the copy during which the server's memory is watched."""

    memory_rounds: int
    cost_rounds: int
    cost_s: float
    """How long a load is watched, in seconds."""

    journalled: int
    """Clones from which the journal's growth is told."""

    neighbour_copies: int
    neighbour_data: int
    neighbour_rounds: int


FULL = Scale(
    name_rounds=5,
    names=1000,
    namers=((1, 1), (1, 4), (1, 16), (1, 64), (2, 1), (2, 8), (4, 1), (4, 16)),
    sizes=(10, 1000, 10_000),
    accept_rounds=20,
    crowd_rounds=4,
    crowds=(8, 64),
    connections=(500, 1000),
    connection_rounds=2,
    patience_s=10.0,
    clones=100,
    clone_rounds=4,
    tool_every=2,
    images=("raw", "qcow2"),
    guest_size=10 * GiB,
    guest_data=2 * GiB,
    file_systems=("xfs", "btrfs"),
    disk_sizes=(GiB, 10 * GiB, 100 * GiB, TiB),
    disk_rounds=4,
    copies=(GiB, 4 * GiB),
    sparse=4 * GiB,
    copy_rounds=3,
    growth_rounds=3,
    hosts=(10, 1000, 5000),
    batches=(1, 10, 100, 1000),
    extents=(1, 100, 1000, 10_000),
    memory=10 * GiB,
    memory_rounds=1,
    cost_rounds=2,
    cost_s=3.0,
    journalled=500,
    neighbour_copies=50,
    neighbour_data=64 * MiB,
    neighbour_rounds=2,
)
QUICK = Scale(
    name_rounds=3,
    names=200,
    namers=((1, 1), (1, 8), (1, 64), (2, 8), (4, 16)),
    sizes=(10, 1000),
    accept_rounds=8,
    crowd_rounds=2,
    crowds=(8, 64),
    connections=(500,),
    connection_rounds=1,
    patience_s=4.0,
    clones=24,
    clone_rounds=2,
    tool_every=2,
    images=("raw",),
    guest_size=2 * GiB,
    guest_data=GiB // 4,
    file_systems=("xfs",),
    disk_sizes=(GiB, TiB),
    disk_rounds=2,
    copies=(GiB // 4,),
    sparse=GiB,
    copy_rounds=2,
    growth_rounds=2,
    hosts=(10, 300),
    batches=(1, 10, 100),
    extents=(1, 1000),
    memory=GiB // 4,
    memory_rounds=1,
    cost_rounds=1,
    cost_s=1.0,
    journalled=100,
    neighbour_copies=12,
    neighbour_data=32 * MiB,
    neighbour_rounds=1,
)
