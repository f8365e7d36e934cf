"""A plugin like Kimchi 3.0: github.com/kimchi-project/kimchi. Its guests are those of the libvirt that cloner has.

libvirt's test driver shows each connection a host of its own, so that this one has to look through cloner's.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from typing import Any

import cherrypy
from lxml import etree

from support.wok.asynctask import AsyncTask, TaskModel, TasksModel
from support.wok.basemodel import BaseModel
from support.wok.config import config, plugins_folder
from support.wok.control import Collection, Resource
from support.wok.exception import NotFoundError
from support.wok.objectstore import ObjectStore
from support.wok.root import Root

MESSAGES = {"KCHVM0002E": "Virtual machine %(name)s does not exist", "KCHVOL0002E": "No storage volume %(name)s"}
ICON = "plugins/kimchi/images/icon-fedora.png"
AUTOMATIC = ("vm_clone", "storagevolume_clone", "tasks_get_list", "task_lookup")


def get_kimchi_version() -> str:
    """config.py.in, get_kimchi_version."""
    return os.environ["KIMCHI_VERSION"]


def services() -> Any:
    """Cloner's, if it is mounted."""
    app = cherrypy.tree.apps.get("/plugins/cloner")
    return app and app.root.services


def access(xml: str) -> tuple[list[str], list[str]]:
    """model/vms.py, VMModel._get_access_info: the users and groups that a guest's metadata name for Wok's log-in."""
    method = config.get("authentication", "method")
    node = etree.fromstring(xml).find("metadata/*/access")
    if node is None or (node.find("auth") is None and method != "pam"):
        return [], []
    place = "" if node.find("auth") is None else f"auth[@type='{method}']/"
    users, groups = ([str(found.text) for found in node.iterfind(place + kind)] for kind in ("user", "group"))
    return users, groups


class VMsModel:
    """model/vms.py, VMsModel."""

    def get_list(self) -> list[str]:
        """The names of all guests."""
        found = services()
        return sorted(guest.name for guest in found.guests()) if found else ["web"]


class VMModel:
    """model/vms.py, VMModel."""

    def lookup(self, name: str) -> dict[str, Any]:
        """A guest; model/utils.py, get_ascii_nonascii_name. An error of libvirt's is Kimchi's."""
        found = services()
        if found is None:
            return {"name": name, "state": "shutoff", "users": [], "groups": []}
        try:
            in_libvirt = name if name.isascii() else base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")
            domain = found.host.domain(in_libvirt)
        except Exception as error:
            raise NotFoundError("KCHVM0002E", {"name": name}) from error
        users, groups = access(domain.xml)
        return {"name": name, "state": domain.state, "users": users, "groups": groups}

    def clone(self, name: str) -> dict[str, Any]:
        """Kimchi's own way, of which the tests only have to know that it was gone."""
        return by_kimchi(f"vms/{name}-by-kimchi")


class StorageVolumeModel:
    """model/storagevolumes.py, StorageVolumeModel."""

    def lookup(self, pool: str, name: str) -> dict[str, Any]:
        """A volume."""
        try:
            services().host.volume(pool, name)
        except Exception as error:
            raise NotFoundError("KCHVOL0002E", {"name": name}) from error
        return {"name": name}

    def clone(self, pool: str, name: str, new_pool: str | None = None, new_name: str | None = None) -> dict[str, Any]:
        """As that of a guest."""
        return by_kimchi(f"storagepools/{new_pool or pool}/storagevolumes/{new_name or name}-by-kimchi")


def by_kimchi(path: str) -> dict[str, Any]:
    """A task of Kimchi's own that has nothing to do."""
    task = AsyncTask(f"/plugins/kimchi/{path}/clone", lambda tell: tell("OK", True))
    return TaskModel().lookup(task.id)


def storagepool(model: Any, pool: str) -> Any:
    """control/storagepools.py: a pool, and its volumes below it."""
    found = Resource(model, "storagepool", [pool])
    found.storagevolumes = Collection(  # type: ignore[attr-defined]  # as CherryPy finds it
        model,
        "storagevolumes",
        lambda name: Resource(model, "storagevolume", [pool, name], ("clone",)),
        (pool,),
    )
    return found


class Authenticated:
    """src/wok/control/utils.py, UrlSubNode: what Wok's loader reads of a resource."""

    url_auth = True


sub_nodes = {"vms": Authenticated, "storagepools": Authenticated}
"""control/__init__.py; its tasks are those of Wok's root, and not among them: nobody is asked for a log-in there."""


class Kimchi(Root):
    """root.py, Kimchi: with the model that its resources share, and which keeps an object store."""

    def __init__(self, _options: object) -> None:
        model: Any = BaseModel([TasksModel(), TaskModel(), VMsModel(), VMModel(), StorageVolumeModel()])
        if get_kimchi_version().endswith("otherwise"):
            model.vm_clone = lambda name, options: by_kimchi(f"vms/{name}-{options}")
        model.objstore = ObjectStore(plugins_folder() / "kimchi" / "objectstore")
        super().__init__(model, "kimchi", MESSAGES)
        self.vms = Collection(model, "vms", lambda name: Resource(model, "vm", [name], ("clone",)))
        self.storagepools = Collection(model, "storagepools", lambda pool: storagepool(model, pool))
        self._own: dict[str, Callable[..., Any]] = {name: getattr(model, name) for name in AUTOMATIC}

    def own_functions(self) -> list[str]:
        """Not Kimchi's: the functions of its model that are as it made them."""
        return [name for name in AUTOMATIC if getattr(self.model, name) is self._own[name]]

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def icons(self, uuid: str, icon: str | None = None) -> bytes:
        """Not Kimchi's: reads what its object store has of a guest, or gives it an icon."""
        with self.model.objstore as session:
            if icon is not None:
                session.store("vm", uuid, {"icon": icon}, get_kimchi_version())
            return repr((session.get("vm", uuid, ignore_missing=True), session.versions("vm", uuid))).encode()

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def busy(self, is_on: str) -> bytes:
        """Not Kimchi's: with `yes` somebody is within its object store, and leaves it with `no`."""
        if is_on == "yes":
            self.model.objstore.__enter__()
        else:
            self.model.objstore.__exit__()
        return b"{}"
