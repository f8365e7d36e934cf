"""The XML of a volume to be made (https://libvirt.org/formatstorage.html). Pure."""

from __future__ import annotations

from lxml import etree

from .plan import Copy
from .xmltree import Element


def new_volume(copy: Copy) -> str:
    """A file is made sparse; without `compat` libvirt writes qcow2 in its old form.

    A logical volume of less allocation than capacity would be a snapshot that overflows, so it is allotted whole.
    """
    source = copy.source
    volume = etree.Element("volume")
    _add(volume, "name", copy.name)
    _add(volume, "capacity", str(source.capacity), unit="bytes")
    _add(volume, "allocation", str(source.capacity if copy.is_allotted else 0), unit="bytes")
    target = _add(volume, "target")
    _add(target, "format", type=copy.format)
    if copy.format == source.format:
        if source.compat:
            _add(target, "compat", source.compat)
        if source.cluster_size:
            _add(target, "clusterSize", str(source.cluster_size), unit="B")
        if source.features:
            features = _add(target, "features")
            for feature in source.features:
                _add(features, feature)
    if copy.overlay_of is not None:
        path, form = copy.overlay_of
        backing = _add(volume, "backingStore")
        _add(backing, "path", path)
        _add(backing, "format", type=form)
    return etree.tostring(volume, encoding="unicode")


def _add(parent: Element, tag: str, text: str | None = None, **attributes: str) -> Element:
    node = etree.SubElement(parent, tag, attributes)
    node.text = text
    return node
