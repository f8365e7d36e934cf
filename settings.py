"""Configuration: one commented file, cloner.conf, where every setting has a default. The command line comes first."""

from __future__ import annotations

import configparser
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import errors

if TYPE_CHECKING:
    from sqlalchemy import URL

DEFAULT_FILE = Path(__file__).resolve().parent / "cloner.conf"
DEMO_INVENTORY = Path(__file__).resolve().parent / "demo" / "inventory.xml"

AUTH_MODES = ("token", "pam", "none")
METRICS_AUTH_MODES = ("token", "none")
LOG_FORMATS = ("auto", "json", "text")
_MAX_PORT = 65535

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Settings:
    """Everything that can be set. Field names are those of cloner.conf, whose comments explain them."""

    connect: str = ""
    state_dir: str = ""
    journal: str = ""
    workers: int = 8
    copies: int = 4
    max_chain: int = 16
    nvram_dir: str = ""
    tpm_dir: str = ""
    keep_tasks_hours: float = 12.0
    max_running_per_user: int = 0
    max_bytes_per_user: int = 0
    kimchi_bridge: bool = False
    host: str = "127.0.0.1"
    port: int = 8010
    server_names: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    auth: str = "token"
    pam_service: str = "cloner"
    admin_groups: str = ""
    user_groups: str = ""
    threads: int = 64
    max_streams: int = 16
    session_minutes: float = 30.0
    log_format: str = "auto"
    metrics_auth: str = "token"
    trusted_proxies: str = ""

    @property
    def is_demo(self) -> bool:
        return self.connect.startswith("test:")

    @property
    def folder(self) -> Path:
        """The state directory. The demo has one of its own, lest its tasks be taken for real ones."""
        if self.state_dir:
            return Path(self.state_dir).expanduser().absolute()
        if os.geteuid() == 0:
            base = Path("/var/lib")
        else:
            base = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
        return base / ("cloner-demo" if self.is_demo else "cloner")

    @property
    def proxies(self) -> tuple[Network, ...]:
        """`trusted_proxies` as networks. Raises InvalidConfiguration."""
        words = self.trusted_proxies.replace(",", " ").split()
        try:
            return tuple(ip_network(word) for word in words)
        except ValueError as error:
            raise errors.InvalidConfiguration(cause=f"trusted_proxies: {error}") from error

    @property
    def journal_url(self) -> str | URL:
        from sqlalchemy import URL  # noqa: PLC0415 - `cloner --help` need not load a data base

        return self.journal or URL.create("sqlite", database=str(self.folder / "journal.sqlite"))


def listed(text: str) -> list[str]:
    """The parts of a setting that may have several, with commas; the name of a group may have spaces."""
    return [part.strip() for part in text.split(",") if part.strip()]


def default_uri() -> str:
    """libvirt's URI for this user: the system's for root, the session's for others."""
    return "qemu:///system" if os.geteuid() == 0 else "qemu:///session"


def demo_uri() -> str:
    """libvirt's in-process test driver with the demo's inventory."""
    return f"test://{DEMO_INVENTORY}"


def load(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings of a file (cloner.conf beside this module if none is named) with overrides that are not None.

    Raises InvalidConfiguration, naming the setting.
    """
    parser = _read(path or DEFAULT_FILE)
    found = {
        name: value for section in ("cloner", "server") if section in parser for name, value in parser[section].items()
    }
    for section in parser.sections():
        if section not in ("wok", "cloner", "server") and not section.startswith("/"):  # "/…" are CherryPy's
            raise errors.InvalidConfiguration(cause=f"there is no section [{section}]")
    known = {field.name: field.type for field in fields(Settings)}
    for name in found.keys() - known.keys():
        raise errors.InvalidConfiguration(cause=f"there is no setting {name}")
    values = {name: _typed(name, str(known[name]), value) for name, value in found.items() if value != ""}
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    return _checked(replace(Settings(), **(values | given)))


def _read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise errors.InvalidConfiguration(cause=error) from error
    return parser


@dataclass(frozen=True)
class Switches:
    """What can be switched while Wok runs: whether the plugin is to be there, and its bridge to Kimchi."""

    enable: bool = True
    kimchi_bridge: bool = False


def switches(path: Path) -> Switches:
    """The switches of a file. To Wok `enable = False` is a text, and therefore true. Raises InvalidConfiguration."""
    parser = _read(path)
    sections = {"enable": "wok", "kimchi_bridge": "cloner"}
    found = {name: parser.get(section, name, fallback="") for name, section in sections.items()}
    return Switches(**{name: _typed(name, "bool", value) for name, value in found.items() if value != ""})


def _text(value: str) -> str:
    """A text without the quotes that it needs where Wok takes values for Python."""
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if is_quoted else value


def _boolean(value: str) -> bool:
    return configparser.ConfigParser.BOOLEAN_STATES[value.lower()]


def _typed(name: str, kind: str, value: str) -> Any:
    try:
        readers: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "bool": _boolean}
        return readers.get(kind, _text)(value)
    except KeyError as error:
        raise errors.InvalidConfiguration(cause=f"{name} must be True or False, not {value}") from error
    except ValueError as error:
        raise errors.InvalidConfiguration(cause=f"{name} must be a number, not {value}") from error


def _checked(settings: Settings) -> Settings:
    problems = {
        f"auth must be one of {', '.join(AUTH_MODES)}": settings.auth not in AUTH_MODES,
        f"log_format must be one of {', '.join(LOG_FORMATS)}": settings.log_format not in LOG_FORMATS,
        f"metrics_auth must be one of {', '.join(METRICS_AUTH_MODES)}": settings.metrics_auth not in METRICS_AUTH_MODES,
        f"port must be 0 to {_MAX_PORT}": not 0 <= settings.port <= _MAX_PORT,
        "workers must be at least 1": settings.workers < 1,
        "copies must be at least 1": settings.copies < 1,
        "max_chain must be at least 1": settings.max_chain < 1,
        "auth pam needs admin_groups or user_groups": settings.auth == "pam"
        and not (settings.admin_groups or settings.user_groups),
        "threads must be at least 2": settings.threads < 2,  # noqa: PLR2004 - one to wait, one to serve
        "max_streams must be 0 or more": settings.max_streams < 0,
        "session_minutes must be more than 0": not 0 < settings.session_minutes < math.inf,
        "max_running_per_user must be 0 or more": settings.max_running_per_user < 0,
        "max_bytes_per_user must be 0 or more": settings.max_bytes_per_user < 0,
        "keep_tasks_hours must be 0 or more": not 0 <= settings.keep_tasks_hours < math.inf,
    }
    cause = next((words for words, is_so in problems.items() if is_so), None)
    if cause:
        raise errors.InvalidConfiguration(cause=cause)
    _ = settings.proxies  # raises as well
    return settings
