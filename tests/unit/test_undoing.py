"""The order in which the steps of a clone are taken back."""

from __future__ import annotations

from unittest import mock

import pytest

from cloner import errors
from cloner.engine.records import DOMAIN, DONE, FILL, UNDONE, VOLUME, Mark, Step
from cloner.engine.undoing import Undoing

PLACE = {"pool": "default", "name": "copy.img"}
STEPS = [
    Step(1, 1, VOLUME, DONE, 0, PLACE, None),
    Step(1, 2, FILL, DONE, 0, PLACE, None),
    Step(1, 3, DOMAIN, DONE, 0, {"uuid": "u", "name": "copy"}, None),
]


def test_a_guest_is_undefined_before_its_disk_is_removed() -> None:
    """Were the server killed in between, a guest without a disk would be taken for a clone that is complete."""
    told: list[Mark] = []
    host = mock.Mock(is_local=False)
    assert Undoing(host).undo(STEPS, told.extend, was_seen=False) == []
    assert [call[0] for call in host.method_calls] == ["stop", "undefine", "stop", "delete_volume"]
    assert told == [Mark(number, UNDONE) for number in (3, 2, 1)]


def test_the_disk_of_a_guest_that_cannot_be_undefined_yet_stays() -> None:
    host = mock.Mock(is_local=False)
    host.undefine.side_effect = errors.LibvirtFailed(act="undefine the domain", cause="a test")
    with pytest.raises(errors.Busy):
        Undoing(host).undo(STEPS, lambda _: None, was_seen=False)
    assert not host.delete_volume.called
