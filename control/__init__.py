"""HTTP only: a handler parses, calls one model method, renders.

`sub_nodes` names the resources that the plugin's root serves; Wok reads it to know which paths need a log-in: all do.
"""

from __future__ import annotations

from .batches import Batches
from .config import Config
from .events import Events
from .openapi import OpenAPI
from .storagepools import StoragePools
from .tasks import Tasks
from .vms import VMs

sub_nodes: dict[str, type[Batches | Config | Events | OpenAPI | StoragePools | Tasks | VMs]] = {
    "batches": Batches,
    "config": Config,
    "events": Events,
    "openapi.json": OpenAPI,
    "storagepools": StoragePools,
    "tasks": Tasks,
    "vms": VMs,
}
