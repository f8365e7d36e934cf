"""libvirt's XML as a tree."""

from __future__ import annotations

from lxml import etree

from ..hypervisor import xmlparser

Element = etree._Element

parse = xmlparser.parse


def remove(node: Element) -> None:
    """Takes an element out with the white space before it, so that the rest stays as it was."""
    parent = node.getparent()
    if parent is None:
        raise ValueError("the root cannot be removed")
    previous = node.getprevious()
    if previous is not None:
        previous.tail = node.tail
    else:
        parent.text = node.tail
    parent.remove(node)
