"""The command line: `cloner serve`, what works on its journal without it, and the client's commands."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from .. import __version__, errors
from ..client import options as client_options
from ..client.output import PIPE_CLOSED, leave_output
from ..settings import AUTH_MODES, LOG_FORMATS, Settings, default_uri, demo_uri, load
from . import backup_command, logs, token_commands

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, or 2 for what the user must change."""
    options = parser().parse_args(arguments)
    try:
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except errors.ClonerError as error:
        print(f"cloner: {error.reason}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who read the output has seen enough
        leave_output()
        return PIPE_CLOSED


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="cloner", description="Clones libvirt guests and volumes.")
    parser.add_argument("--version", action="version", version=f"cloner {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve the REST API and the page",
        description="Serves the REST API and the page: on the host's libvirt, or, if none answers, on a demo.",
    )
    _add_common(serve)
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (default 8010; 0 picks a free one)")
    serve.add_argument("--tls-cert", metavar="FILE", help="certificate chain as PEM; then the server speaks HTTPS")
    serve.add_argument("--tls-key", metavar="FILE", help="its key, where that is in another file")
    serve.add_argument(
        "--auth", choices=AUTH_MODES, help="token (default), pam, or none, which a loopback address only may have"
    )
    serve.add_argument("--log-format", choices=LOG_FORMATS, help="auto (default) is text on a terminal, else json")
    serve.set_defaults(run=_serve)
    audit = commands.add_parser(
        "audit",
        help="list what domains share and should not",
        description="Lists every UUID, genid, MAC, NVRAM, socket, log and writable disk that any two domains share.",
    )
    _add_common(audit)
    audit.add_argument("--json", action="store_true", help="print a JSON object: what is shared, and by whom")
    audit.set_defaults(run=_audit)
    recover = commands.add_parser(
        "recover",
        help="finish or undo what a server left that died",
        description="Finishes or undoes the clones of servers that died. A server that starts does this by itself.",
    )
    _add_common(recover)
    recover.add_argument("--dry-run", action="store_true", help="only say what would be undone")
    recover.set_defaults(run=_recover)
    token_commands.add_to(commands, _add_common, lambda options: _settings(options, ("connect", "state_dir")))
    backup_command.add_to(commands)
    client_options.add_to(parser, commands)
    return parser


def _add_common(command: argparse.ArgumentParser) -> None:
    where = command.add_mutually_exclusive_group()
    where.add_argument("--connect", metavar="URI", help="libvirt to work on; left out: the host's")
    where.add_argument("--demo", action="store_true", help="work on libvirt's test driver with a made-up inventory")
    command.add_argument("--state-dir", metavar="DIR", help="where the journal and the token lie")
    command.add_argument("--config", metavar="FILE", type=Path, help="configuration file in the manner of cloner.conf")


def _serve(options: argparse.Namespace) -> int:
    names = ("connect", "host", "port", "state_dir", "auth", "tls_cert", "tls_key", "log_format")
    settings = _settings(options, names)
    _refuse_open_door(settings)
    logs.configure(settings.log_format)
    _say_where(settings)
    from . import http, systemd  # noqa: PLC0415 - `cloner --help` need not load a web server

    http.check_address(settings)
    http.tls_context(settings)
    http.check_pam(settings)
    site = http.mount(settings)
    manager = systemd.Systemd(os.environ)
    address = http.start(settings)
    systemd.introduce(manager, site.status)
    log.info("ready at %s", address)
    link = "" if site.door.is_open else f"?once={site.door.one_time_link()}"
    print(f"cloner {__version__} is ready: open {address}/{link}", flush=True)
    http.wait()
    _leave(0)


def _leave(status: int) -> NoReturn:
    """Ends this process, in order, but without taking Python apart.

    A call of libvirt's that another thread is in may end in that moment, and calls into Python for its event loop: the
    process would crash, after all was done, and who started it would be told that it failed.
    """
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


def _audit(options: argparse.Namespace) -> int:
    from . import commands  # noqa: PLC0415 - as above

    _leave(commands.audit(_settings(options, ("connect", "state_dir")), as_json=options.json))


def _recover(options: argparse.Namespace) -> int:
    from . import commands  # noqa: PLC0415 - as above

    _leave(commands.recover(_settings(options, ("connect", "state_dir")), dry_run=options.dry_run))


def _settings(options: argparse.Namespace, names: Sequence[str]) -> Settings:
    """The settings with a URI: the one that was given, or the host's.

    Only who serves falls back on the demo, and says so: to recover the demo's journal in the host's place, or to audit
    guests that there are not, would be a lie.
    """
    settings = load(options.config, {name: getattr(options, name) for name in names})
    if options.demo:
        return replace(settings, connect=demo_uri())
    if settings.connect:
        return settings
    may_be_demo = options.run is _serve and not _host_libvirt_answers()
    return replace(settings, connect=demo_uri() if may_be_demo else default_uri())


def _host_libvirt_answers() -> bool:
    """Whether somebody listens on the socket of libvirtd, or of virtqemud where libvirt is modular."""
    runtime = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.geteuid()}")
    return any(_answers(Path(runtime, "libvirt", name)) for name in ("libvirt-sock", "virtqemud-sock"))


def _answers(path: Path) -> bool:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _refuse_open_door(settings: Settings) -> None:
    if settings.auth != "none" or settings.host == "localhost":
        return
    try:
        is_loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        cause = f"auth none lets everybody in, so it needs a loopback address such as 127.0.0.1, not {settings.host}"
        raise errors.InvalidConfiguration(cause=cause)


def _say_where(settings: Settings) -> None:
    if settings.is_demo:
        log.warning("DEMO. The guests and volumes are made up (libvirt's test driver); nothing real is touched.")
    else:
        log.info("working on the libvirt of %s. Clones are real.", settings.connect)
