"""The bridge to Kimchi: put up and taken down as cloner.conf says, whichever of the two plugins Wok loads first."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

import cherrypy

from ..model.services import Services
from . import kimchi, wok
from .entries import Mirror
from .switch import Switch

log = logging.getLogger(__name__)


class Bridge:
    """One for each time that Wok has loaded the plugin: the last one takes the place of those before it.

    Args:
        texts: of our errors by code, as Wok's activity log looks them up.
    """

    _in_place: Bridge | None = None

    def __init__(self, services: Services, switch: Switch, texts: Mapping[str, str]) -> None:
        self._services = services
        self._switch = switch
        self._texts = texts
        self._lock = threading.RLock()
        self._model: Any = None
        """Kimchi's, as it was looked at last."""

        self._patches: list[kimchi.Patch] = []
        self._showing: dict[int, kimchi.Patch] = {}
        """What shows tasks, by the id of the model that does."""

        self._functions: kimchi.Functions | None = None
        self._mirror: Mirror | None = None
        self._was_told = False

    def start(self) -> None:
        if Bridge._in_place is not None:
            Bridge._in_place.stop()
        Bridge._in_place = self
        self.look()
        cherrypy.engine.subscribe("before_request", self.look)

    def stop(self) -> None:
        if Bridge._in_place is self:
            Bridge._in_place = None
        cherrypy.engine.unsubscribe("before_request", self.look)
        with self._lock:
            self._take_down()

    def look(self) -> None:
        """Does what the file says now. Asked before each request, when Wok may have loaded Kimchi or loaded it anew."""
        try:
            self._look()
        except Exception:  # every request of Wok's goes through here, and few of them are for us
            log.exception("the bridge to Kimchi stays as it was")

    def _look(self) -> None:
        now = self._switch.now
        is_wanted = now.enable and now.kimchi_bridge
        path = kimchi.mount() if is_wanted else None
        model = None if path is None else kimchi.model_of(path)
        if model is not self._model or (is_wanted and model is None and not self._was_told):
            with self._lock:
                self._change(model, is_wanted=is_wanted)
        mirror = self._mirror
        if mirror is not None:
            self._hide_from_others()
            mirror.refresh()  # whoever looks into the queue now finds what was accepted until now

    def _change(self, model: Any, *, is_wanted: bool) -> None:
        if Bridge._in_place is not self or (model is self._model and self._was_told):
            return
        self._take_down()
        self._model = model
        self._was_told = is_wanted
        if not is_wanted:
            return
        problem = "Kimchi is not mounted in this Wok" if model is None else kimchi.problem(model)
        if problem:
            _say(f"kimchi_bridge is on, but {problem}: its clone buttons stay its own", logging.WARNING)
        else:
            self._put_up(model)

    def _put_up(self, model: Any) -> None:
        mirror = Mirror(self._services, kimchi.Icons(self._services, model).copy)
        functions = kimchi.Functions(self._services, mirror)
        patch = kimchi.Patch(model)
        patch.replace("vm_clone", lambda _old: functions.vm_clone)
        patch.replace("storagevolume_clone", lambda _old: functions.storagevolume_clone)
        cleaning = kimchi.Patch(wok.module("asynctask"))
        if hasattr(cleaning.model, "clean_old_tasks"):
            cleaning.replace("clean_old_tasks", kimchi.undisturbed)
        self._patches = [patch, cleaning]
        self._functions = functions
        self._mirror = mirror
        self._hide_from_others()
        mirror.start()  # what is not theirs is hidden from others before it is there
        _say("kimchi_bridge is on: Kimchi's clone buttons are answered by cloner")

    def _hide_from_others(self) -> None:
        """Wok's root shows all tasks, and so does each plugin's that is made like it, some without a log-in."""
        for root in kimchi.roots_with_tasks():
            if id(root.model) in self._showing:
                continue
            with self._lock:
                if self._functions is None or id(root.model) in self._showing:
                    continue
                shown = self._showing[id(root.model)] = kimchi.Patch(root.model)
                shown.replace("tasks_get_list", self._functions.get_list)
                shown.replace("task_lookup", self._functions.lookup)
                kimchi.teach(root, self._texts)

    def _take_down(self) -> None:
        if self._mirror is None:
            return
        self._mirror.stop()  # and gone before it is not hidden any more
        for patch in [*self._showing.values(), *reversed(self._patches)]:
            patch.undo()
        self._patches = []
        self._showing = {}
        self._functions = None
        self._mirror = None
        _say("kimchi_bridge is off: Kimchi's clone buttons are its own again")


def _say(text: str, level: int = logging.INFO) -> None:
    """In Wok's log, which takes no others."""
    cherrypy.log(text, "CLONER", level)
