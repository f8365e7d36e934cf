"""The CherryPy application: builds the model and hangs the controllers on it."""

from __future__ import annotations

import inspect
import logging
import socket
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import cherrypy

from . import errors
from .bridge import activity, wok
from .bridge.bridge import Bridge
from .bridge.switch import Switch
from .clock import wall_clock
from .control import sub_nodes, tab_nodes
from .control.activity import listeners
from .control.base import config
from .control.openapi import OpenAPI
from .control.validation import api_schema
from .engine.copying import methods
from .engine.domainxml import PAM
from .engine.executor import Bounds, Executor
from .engine.journal import Journal
from .engine.lease import Lease
from .engine.ledger import Ledger
from .engine.observer import Observer
from .engine.survey import Surveyor
from .engine.tokens import Tokens
from .hypervisor.connection import Connections
from .hypervisor.host import Host
from .hypervisor.infos import VolumeInfo
from .hypervisor.inventory import Inventory
from .hypervisor.making import VolumeMaker
from .hypervisor.places import places
from .model.batches import BatchesModel
from .model.deletions import Deletions
from .model.feed import Feed
from .model.foresight import Foresight
from .model.gone import GoneClones
from .model.guests import read_guest
from .model.holding import release_left
from .model.keys import KEPT_US
from .model.limits import Limits
from .model.services import Services
from .model.usage import running_users
from .settings import Settings, default_uri, load

log = logging.getLogger(__name__)

_STOP_PRIORITY = 60
"""After CherryPy's HTTP server (25), so that nothing is accepted any more when the workers end."""

_STREAMS_END_PRIORITY = 10
"""Before CherryPy's HTTP server, which waits for the requests that it serves."""

STOP_PATIENCE_S = 3.0
_HOUSEKEEPING_INTERVAL_S = 60.0


class Cloner:
    """The root of the plugin, as Wok's loader and `cloner serve` mount it.

    Args:
        options: Wok's options, which hold nothing that this plugin needs, or the Settings of `cloner serve`.
        observer: is told what becomes of clones.

    Raises InvalidConfiguration, JournalUnavailable and JournalTooNew.
    """

    domain = "cloner"
    depends: tuple[str, ...] = ()
    extends: Mapping[str, Any] = {}
    openapi_json: OpenAPI
    """By the name that CherryPy has for `openapi.json`."""

    _at_work: ClassVar[Cloner | None] = None
    """Whose services work inside Wok, which loads the plugin once more each time that it is enabled on its page."""

    def __init__(self, options: object = None, observer: Observer | None = None) -> None:
        is_ours = isinstance(options, Settings)  # of `cloner serve`
        self._switch = None if is_ours else Switch(wok.conf_file())
        if self._switch is not None and not self._switch.now.enable:
            raise errors.InvalidConfiguration(cause=f"enable is False in {wok.conf_file()}, so it stays out")
        settings = options if isinstance(options, Settings) else _inside(load(wok.conf_file()))
        settings = settings if settings.connect else replace(settings, connect=default_uri())
        self.messages = activity.messages(_texts())
        self.paths = _Paths()
        self.api_schema = api_schema()
        before = None if is_ours else Cloner._at_work
        self._takes_over = before is not None
        if before is not None:
            _tell_of_changes(settings, before.settings)
        self.settings: Settings = before.settings if before else settings
        self.services: Services = (
            before.services if before else build(settings, observer, wok.log_in(), plain_names=bool(wok.NAME))
        )
        for name, controller in sub_nodes.items():
            setattr(self, name.replace(".", "_"), controller(self.services))
        self.openapi_json.resources = {name: node for name, node in sub_nodes.items() if name not in tab_nodes}
        self._bridge = None if self._switch is None else Bridge(self.services, self._switch, self.messages)
        if wok.NAME and activity.tell not in listeners:
            listeners.append(activity.tell)
        self._gone = GoneClones(self.services)
        self._deletions = Deletions(self.services)
        self._batches = BatchesModel(self.services)
        self._housekeeping = cherrypy.process.plugins.BackgroundTask(
            _HOUSEKEEPING_INTERVAL_S, self._keep_house, bus=cherrypy.engine
        )
        cherrypy.engine.subscribe("start", self.start)
        cherrypy.engine.subscribe("stop", self.services.feed.stop, priority=_STREAMS_END_PRIORITY)
        cherrypy.engine.subscribe("stop", self.stop, priority=_STOP_PRIORITY)
        if cherrypy.engine.state == cherrypy.engine.states.STARTED:  # Wok loads what is enabled on its page at once
            self.start()

    @property
    def resources(self) -> frozenset[str]:
        """What is there below the mount. Switched off while Wok runs, the plugin stays mounted and is empty."""
        is_there = self._switch is None or self._switch.now.enable
        return frozenset(sub_nodes) if is_there else frozenset()

    def get_custom_conf(self) -> dict[str, dict[str, Any]]:
        """What CherryPy must know of this mount. Wok gives up its own settings of the root for these."""
        return {"/": _wok_config() | config()} | (_wok_files() if wok.NAME else {})

    def start(self) -> None:
        """Starts the threads: after CherryPy has turned into a daemon, since a fork would lose them."""
        if not self._takes_over:
            self.services.inventory.start()
            self.services.connections.start()
            self.services.executor.start()
            self._housekeeping.start()
        if self._bridge is not None:
            self._bridge.start()
            Cloner._at_work = Cloner._at_work or self

    def stop(self) -> None:
        """Ends or undoes what runs; what takes longer than STOP_PATIENCE_S is left to the next start."""
        if self._bridge is not None:
            self._bridge.stop()
            Cloner._at_work = None
        if self._takes_over:  # whoever started them ends them
            return
        self._housekeeping.cancel()
        if not self.services.executor.stop(STOP_PATIENCE_S):
            cherrypy.log("a copy goes on in libvirt; the next start removes what it leaves", severity=30)
        self.services.connections.stop()
        self.services.inventory.stop()
        self._write_uses()
        self.services.journal.close()
        self.services.lease.release()

    def _keep_house(self) -> None:
        for work in (
            self._age_out,
            self._write_uses,
            self._release_left,
            self._finish_deletions,
            self._finish_withdrawals,
            self._forget_gone,
        ):
            try:
                work()
            except Exception:  # CherryPy ends a background task for good at its first one; the stack is in the log
                log.exception("housekeeping stumbled")

    def _age_out(self) -> None:
        try:
            now = wall_clock()
            kept = int(self.settings.keep_tasks_hours * 3_600_000_000)
            self.services.journal.age_out(now - kept, now - max(kept, KEPT_US))
        except errors.ClonerError as error:
            log.warning("old tasks stay in the list for now: %s", error)

    def _write_uses(self) -> None:
        try:
            self.services.tokens.write_uses()
        except errors.ClonerError as error:
            log.warning("when tokens were last used is not written down: %s", error)

    def _forget_gone(self) -> None:
        try:
            self._gone.sweep()
        except errors.ClonerError as error:
            log.warning("clones that are gone are kept in mind for now: %s", error)

    def _release_left(self) -> None:
        try:
            release_left(self.services)
        except errors.ClonerError as error:
            log.warning("images that nobody holds any more are kept for now: %s", error)

    def _finish_deletions(self) -> None:
        try:
            self._deletions.sweep()
        except errors.ClonerError as error:
            log.warning("the storage of deleted guests is kept for now: %s", error)

    def _finish_withdrawals(self) -> None:
        try:
            self._batches.sweep()
        except errors.ClonerError as error:
            log.warning("batches that are to be undone are kept for now: %s", error)


def _tell_of_changes(settings: Settings, at_work: Settings) -> None:
    if replace(settings, kimchi_bridge=False) != replace(at_work, kimchi_bridge=False):
        cherrypy.log("settings that changed take effect when Wok starts anew", "CLONER", logging.WARNING)


def _inside(settings: Settings) -> Settings:
    """Settings for a server that is another's: half of its threads are for everything else of it."""
    return replace(settings, threads=max(2, cherrypy.server.thread_pool // 2))


class _Paths:
    """Where Wok finds the plugin's files."""

    def __init__(self) -> None:
        self.prefix = str(Path(__file__).resolve().parent)
        self.conf_dir = self.prefix
        self.src_dir = self.prefix
        self.ui_dir = str(Path(self.prefix, "ui"))
        self.mo_dir = str(Path(self.prefix, "mo"))


def _wok_config() -> dict[str, Any]:
    """Inside Wok: what it sets for a plugin's root (src/wok/config.py, PluginConfig), such as sessions, and its log-in.

    Wok itself asks for the log-in on the paths of `sub_nodes` only; what is not there is nobody's business either.
    """
    if not wok.NAME:
        return {}
    settings: dict[str, Any] = wok.module("config").PluginConfig(wok.NAME)["/"]
    return settings | {"tools.wokauth.on": True}


def _wok_files() -> dict[str, dict[str, Any]]:
    """In the place of the files that Wok would serve by itself, some without a log-in: the one that it asks for."""
    file = Path(__file__).resolve().parent / "ui" / "config" / "tab-ext.xml"
    nothing = {"tools.staticdir.on": False, "tools.wokauth.on": True}
    served = {"tools.staticfile.on": True, "tools.staticfile.filename": str(file), "tools.wokauth.on": True}
    return {"/css": nothing, "/js": nothing, "/images": nothing, "/ui/config/tab-ext.xml": served}


def build(
    settings: Settings, observer: Observer | None = None, log_in: str = PAM, *, plain_names: bool = False
) -> Services:
    """`log_in` is the kind of log-in that users have, `plain_names` whether pages beside ours take names for markup."""
    observer = observer or Observer()
    folder = settings.folder
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lease = Lease(folder / "servers", settings.connect)
    except OSError as error:
        raise errors.InvalidConfiguration(cause=f"the state directory cannot be used: {error}") from error
    journal = Journal(settings.journal_url)
    if settings.journal:
        _check_home(journal, folder)
    connections = Connections(settings.connect, long_calls=settings.copies)
    host = Host(connections)
    ways = methods(VolumeMaker(connections, host))
    own = places(settings.connect, settings.nvram_dir, settings.tpm_dir)
    inventory = Inventory(connections, host, partial(read_guest, places=own, log_in=log_in), lambda guest: guest.marks)
    ledger = Ledger(journal, host, lease, observer)

    def users(volume: VolumeInfo, but: str) -> list[str]:
        return running_users(inventory, host, volume, but=but)

    executor = Executor(journal, host, ways, ledger, Bounds(settings.workers, settings.copies), users)
    inventory.on_started = executor.domain_started
    inventory.on_read = lambda guest: None if guest.is_off else executor.images_written(guest.written)
    surveyor = Surveyor(
        host,
        is_local=connections.is_local,
        is_test=connections.is_test_driver,
        places=own,
        max_chain=settings.max_chain,
    )
    tokens = Tokens(journal)
    feed = Feed(journal, min(settings.max_streams, settings.threads // 2), settings.threads // 2)
    inventory.on_change = feed.guest_changed
    limits = Limits(settings.max_running_per_user, settings.max_bytes_per_user)
    return Services(
        connections=connections,
        host=host,
        journal=journal,
        executor=executor,
        ledger=ledger,
        lease=lease,
        surveyor=surveyor,
        inventory=inventory,
        tokens=tokens,
        limits=limits,
        foresight=Foresight(journal),
        observer=observer,
        feed=feed,
        places=own,
        log_in=log_in,
        plain_names=plain_names,
    )


def _check_home(journal: Journal, folder: Path) -> None:
    """Servers that share a journal must see each other's leases, or they would undo each other's running clones."""
    here = f"{socket.gethostname()}:{folder.resolve()}"
    home = journal.home(here)
    if home != here:
        cause = f"this journal belongs to the servers with the state directory {home}, and this one has {here}"
        raise errors.InvalidConfiguration(cause=cause)


def _texts() -> dict[str, str]:
    """The texts of our errors by code."""
    classes = (
        member for _, member in inspect.getmembers(errors, inspect.isclass) if issubclass(member, errors.ClonerError)
    )
    return {member.code: member.text for member in classes}
