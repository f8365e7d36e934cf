"""The XML of a volume to be made (https://libvirt.org/formatstorage.html). Pure."""

from __future__ import annotations

from lxml import etree
from lxml.builder import E

from .plan import Copy


def new_volume(copy: Copy) -> str:
    """A file is made sparse; without `compat` libvirt writes qcow2 in its old form.

    A logical volume of less allocation than capacity would be a snapshot that overflows, so it is allotted whole.
    """
    source = copy.source
    target = E.target(E.format(type=copy.format))
    if copy.format == source.format:
        if source.compat:
            target.append(E.compat(source.compat))
        if source.cluster_size:
            target.append(E.clusterSize(str(source.cluster_size), unit="B"))
        if source.features:
            target.append(E.features(*(etree.Element(feature) for feature in source.features)))
    volume = E.volume(
        E.name(copy.name),
        E.capacity(str(source.capacity), unit="bytes"),
        E.allocation(str(source.capacity if copy.is_allotted else 0), unit="bytes"),
        target,
    )
    if copy.overlay_of is not None:
        path, form = copy.overlay_of
        volume.append(E.backingStore(E.path(path), E.format(type=form)))
    return etree.tostring(volume, encoding="unicode")
