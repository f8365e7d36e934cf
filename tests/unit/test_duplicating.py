"""A file's copy: the same bytes, the same holes, told how far it is, and ended between two pieces."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloner import errors
from cloner.engine import duplicating, files
from cloner.engine.duplicating import duplicate
from cloner.engine.job import Job
from support.storage import ramfs

KiB = 1024
MiB = 1024 * KiB


def job() -> Job:
    return Job(1, {"vda": 1})


def written(path: Path, length: int, pieces: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(length)
        for place, content in pieces.items():
            file.seek(place)
            file.write(content)
    return path


def copied(source: Path, target: Path, before: bytes = b"", **options: Any) -> list[int]:
    """Copies a file as the method does; what it told."""
    target.write_bytes(before)
    told: list[int] = []
    with files.opened(str(source), os.O_RDONLY) as reader, files.opened(str(target), os.O_RDWR) as writer:
        files.clear(writer, source.stat().st_size)
        duplicate(reader, writer, options.pop("job", job()), told.append, **options)
    return told


def test_holes_stay_holes(tmp_path: Path) -> None:
    source = written(tmp_path / "source", 1 << 40, {5 * MiB: b"x" * 70_000, (1 << 39) + 7: b"y"})
    target = tmp_path / "target"
    told = copied(source, target)
    assert target.stat().st_size == 1 << 40
    assert target.stat().st_blocks <= source.stat().st_blocks
    with target.open("rb") as file:
        file.seek(5 * MiB)
        assert file.read(70_001) == b"x" * 70_000 + b"\0"
        file.seek((1 << 39) + 6)
        assert file.read(3) == b"\0y\0"
    assert told == sorted(told)


def test_holes_stay_holes_where_nobody_tells_of_them(tmp_path: Path) -> None:
    """As in most of the file systems in FUSE."""
    pieces = {0: b"x", 5 * MiB - 3: b"x" * 70_000, 7 * MiB: b"\0" * 5000 + b"y"}
    target = tmp_path / "target"
    with ramfs() as folder:
        source = written(folder / "source", 8 * MiB + 1, pieces)
        told = copied(source, target)
        assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks * 512 <= 128 * KiB
    assert told == sorted(told)


@settings(deadline=None)  # it writes files, on a disk that others use too
@given(st.binary(max_size=3000), st.binary(max_size=3000), st.integers(0, 9000))
def test_nothing_of_what_was_there_is_left(
    tmp_path_factory: pytest.TempPathFactory, old: bytes, new: bytes, gap: int
) -> None:
    folder = tmp_path_factory.mktemp("copy")
    source = written(folder / "source", gap + len(new), {gap: new})
    copied(source, folder / "target", old)
    assert (folder / "target").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("before", [4 * KiB, 3 * MiB, 6 * MiB])
def test_a_target_gets_the_length_of_the_source_and_its_holes(tmp_path: Path, before: int) -> None:
    source = written(tmp_path / "source", 3 * MiB, {0: b"new"})
    copied(source, tmp_path / "target", b"x" * before)
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_a_target_without_data_is_not_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As libvirt makes a raw volume; ext4 and XFS would write the whole copy to the disk when it is closed."""
    cut: list[int] = []
    monkeypatch.setattr(os, "ftruncate", lambda _, length: cut.append(length))
    with written(tmp_path / "target", 1 << 40, {}).open("r+b") as file:
        files.clear(file.fileno(), 1 << 40)
    assert cut == [1 << 40]


def test_in_larger_blocks_a_file_occupies_more(tmp_path: Path) -> None:
    """Each block that any data falls into counts, and once."""
    pieces = dict.fromkeys((0, 8 * KiB, 200 * KiB, 252 * KiB), b"x" * 4096)
    with files.opened(str(written(tmp_path / "source", MiB, pieces)), os.O_RDONLY) as reader:
        assert duplicating.occupied_in_blocks(reader, 4 * KiB) == 4 * 4 * KiB
        assert duplicating.occupied_in_blocks(reader, 64 * KiB) == 2 * 64 * KiB
        assert duplicating.occupied_in_blocks(reader, MiB) == MiB
    with files.opened(str(written(tmp_path / "hole", MiB, {})), os.O_RDONLY) as reader:
        assert duplicating.occupied_in_blocks(reader, 64 * KiB) == 0


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_the_kernel_cannot_copy_between_two_files_they_go_through_a_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    source = written(tmp_path / "source", 20 * MiB, {MiB: b"x" * (9 * MiB)})
    told = copied(source, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert told[-1] == 9 * MiB


@pytest.mark.parametrize("faster", ["copy_file_range", "preadv"])
def test_the_way_that_proves_to_be_faster_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faster: str
) -> None:
    now, calls = [0.0], []

    def slowed(name: str) -> None:
        original = getattr(os, name)

        def call(*args: Any) -> Any:
            calls.append(name)
            now[0] += 0.001 if name == faster else 1  # seconds
            return original(*args)

        monkeypatch.setattr(os, name, call)

    content = os.urandom(4 * MiB)
    source = written(tmp_path / "source", 40 * MiB, dict.fromkeys(range(0, 40 * MiB, 4 * MiB), content))
    for name in ("copy_file_range", "preadv"):
        slowed(name)
    ways = partial(duplicating._Ways, clock=lambda: now[0])
    monkeypatch.setattr(duplicating, "_Ways", ways)
    assert copied(source, tmp_path / "target")[-1] == 40 * MiB
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    pieces = [name for name, _ in groupby(calls)]
    assert pieces[:6] == ["copy_file_range", "preadv"] * 3
    assert set(pieces[6:]) <= {faster}
    assert calls[-1] == faster


def test_a_write_that_takes_a_part_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, place: write(file, content[:100_001], place))
    source = written(tmp_path / "source", 20 * MiB, {0: os.urandom(9 * MiB)})
    copied(source, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_where_holes_are_not_told_everything_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seek = os.lseek

    def without_holes(descriptor: int, place: int, how: int) -> int:
        if how == os.SEEK_DATA:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return seek(descriptor, place, how)

    source = written(tmp_path / "source", MiB, {MiB // 2: b"x"})
    monkeypatch.setattr(os, "lseek", without_holes)
    assert copied(source, tmp_path / "target")[-1] == MiB
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("call", ["copy_file_range", "lseek"])
def test_any_other_trouble_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    source = written(tmp_path / "source", MiB, {0: b"x"})
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="Input/output error"):
        copied(source, tmp_path / "target")


def stops_after(pieces: int) -> tuple[Job, Callable[[int], None], list[int]]:
    stopped, told = job(), []

    def tell(done: int) -> None:
        told.append(done)
        if len(told) == pieces:
            stopped.stop(errors.CloneCancelled())

    return stopped, tell, told


def test_it_ends_with_the_job_after_the_piece_that_it_is_at(tmp_path: Path) -> None:
    source = written(tmp_path / "source", 64 * MiB, {place * MiB: b"x" * MiB for place in range(64)})
    stopped, tell, told = stops_after(3)
    with source.open("rb") as reader, (tmp_path / "target").open("w+b") as writer, pytest.raises(errors.CloneCancelled):
        duplicate(reader.fileno(), writer.fileno(), stopped, tell)
    assert len(told) == 3
    assert told[-1] == 3 * duplicating._PIECE


def test_a_limit_is_kept_and_does_not_keep_a_stopped_job(tmp_path: Path) -> None:
    source = written(tmp_path / "source", 3 * MiB, {0: b"x" * (3 * MiB)})
    began = time.monotonic()
    copied(source, tmp_path / "target", bytes_a_second=6 * MiB)
    assert time.monotonic() - began >= 0.5
    stopped, tell, told = stops_after(1)
    with source.open("rb") as reader, (tmp_path / "slow").open("w+b") as writer, pytest.raises(errors.CloneCancelled):
        duplicate(reader.fileno(), writer.fileno(), stopped, tell, bytes_a_second=1)
    assert told == [1]


def test_a_source_that_is_cut_off_meanwhile_ends_the_copy(tmp_path: Path) -> None:
    source = written(tmp_path / "source", 16 * MiB, {0: b"x" * (16 * MiB)})
    told: list[int] = []

    def cut(done: int) -> None:
        told.append(done)
        os.truncate(source, MiB)

    with source.open("rb") as reader, (tmp_path / "target").open("w+b") as writer:
        duplicate(reader.fileno(), writer.fileno(), job(), cut)
    assert len(told) == 1


def test_a_file_that_took_the_place_of_ours_is_not_written_to(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.write_bytes(b"ours")
    known = files.identity(str(ours))
    (tmp_path / "other").write_bytes(b"somebody else's")
    (tmp_path / "other").replace(ours)
    with pytest.raises(OSError, match="replaced"), files.opened_own(str(ours), known):
        raise AssertionError
    with pytest.raises(OSError, match="replaced"):
        files.reflink(__file__, str(ours), known)
    assert ours.read_bytes() == b"somebody else's"
