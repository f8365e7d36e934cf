"""The XML of a new volume."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lxml import etree

from cloner.engine.plan import Copy
from cloner.engine.volumexml import new_volume
from cloner.hypervisor.infos import VolumeInfo

SOURCE = VolumeInfo(
    pool="pool",
    name="web.qcow2",
    path="/images/web.qcow2",
    type="file",
    format="qcow2",
    capacity=1 << 30,
    allocation=1 << 20,
    compat="1.1",
    features=("lazy_refcounts",),
    cluster_size=131072,
    backing=None,
    encrypted=False,
    changed=None,
)
COPY = Copy("vda", SOURCE, "pool", "qcow2", 0, 0, "libvirt", "", ".qcow2", name="it's <a> & b.qcow2")


@pytest.mark.parametrize(("kind", "allocation"), [("file", 0), ("network", 0), ("block", SOURCE.capacity)])
def test_a_file_is_sparse_and_a_logical_volume_is_allotted_whole(kind: str, allocation: int) -> None:
    """libvirt makes a logical volume of less allocation than capacity as a snapshot, which overflows."""
    xml = etree.fromstring(new_volume(replace(COPY, type=kind)))
    assert xml.findtext("allocation") == str(allocation)
    assert xml.findtext("capacity") == str(SOURCE.capacity)


def test_name_and_the_features_of_the_format_are_the_sources() -> None:
    xml = etree.fromstring(new_volume(COPY))
    assert xml.findtext("name") == COPY.name
    assert xml.findtext("target/compat") == "1.1"
    assert xml.findtext("target/clusterSize") == "131072"
    assert xml.find("target/features/lazy_refcounts") is not None


def test_another_format_takes_nothing_over() -> None:
    target = etree.fromstring(new_volume(replace(COPY, format="raw"))).find("target")
    assert target is not None
    assert [child.tag for child in target] == ["format"]


def test_an_overlay_says_what_it_stands_on_and_what_format_that_has() -> None:
    """Else QEMU would go by what a guest may have written into a raw disk."""
    xml = etree.fromstring(new_volume(replace(COPY, overlay_of=("/images/web.img", "raw"))))
    assert xml.findtext("backingStore/path") == "/images/web.img"
    (form,) = xml.iterfind("backingStore/format")
    assert form.get("type") == "raw"
