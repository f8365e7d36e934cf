"""How much is measured: everything, or what two minutes allow."""

from __future__ import annotations

from dataclasses import dataclass

from support.storage import GiB


@dataclass(frozen=True)
class Scale:
    """Sizes in bytes."""

    sizes: tuple[int, ...]
    """Numbers of guests of the hosts that clones are accepted on."""

    accept_rounds: int
    clones: int
    """How many clones make a batch."""

    clone_rounds: int
    tool_every: int
    """Every how many rounds a tool that takes seconds takes its turn."""

    guest_data: int
    """What is written of a guest's 10 GiB."""

    copies: tuple[int, ...]
    copy_rounds: int
    memory: int
    """Size of the copy during which the server's memory is watched."""

    memory_rounds: int


FULL = Scale(
    sizes=(10, 1000, 5000),
    accept_rounds=40,
    clones=100,
    clone_rounds=8,
    tool_every=4,
    guest_data=2 * GiB,
    copies=(GiB, 4 * GiB),
    copy_rounds=5,
    memory=10 * GiB,
    memory_rounds=1,
)
QUICK = Scale(
    sizes=(10, 1000),
    accept_rounds=10,
    clones=40,
    clone_rounds=3,
    tool_every=3,
    guest_data=GiB // 2,
    copies=(GiB,),
    copy_rounds=3,
    memory=GiB,
    memory_rounds=1,
)
