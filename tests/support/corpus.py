"""The corpus of guests in tests/unit/corpus, and how the XML of a clone differs from its source's.

A file of the corpus begins with a comment that says what it is for, and then, line by line,

- `refused: <words>`: why it cannot be cloned,
- `only without: <words>`: what `drop_hostdevs` has to leave out,
- `changed: <path> [×<times>]`: what of it a clone has of its own, or not at all, beside its name and UUID.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from lxml import etree

from cloner.engine import domainxml
from cloner.engine.domainxml import Disk, Identity, NewSource
from cloner.utils import MAX_NAME_BYTES, compose

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests/unit/corpus"
API = ROOT / "docs/API.md"

Element = etree._Element
ALWAYS = ("name", "uuid")
WHITE_SPACE = "text()"
_LOST = 1000
"""What it costs to match an element with none, when the elements of two trees are matched as cheaply as can be."""


@dataclass(frozen=True)
class Case:
    """A guest of the corpus."""

    name: str

    @cached_property
    def xml(self) -> str:
        """The guest as libvirt has it, without our comment."""
        return self._text.partition("-->\n")[2]

    @cached_property
    def refused(self) -> list[str]:
        return self._lines("refused")

    @cached_property
    def dropped(self) -> list[str]:
        return self._lines("only without")

    @cached_property
    def changed(self) -> Counter[str]:
        """How often something at a path becomes the clone's own."""
        found = (line.partition(" ×") for line in self._lines("changed"))
        return Counter(dict.fromkeys(ALWAYS, 1)) + Counter({path: int(times or 1) for path, _, times in found})

    @property
    def root(self) -> Element:
        return etree.fromstring(self.xml)

    @cached_property
    def _text(self) -> str:
        return (FOLDER / f"{self.name}.xml").read_text("utf-8")

    def _lines(self, key: str) -> list[str]:
        return re.findall(rf"^{key}: (.+)$", self._text.partition("-->")[0], re.MULTILINE)


CASES = tuple(Case(path.stem) for path in sorted(FOLDER.glob("*.xml")))


@dataclass(frozen=True)
class Change:
    """Something that a tree has and another has not, or has otherwise.

    `path` is the names of the elements from the root to it. `node` is the element of the first tree that has changed,
    or whose attribute has; None for one that has been added. `new` is None for what has been removed.
    """

    path: str
    node: Element | None
    old: str | None
    new: str | None

    @property
    def attribute(self) -> str | None:
        last = self.path.rpartition("/")[2]
        return last[1:] if last.startswith("@") else None


def changes(old: Element, new: Element) -> list[Change]:
    """What differs between two elements of one name, comments and white space included."""
    return list(_differences(old, new, ""))


@cache
def published() -> list[str]:
    """The XPaths of docs/API.md's table of what is a clone's own."""
    table = API.read_text("utf-8").partition("<!-- clone's own:")[2].partition("\n|---")[2].partition("\n\n")[0]
    cells = [row.split(" | ")[0] for row in table.splitlines() if row.startswith("| ")]
    return [path for cell in cells for span in re.findall("`([^`]+)`", cell) for path in _expanded(span)]


def is_published(change: Change, source: Element) -> bool:
    """Whether a change is one of those that docs/API.md tells of; `source` is the root of the first tree."""
    return any(is_by(path, change, source) for path in published())


def is_by(path: str, change: Change, source: Element) -> bool:
    """Whether a change is one of those that a published XPath names."""
    element, attribute = _parts(path)
    if change.node is None:
        return change.path == path
    return change.attribute == attribute and change.node in _found(source, element)


def apply(found: Iterable[Change]) -> None:
    """Makes the first of two trees as the second, as far as `found` has the whole difference."""
    for change in found:
        node = change.node
        assert node is not None, change
        if change.attribute is None:
            _change_element(node, change.new)
        elif change.new is None:
            del node.attrib[change.attribute]
        else:
            node.set(change.attribute, change.new)


def canonical(root: Element) -> str:
    """XML without what no reader can tell: the kind of quotes, the order of attributes. White space counts."""
    return etree.tostring(root, method="c14n", with_comments=True).decode()


def clone_name(source: Element, number: int) -> str:
    return compose(source.findtext("name", ""), f"-clone-{1700000000000000 + number}", MAX_NAME_BYTES)


def clone(xml: str, number: int, kind: str = "file", owner: str = "") -> str:
    """A clone of a guest, without the host's devices; its disks lie in volumes of a kind: `file` or `block`."""
    source = etree.fromstring(xml)
    name = clone_name(source, number)
    sources = new_sources(domainxml.disks(source), name, kind)
    nvram = f"/nvram/{name}_VARS.fd" if domainxml.nvram(source) else None
    own = replace(identity(source, name, number), owner=owner)
    return domainxml.clone(xml, own, sources, nvram, drop_hostdevs=True)


def identity(source: Element, name: str, number: int) -> Identity:
    """An identity for a clone; `number` (up to 255) makes it another one."""
    macs = [f"0a:00:00:00:{place:02x}:{number:02x}" for place in range(len(source.findall("devices/interface/mac")))]
    unique = f"0000-4000-8000-{number:012x}"
    return Identity(name, f"c10e0000-{unique}", f"9e41d000-{unique}", macs)


def new_sources(disks: Iterable[Disk], name: str, kind: str = "file") -> dict[str, NewSource]:
    """Where the disks of a clone lie: beside each other in a pool that there is not."""
    found = {}
    for disk in filter(is_cloneable, disks):
        volume, form = f"{name}-{disk.target}", (disk.format or "raw") if kind == "file" else "raw"
        if disk.network:
            found[disk.target] = NewSource("network", f"ceph-pool/{volume}", "pool", volume, "raw")
        else:
            found[disk.target] = NewSource(kind, f"/pool/{volume}", "pool", volume, form)
    return found


def is_cloneable(disk: Disk) -> bool:
    """Whether a disk has a volume that can be cloned, and that the clone may not share."""
    if disk.network:
        return disk.is_written and disk.network.protocol == "rbd" and not disk.oddity
    return (
        bool(disk.path or disk.volume)
        and disk.type in ("file", "block", "volume")
        and disk.is_written
        and not disk.oddity
    )


def _change_element(node: Element, text: str | None) -> None:
    if text is not None:
        node.text = text
        return
    previous, parent = node.getprevious(), node.getparent()
    if previous is not None:
        previous.tail = node.tail
    elif parent is not None:
        parent.text = node.tail
    if parent is not None:
        parent.remove(node)


def _parts(path: str) -> tuple[str, str | None]:
    """An XPath as that of an element, and the attribute that it ends with, if any."""
    attribute = re.search(r"/@(\w+)$", path)
    return (path[: attribute.start()], attribute[1]) if attribute else (path, None)


def _found(source: Element, path: str) -> list[Element]:
    found = source.xpath(path)
    assert isinstance(found, list), path
    return [node for node in found if isinstance(node, Element)]


def _expanded(span: str) -> Iterator[str]:
    consoles = re.findall(r"`CONSOLE` stands for\n`([^`]+)`", API.read_text("utf-8"))[0]
    parts = re.split(r"\{([^}]*)\}", span.replace("CONSOLE", consoles))
    for chosen in itertools.product(*(part.split(",") if place % 2 else [part] for place, part in enumerate(parts))):
        yield "".join(chosen)


def _differences(old: Element, new: Element, path: str) -> Iterator[Change]:
    below = f"{path}/" if path else ""
    for name in sorted({*map(str, old.attrib), *map(str, new.attrib)}):
        if old.get(name) != new.get(name):
            yield Change(f"{below}@{name}", old, old.get(name), new.get(name))
    pairs = _matched(list(old), list(new))
    for before, after in pairs:
        if before is None and after is not None:
            yield Change(below + _name(after), None, None, _as_text(after))
        elif after is None and before is not None:
            yield Change(below + _name(before), before, _as_text(before), None)
        elif before is not None and after is not None:
            yield from _within(before, after, below + _name(before))
            if _text_before(before) != _text_before(after):
                yield Change(below + WHITE_SPACE, before, _text_before(before), _text_before(after))
    if _last_text(old) != _last_text(new):
        yield Change(below + WHITE_SPACE if pairs else path, old, _last_text(old), _last_text(new))


def _within(old: Element, new: Element, path: str) -> Iterator[Change]:
    if isinstance(old.tag, str):
        yield from _differences(old, new, path)
    elif old.text != new.text:  # a comment or a processing instruction
        yield Change(path, old, old.text, new.text)


def _matched(old: list[Element], new: list[Element]) -> list[tuple[Element | None, Element | None]]:
    """The children of two elements in pairs, in order, so that as little as possible differs."""
    if [_name(node) for node in old] == [_name(node) for node in new]:
        return list(zip(old, new, strict=True))
    costs: Mapping[tuple[int, int], int] = {
        (i, j): len(list(_within(before, after, ""))) if _name(before) == _name(after) else 3 * _LOST
        for i, before in enumerate(old)
        for j, after in enumerate(new)
    }
    best: dict[tuple[int, int], tuple[int, list[tuple[Element | None, Element | None]]]] = {}
    for i, j in itertools.product(range(len(old), -1, -1), range(len(new), -1, -1)):
        ways: list[tuple[int, list[tuple[Element | None, Element | None]]]] = []
        if i < len(old) and j < len(new):
            ways.append((costs[i, j] + best[i + 1, j + 1][0], [(old[i], new[j]), *best[i + 1, j + 1][1]]))
        if i < len(old):
            ways.append((_LOST + best[i + 1, j][0], [(old[i], None), *best[i + 1, j][1]]))
        if j < len(new):
            ways.append((_LOST + best[i, j + 1][0], [(None, new[j]), *best[i, j + 1][1]]))
        best[i, j] = min(ways, key=lambda way: way[0], default=(0, []))
    return best[0, 0][1]


def _name(node: Element) -> str:
    if isinstance(node.tag, str):
        return node.tag
    return "comment()" if isinstance(node, etree._Comment) else "processing-instruction()"


def _as_text(node: Element) -> str:
    return etree.tostring(node, encoding="unicode", with_tail=False)


def _text_before(node: Element) -> str:
    previous, parent = node.getprevious(), node.getparent()
    if previous is not None:
        return previous.tail or ""
    return (parent.text or "") if parent is not None else ""


def _last_text(node: Element) -> str:
    return (node[-1].tail if len(node) else node.text) or ""
