"""Kimchi's model where it is mounted in the same Wok: its two functions that clone are answered by ours.

Kimchi's controllers find each function of its model as an attribute of one object (src/wok/basemodel.py), so that
another one can take its place there, and give it back. What a function is called with and returns is as in Kimchi's
model/vms.py and model/storagevolumes.py; so is what a failure looks like.
"""

from __future__ import annotations

import base64
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import cherrypy

from .. import errors
from ..callers import Caller
from ..control import audit, pages
from ..control.base import within_request
from ..control.caller import current
from ..engine.records import Task
from ..model.accepting import Accepted, Request
from ..model.services import Services
from ..model.storagevolumes import StorageVolumesModel
from ..model.vms import VMsModel
from . import wok
from .entries import KIMCHI, Mirror

log = logging.getLogger(__name__)

_VERSION = "3.0"

_CALLS: dict[str, tuple[str, ...]] = {"vm_clone": ("name",), "storagevolume_clone": ("pool", "name")}
"""What is replaced, and what its controllers call it with."""


def mount() -> str | None:
    """Where Kimchi is mounted, if it is: Wok itself may have a path before it."""
    return next((path for path in list(cherrypy.tree.apps) if path.endswith(KIMCHI)), None)


def model_of(path: str) -> Any:
    """The model of what is mounted there."""
    app = cherrypy.tree.apps.get(path)
    return getattr(getattr(app, "root", None), "model", None)


def roots_with_tasks() -> list[Any]:
    """What is mounted and shows Wok's tasks: Wok's own root, and those of plugins that are made like it."""
    roots = [getattr(app, "root", None) for app in list(cherrypy.tree.apps.values())]
    return [root for root in roots if _shows_tasks(getattr(root, "model", None))]


def _shows_tasks(model: Any) -> bool:
    return all(callable(getattr(model, name, None)) for name in ("tasks_get_list", "task_lookup"))


def teach(root: Any, texts: Mapping[str, str]) -> None:
    """Gives a root the texts of our own codes, which are in its activity log from now on. They stay as long as that."""
    known = getattr(root, "messages", None)
    if isinstance(known, MutableMapping):
        for code, text in texts.items():
            if code.startswith("CLN"):
                known.setdefault(code, text)


def undisturbed(of_wok: Callable[[], None]) -> Callable[[], None]:
    """Wok's cleaning of its queue, which it goes through itself, and fails when one of ours comes or goes meanwhile.

    It is a part of the making of each task, of which nobody would hear any more. What is old is so the next time, too.
    """

    def clean_old_tasks() -> None:
        try:
            of_wok()
        except RuntimeError:
            log.debug("Wok's queue has changed while it was cleaned", exc_info=True)

    return clean_old_tasks


def version() -> str:
    """Kimchi's, where it says so."""
    try:
        return str(wok.module("plugins.kimchi.config").get_kimchi_version())
    except (ImportError, AttributeError):
        return ""


def problem(model: Any) -> str:
    """Why a model is none that we know; empty for one that we do."""
    found = version()
    if found and found != _VERSION and not found.startswith(f"{_VERSION}."):
        return f"this is Kimchi {found}, and only {_VERSION} is known"
    try:
        _ = wok.module("asynctask").tasks_queue, wok.module("exception").WokException
    except (ImportError, AttributeError) as error:
        return f"this Wok is none that is known ({error})"
    for name, arguments in _CALLS.items():
        function = getattr(model, name, None)
        if not callable(function):
            return f"Kimchi's model has no {name}"
        try:
            inspect.signature(function).bind(*arguments)
        except (TypeError, ValueError):
            return f"Kimchi's {name} is called in another way than that of {_VERSION}"
    return ""


@dataclass
class Patch:
    """Functions of an object in the place of which others are, until they are given back."""

    model: Any
    _kept: dict[str, tuple[Any, bool, Any]] = field(default_factory=dict)

    def replace(self, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Puts what `make` makes of the function in its place."""
        old = getattr(self.model, name)
        new = make(old)
        self._kept[name] = (old, name in vars(self.model), new)
        setattr(self.model, name, new)

    def undo(self) -> None:
        """Gives back what nobody else has replaced since."""
        for name, (old, is_own, new) in self._kept.items():
            if vars(self.model).get(name) is not new:
                continue
            if is_own:
                setattr(self.model, name, old)
            else:
                delattr(self.model, name)
        self._kept.clear()


class Functions:
    """Ours in the place of Kimchi's."""

    def __init__(self, services: Services, mirror: Mirror) -> None:
        self._host = services.host
        self._vms = VMsModel(services)
        self._volumes = StorageVolumesModel(services)
        self._mirror = mirror

    def vm_clone(self, name: str) -> dict[str, str]:
        """Accepts the clone of a guest; its task."""
        domain = self._domain(name)
        return self._accept(domain, f"vms/{domain}", lambda caller: self._vms.clone(domain, _request({}, caller)))

    def _domain(self, name: str) -> str:
        """What libvirt calls a guest: of one not called in ASCII Kimchi makes Base64 (model/utils.py)."""
        in_base64 = base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")
        with _in_woks_words(name):
            is_there = name.isascii() or self._host.has_domain(name) or not self._host.has_domain(in_base64)
        return name if is_there else in_base64

    def storagevolume_clone(
        self, pool: str, name: str, new_pool: str | None = None, new_name: str | None = None
    ) -> dict[str, str]:
        """Accepts the clone of a volume, which are there for admins alone; its task."""
        wanted = {"pool": new_pool, "name": new_name}
        params = {key: value for key, value in wanted.items() if value is not None}

        def clone(caller: Caller) -> Accepted:
            if not caller.is_admin:
                raise errors.PoolNotFound(pool=pool)
            return self._volumes.clone(pool, name, _request(params, caller))

        return self._accept(name, f"storagepools/{pool}/storagevolumes/{name}", clone)

    def _accept(self, name: str, source: str, clone: Callable[[Caller], Accepted]) -> dict[str, str]:
        with _in_woks_words(name), within_request(), audit.action("clone", source) as line:
            caller = current()
            if not caller.may_change:
                raise errors.NotLoggedIn
            if pages.is_foreign():
                raise errors.ForeignOrigin
            task = clone(caller).tasks[0]
            line |= {"outcome": audit.ACCEPTED, "task": task.id, "made": task.plan["name"]}
            return self._as_kimchi(task)

    def _as_kimchi(self, task: Task) -> dict[str, str]:
        entry = self._mirror.entry(task)
        return {name: getattr(entry, name) for name in ("id", "status", "message", "target_uri")}

    def get_list(self, of_wok: Callable[..., Any]) -> Callable[..., list[str]]:
        """Wok's list of tasks, without those of ours that are not there for who asks.

        It is a copy: Wok goes through the queue itself, and fails when that changes meanwhile.
        """

        def tasks_get_list(*args: Any, **flags: Any) -> list[str]:
            found, caller = list(of_wok(*args, **flags)), current()
            return [task_id for task_id in found if not self._mirror.hides(task_id, caller)]

        return tasks_get_list

    def lookup(self, of_wok: Callable[..., Any]) -> Callable[..., Any]:
        """Wok's look-up of a task, to which those of ours that are not there for who asks do not exist.

        It asks the queue twice, and fails when one of ours leaves meanwhile.
        """

        def task_lookup(task_id: str, *args: Any, **flags: Any) -> Any:
            with _in_woks_words():
                if self._mirror.hides(task_id, current()):
                    raise errors.TaskNotFound(id=task_id)
                try:
                    return of_wok(task_id, *args, **flags)
                except KeyError as error:
                    raise errors.TaskNotFound(id=task_id) from error

        return task_lookup


def _request(params: dict[str, str], caller: Caller) -> Request:
    return Request(params, KIMCHI, caller)


@contextmanager
def _in_woks_words(name: str = "") -> Iterator[None]:
    try:
        yield
    except errors.ClonerError as error:
        raise wok.exception(error, name) from error


class Icons:
    """The pictures of guests in Kimchi's object store (src/wok/objectstore.py): a clone has its source's."""

    def __init__(self, services: Services, model: Any) -> None:
        self._host = services.host
        self._store = getattr(model, "objstore", None)

    def copy(self, task: Task) -> None:
        """Gives a clone the icon of its source, if that has one. A clone without one is a clone too."""
        if self._store is None:
            return
        try:
            source = self._host.domain(str(task.plan["source"])).uuid
            with self._store as session:
                known = session.get("vm", source, ignore_missing=True)
                if "icon" in known:
                    session.store("vm", str(task.plan["uuid"]), {"icon": known["icon"]}, version() or None)
        except Exception:  # somebody else's data base, and of no matter to the clone
            log.warning("Kimchi's object store takes no icon for %s", task.plan.get("name"), exc_info=True)
