"""Files that the server made itself are written by it, and no others."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from cloner import errors
from cloner.engine import files


@pytest.mark.parametrize("act", [Path.unlink, lambda path: path.rename(path.with_name("moved"))])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_file_that_was_taken_away_while_it_was_written_is_missed(
    tmp_path: Path, act: Callable[[Path], object], is_replaced: bool
) -> None:
    path = tmp_path / "copy.img"
    path.touch()

    def write() -> None:
        with files.opened_own(str(path), files.identity(str(path))):
            act(path)
            if is_replaced:
                path.touch()

    with pytest.raises(OSError, match=r"replaced|No such file"):
        write()


def test_a_file_that_is_still_there_is_not(tmp_path: Path) -> None:
    path = tmp_path / "copy.img"
    path.touch()
    with files.opened_own(str(path), files.identity(str(path))):
        path.write_bytes(b"x")


@pytest.mark.parametrize("length", [1 << 20, 1 << 16, 5000, 0])
def test_whether_blocks_can_be_shared_is_tried_with_a_whole_block(tmp_path: Path, length: int) -> None:
    """File systems have blocks of up to 64 KiB, and share no part of one but the last of a file."""
    source = tmp_path / "disk.img"
    source.write_bytes(bytes(length))

    def ioctl(_writer: int, _request: int, wanted: bytes | int) -> None:
        count = length if isinstance(wanted, int) else int.from_bytes(wanted[16:24], "little")
        if count % (1 << 16) and count != length:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    with (
        mock.patch("os.fstatvfs", return_value=SimpleNamespace(f_frsize=1 << 16)),
        mock.patch("fcntl.ioctl", ioctl),
    ):
        assert files.reflink_refusal(str(source), str(tmp_path)) is None


@pytest.mark.parametrize("is_link", [False, True])
def test_a_small_file_is_copied_to_nothing_that_is_there(tmp_path: Path, *, is_link: bool) -> None:
    """Of UEFI variables that somebody has made since the clone's name was looked at."""
    source, target, theirs = (tmp_path / name for name in ("web_VARS.fd", "copy_VARS.fd", "theirs"))
    source.write_bytes(b"variables")
    if is_link:
        target.symlink_to(theirs)
    else:
        theirs.write_bytes(b"theirs")
        target.hardlink_to(theirs)
    with pytest.raises(errors.VolumeInTheWay):
        files.copy_small(str(source), str(target))
    assert not theirs.exists() if is_link else theirs.read_bytes() == b"theirs"


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_file_is_removed_if_it_is_the_one_that_was_made(tmp_path: Path, *, is_replaced: bool) -> None:
    path = tmp_path / "copy_VARS.fd"
    path.write_bytes(b"ours")
    known = files.identity(str(path))
    if is_replaced:
        path.rename(tmp_path / "moved")  # so that its number is not given to the next
        path.write_bytes(b"theirs")
    files.remove(str(path), known)
    assert path.exists() is is_replaced


def test_a_folder_is_copied_to_nothing_that_is_there(tmp_path: Path) -> None:
    source, target = tmp_path / "of source", tmp_path / "of clone"
    for folder in (source, target):
        folder.mkdir()
        (folder / "state").write_text(folder.name)
    with pytest.raises(errors.VolumeInTheWay):
        files.copy_folder(str(source), str(target))
    assert (target / "state").read_text() == "of clone"


@pytest.mark.parametrize(
    ("failure", "may_be"), [(errno.ENOENT, False), (errno.EACCES, False), (errno.EIO, True), (errno.ESTALE, True)]
)
def test_what_is_away_for_now_may_be_there_and_what_is_closed_to_the_server_it_goes_not_by(
    failure: int, *, may_be: bool
) -> None:
    with mock.patch.object(os, "lstat", side_effect=OSError(failure, os.strerror(failure))):
        assert files.may_be_in_sight("/images/web.img") is may_be


def test_a_file_that_took_the_place_of_ours_is_not_opened_to_be_written(tmp_path: Path) -> None:
    path = tmp_path / "copy.img"
    path.touch()
    known = files.identity(str(path))
    path.rename(tmp_path / "moved")  # so that its number is not given to the next
    path.write_bytes(b"theirs")
    with pytest.raises(OSError, match="replaced"), files.opened_own(str(path), known):
        path.write_bytes(b"")
    assert path.read_bytes() == b"theirs"
