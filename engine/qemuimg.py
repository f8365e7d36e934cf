"""qemu-img as a process of ours: what it copies, how far it is, and an end at once when it is not wanted any more."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from .. import errors
from .chain import Image
from .job import Job

PROGRAM = "qemu-img"

_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")
_POLL_S = 0.1
_KEPT_OUTPUT = 4096
_MEASURE_S = 20.0


@cache
def is_installed() -> bool:
    return shutil.which(PROGRAM) is not None


def plain_file(path: str) -> str:
    """A path as qemu-img takes it for a file, whatever characters it has: `nbd:x` is a URI to it otherwise."""
    return f"file:{path}"


def flat_source(images: Sequence[Image]) -> str:
    """An image on its backing files, each with its format, in QEMU's `json:` form: nothing is probed or looked up.

    What the images themselves say of their backing files has no effect then (QEMU's manual, "QEMU disk images").
    """
    node: Mapping[str, Any] | None = None
    for image in reversed(images):
        file = {"driver": "file", "filename": image.path}
        below = {} if image.format == "raw" else {"backing": node}
        node = {"driver": image.format, "file": file, **below}
    return "json:" + json.dumps(node)


def measure(source: str, form: str, options: Sequence[str] = ()) -> int:
    """Bytes that a flat copy of a source takes in a format with such options, at most. Raises StepFailed."""
    with_options = ["-o", ",".join(options)] if options else []
    command = [PROGRAM, "measure", "--output=json", "-O", form, *with_options, source]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_MEASURE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise errors.StepFailed(cause=error) from error
    if done.returncode != 0:
        raise errors.StepFailed(cause=_words(done.stderr))
    return int(json.loads(done.stdout)["required"])


def convert(
    options: Sequence[str],
    job: Job,
    progress: Callable[[float], None],
    program: str = PROGRAM,
    descriptors: Sequence[int] = (),
) -> None:
    """Runs `qemu-img convert` into a target that is there.

    Args:
        options: formats, source and target.
        job: whose end is the process's: it is killed within a tenth of a second.
        progress: gets the part that is done, 0 to 1.
        program: what is run.
        descriptors: files that stay open for it.

    Raises StepFailed with what it said, OSError when it cannot be started, and the job's reason when that is stopped.
    """
    command = [*_dies_with_us(), program, "convert", "-p", "-n", "-W", "-m", "16", *options]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=descriptors
    ) as process:
        try:
            output = _follow(process, job, progress)
        finally:
            process.kill()
    job.check()
    if process.returncode != 0:
        raise errors.StepFailed(cause=_words(_PERCENT.sub(b"", output)) or f"{program} ended with {process.returncode}")


def _words(output: bytes) -> str:
    return " ".join(output.decode("utf-8", "replace").replace("\r", "").split())


def _dies_with_us() -> list[str]:
    """A prefix that has the kernel end the command when this process dies, which could not end it any more."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _follow(process: subprocess.Popen[bytes], job: Job, progress: Callable[[float], None]) -> bytes:
    """What a process says, at its end or the job's.

    Output comes in pieces that end anywhere, so the last whole percentage of what has come so far counts.
    """
    if process.stdout is None:
        raise ValueError("the output must be a pipe")
    descriptor = process.stdout.fileno()
    output = b""
    while not job.is_stopped:
        if not select.select([descriptor], [], [], _POLL_S)[0]:
            continue
        piece = os.read(descriptor, _KEPT_OUTPUT)
        if not piece:
            process.wait()
            break
        output = (output + piece)[-_KEPT_OUTPUT:]
        found = _PERCENT.findall(output)
        if found:
            progress(float(found[-1]) / 100)
    return output
