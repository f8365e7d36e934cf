"""Files that the server made itself are written by it, and no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

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
