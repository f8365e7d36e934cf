"""A libvirtd of the tests' own: unprivileged, with the real QEMU driver, in a folder that disappears with it.

It is libvirt's session daemon (https://libvirt.org/daemons.html) with every directory that it uses (HOME and
the four XDG ones) in a temporary folder, so that nothing of the host's libvirt is seen or touched.
"""

from __future__ import annotations

import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

import libvirt

from support.running import CommandError, run, tail, wait_until

ACCOUNT = "nobody"  # libvirtd runs as this when we are root; without a passwd entry it starts no guest
START_TIMEOUT = 30.0  # seconds
STOP_TIMEOUT = 30.0  # seconds; libvirtd ends only after the calls that it is serving
KILL_TIMEOUT = 10.0  # seconds
SOCKET_PATH_LIMIT = 107  # bytes, of sockaddr_un's sun_path (man 7 unix)
REAPER = Path(__file__).with_name("reaper.py")
LONGEST_SOCKET = "c/libvirt/qemu/channel/target/domain-999-twenty-characters-at/org.qemu.guest_agent.0"
DIRECTORIES = {
    "HOME": "home",
    "XDG_RUNTIME_DIR": "r",  # this and the next are short for their sockets' sake
    "XDG_CONFIG_HOME": "c",
    "XDG_CACHE_HOME": "cache",
    "XDG_DATA_HOME": "data",
    "TMPDIR": "tmp",
}

# journald is the default log where it runs; "file" and "none" keep virtlogd and AppArmor's helper out of it.
LIBVIRTD_CONF = 'log_outputs = "3:stderr"\n'
QEMU_CONF = 'stdio_handler = "file"\nsecurity_driver = "none"\n'


def as_unprivileged(*argv: str) -> list[str]:
    """The command that runs `argv` without privileges: through setpriv when we are root, else as it is."""
    if os.geteuid():
        return list(argv)
    uid, gid = unprivileged_ids()
    return ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *argv]


def unprivileged_ids() -> tuple[int, int]:
    """The uid and gid that as_unprivileged() runs a command with."""
    if os.geteuid():
        return os.geteuid(), os.getegid()
    account = pwd.getpwnam(ACCOUNT)
    return account.pw_uid, account.pw_gid


class PrivateLibvirtd:
    """A private libvirtd: `with PrivateLibvirtd() as daemon: conn = daemon.open()`.

    `folder` (made when it is None) belongs to the daemon and is removed by close(), with every process that
    it started. Its path must be short: sockets lie below it. `uid` and `gid` own what the daemon writes.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="lv-"))
        if len(os.fsencode(self.folder / LONGEST_SOCKET)) > SOCKET_PATH_LIMIT:
            raise ValueError(f"{self.folder} is too long for sockets below it: set TMPDIR to a shorter path")
        self.uid, self.gid = unprivileged_ids()
        self.socket = self.folder / "r/libvirt/libvirt-sock"
        """Where it listens, for its own account."""

        self._log_file = self.folder / "libvirtd.log"
        self._reapers: list[subprocess.Popen[str]] = []  # one for each start, while it has children
        self._pidfd = -1
        self.pid = 0
        """The process id of the daemon that was started last."""

        self._prepare()

    @property
    def uri(self) -> str:
        """The URI to connect to; it stays the same over restarts."""
        return f"qemu+unix:///session?socket={self.socket}"

    @property
    def log(self) -> str:
        """The last lines of the daemon's log (warnings and errors)."""
        return tail(self._log_file)

    @property
    def running(self) -> bool:
        """Whether the daemon itself runs (its guests may do so without it)."""
        return self._pidfd >= 0 and not _has_ended(self._pidfd)

    def open(self) -> libvirt.virConnect:
        """A new connection; libvirt.libvirtError when the daemon is down."""
        return libvirt.open(self.uri)

    def start(self) -> None:
        """Start the daemon, or start it again on what the last one left, and wait until it answers.

        Raises FileNotFoundError when libvirtd or virsh is missing, RuntimeError when libvirtd ends at once,
        TimeoutError when it does not answer within START_TIMEOUT.
        """
        if self.running:
            raise RuntimeError("this libvirtd is running already")
        command = as_unprivileged(_find("libvirtd"), "--config", str(self.folder / "libvirtd.conf"))
        with self._log_file.open("ab") as log:
            reaper = subprocess.Popen(
                [sys.executable, str(REAPER), *command],
                env=self._environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._reapers.append(reaper)
        self._pidfd = self._open_pidfd(reaper)
        wait_until(self._answers, START_TIMEOUT, "libvirtd answers", lambda: self.log)

    def stop(self) -> None:
        """End the daemon in order (SIGTERM); its guests run on. TimeoutError after STOP_TIMEOUT."""
        self._end(signal.SIGTERM, STOP_TIMEOUT)

    def kill(self) -> None:
        """SIGKILL the daemon alone: guests, and a qemu-img in the middle of a copy, run on."""
        self._end(signal.SIGKILL, KILL_TIMEOUT)

    def restart(self) -> None:
        """stop() and start()."""
        self.stop()
        self.start()

    def processes(self) -> list[int]:
        """The pids of the daemon and of all that it started: libvirt hands HOME down to each of them."""
        mark = f"HOME={self.folder}/home".encode()
        reapers = {reaper.pid for reaper in self._reapers}
        return [pid for pid in _pids() if pid not in reapers and mark in _environment_of(pid)]

    def close(self) -> None:
        """Kill every process of the daemon and remove the folder; can be repeated."""
        self._forget_pidfd()
        wait_until(self._kill_all, KILL_TIMEOUT, f"the processes of {self.folder} end", lambda: self.log)
        for reaper in self._reapers:
            reaper.wait(KILL_TIMEOUT)  # each ends by itself, after the last of its children
        self._reapers.clear()
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def __enter__(self) -> PrivateLibvirtd:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> None:
        for name in (*DIRECTORIES.values(), "c/libvirt"):
            (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.folder / "libvirtd.conf").write_text(LIBVIRTD_CONF)
        (self.folder / "c/libvirt/qemu.conf").write_text(QEMU_CONF)
        self.folder.chmod(0o755)
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, self.uid, self.gid)

    def _environment(self) -> dict[str, str]:
        places = {key: str(self.folder / name) for key, name in DIRECTORIES.items()}
        kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
        return kept | places | {"LC_ALL": "C.UTF-8"}

    def _answers(self) -> bool:
        if not self.running:
            raise RuntimeError(f"libvirtd ended at its start\n{self.log}")
        try:  # `version` makes libvirtd examine QEMU, which costs the first start most of its second
            run("virsh", "--connect", self.uri, "version", timeout=START_TIMEOUT)
        except CommandError:
            return False
        return True

    def _open_pidfd(self, reaper: subprocess.Popen[str]) -> int:
        """A handle of the daemon itself, which no other process can take over."""
        assert reaper.stdout is not None  # it is a pipe
        with reaper.stdout as answer:
            pid = answer.readline()
        try:
            self.pid = int(pid)
            return os.pidfd_open(self.pid)
        except (ValueError, ProcessLookupError) as error:
            raise RuntimeError(f"libvirtd ended at its start\n{self.log}") from error

    def _forget_pidfd(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._pidfd = -1

    def _end(self, number: signal.Signals, timeout: float) -> None:
        if not self.running:
            raise RuntimeError(f"this libvirtd is not running\n{self.log}")
        signal.pidfd_send_signal(self._pidfd, number)
        if not _has_ended(self._pidfd, timeout):
            raise TimeoutError(f"libvirtd outlived {number.name} by {timeout:g} s\n{self.log}")
        self._forget_pidfd()

    def _kill_all(self) -> bool:
        """Kill what is left; true when nothing was (a process being killed may have started another)."""
        left = self.processes()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not left


def _has_ended(pidfd: int, timeout: float = 0.0) -> bool:
    """Whether a process ends within `timeout` seconds; its pidfd then becomes readable (man 2 pidfd_open)."""
    return bool(select.select([pidfd], [], [], timeout)[0])


def _find(program: str) -> str:
    """The path of a program; Debian's unprivileged accounts have no sbin in PATH."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise FileNotFoundError(f"{program} is not installed")
    return path


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _environment_of(pid: int) -> list[bytes]:
    """A process's environment; empty when it has ended or belongs to somebody else."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
