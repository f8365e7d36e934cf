"""libvirt's XML as a tree."""

from __future__ import annotations

from lxml import etree

Element = etree._Element


def parse(xml: str) -> Element:
    """Parses libvirt's XML. Entities are left alone and nothing is fetched."""
    return etree.fromstring(xml, etree.XMLParser(resolve_entities=False, no_network=True))


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
