"""HTTP only: a handler parses, calls one model method, renders.

`sub_nodes` names the resources that the plugin's root serves; Wok reads it to know which paths need a log-in: all do.
Inside Wok these are the files of our tab, too.
"""

from __future__ import annotations

from ..bridge.tab import UI, I18n, Tabs
from .batches import Batches
from .config import Config
from .events import Events
from .openapi import OpenAPI
from .storagepools import StoragePools
from .tasks import Tasks
from .vms import VMs

Node = Batches | Config | Events | I18n | OpenAPI | StoragePools | Tabs | Tasks | UI | VMs

tab_nodes: dict[str, type[Node]] = {"i18n.json": I18n, "tabs": Tabs, "ui": UI}

sub_nodes: dict[str, type[Node]] = {
    "batches": Batches,
    "config": Config,
    "events": Events,
    "openapi.json": OpenAPI,
    "storagepools": StoragePools,
    "tasks": Tasks,
    "vms": VMs,
    **(tab_nodes if __package__.startswith("wok.plugins.") else {}),
}
