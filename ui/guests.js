// The guests: what there is, what is being made, and a Clone button for each.

import { path } from "./api.js";
import { bar, called, element, icon, setText } from "./dom.js";
import { number, percent, size, stateName } from "./format.js";
import { n, t } from "./i18n.js";
import { SearchBox } from "./search.js";
import { VirtualTable } from "./table.js";

export class Guests {
  /** @param page what the view may have done: `clone`, `cancel`, `say` */
  constructor(page) {
    this.page = page;
    this.store = page.store;
    this.selected = new Set(); // UUIDs
    this.search = new SearchBox(t("Search guests"), () => this.refresh());
    this.table = new VirtualTable({
      label: t("Guests"), columns: this.columns(), key: (item) => item.uuid, sort: "name", version: (item) => this.version(item),
    });
    this.count = element("p", { class: "count", role: "status" });
    this.selection = element("div", { class: "selection", hidden: true },
      (this.selectionText = element("span", { class: "selection-text", role: "status" })),
      element("button", { type: "button", class: "primary", "data-act": "clone-selected", onclick: () => this.cloneSelected() }, icon("clone"), t("Clone selected")),
      element("button", { type: "button", onclick: () => this.select([]) }, t("Select none")));
    this.empty = element("div", { class: "empty", hidden: true });
    this.element = element("section", { class: "view guests", "aria-labelledby": "cloner-guests-title" },
      element("div", { class: "toolbar" }, element("h2", { id: "cloner-guests-title" }, t("Guests")), this.count, this.search.element),
      this.selection, this.table.element, this.empty);
    this.store.on(["guests", "tasks", "storage"], () => this.refresh());
  }

  columns() {
    this.all = element("input", { type: "checkbox", "aria-label": t("Select all that are shown"), onchange: () => this.selectAll() });
    return [
      { id: "select", title: "", kind: "select", head: this.all, fill: (cell, item) => this.fillSelect(cell, item) },
      { id: "name", title: t("Name"), kind: "main", isHead: true, sorted: (item) => item.name, fill: (cell, item, tr) => this.fillName(cell, item, tr) },
      { id: "state", title: t("State"), kind: "state", sorted: (item) => item.state, fill: (cell, item) => this.fillState(cell, item) },
      { id: "vcpus", title: t("vCPUs"), kind: "number vcpus", sorted: (item) => item.cpu_info?.vcpus ?? 0, fill: (cell, item) => cell.append(item.cpu_info ? String(item.cpu_info.vcpus) : "") },
      { id: "memory", title: t("Memory"), kind: "number memory", sorted: (item) => item.memory?.current ?? 0, fill: (cell, item) => cell.append(item.memory ? size(item.memory.current * 2 ** 20) : "") },
      { id: "disks", title: t("Disks"), kind: "disks", sorted: (item) => this.diskBytes(item), fill: (cell, item) => this.fillDisks(cell, item) },
      { id: "act", title: t("Actions"), kind: "act", fill: (cell, item) => this.fillAct(cell, item) },
    ];
  }

  /** The guests, and those that are being made. */
  items() {
    const made = this.store.running().filter((task) => task.kind === "domain" && !this.store.guests.has(task.uuid));
    return [...this.store.guests.values(), ...made.map((task) => ({ uuid: task.uuid, name: task.name, state: "cloning", task }))];
  }

  refresh() {
    if (this.element.hidden) return;
    for (const uuid of this.selected) if (!this.store.guests.has(uuid)) this.selected.delete(uuid);
    const all = this.items();
    const shown = all.filter((item) => this.search.fits(item, () => [item.name, item.title, item.description]));
    this.table.setItems(shown);
    this.showCount(all.length, shown.length);
    this.showEmpty(all.length, shown.length);
    this.showSelection();
  }

  showCount(all, shown) {
    const running = [...this.store.guests.values()].filter((guest) => guest.state === "running").length;
    const whole = [n("{count} guest", "{count} guests", all), running && n("{count} running", "{count} running", running)].filter(Boolean).join(", ");
    setText(this.count, this.search.isEmpty ? (this.store.isRead.guests ? whole : t("Reading…")) : n("{count} of {all} found", "{count} of {all} found", shown, { all: number(all) }));
  }

  showEmpty(all, shown) {
    this.empty.hidden = shown > 0 || !this.store.isRead.guests;
    this.table.element.hidden = !this.empty.hidden;
    if (this.empty.hidden) return;
    const isNone = all === 0;
    this.empty.replaceChildren(icon(isNone ? "guest" : "search"),
      element("h3", {}, isNone ? t("No guests yet") : t("Nothing found")),
      element("p", {}, isNone ? t("As soon as this host has a guest, it is here, ready to be cloned.") : t("No guest has these words in its name, title or description.")),
      !isNone && element("button", { type: "button", onclick: () => this.search.clear() }, t("Show all guests")));
  }

  // --- Cells ---------------------------------------------------------------------------------------------------------

  version(item) {
    if (item.task) return `${item.task.progress}`;
    const sizes = item.disks.map((disk) => this.store.sizes.get(disk.place) ?? 0);
    return [this.selected.has(item.uuid), this.store.isNew(item), ...sizes].join();
  }

  fillSelect(cell, item) {
    if (item.task) return;
    const box = element("input", { type: "checkbox", "data-act": "select", "aria-label": t("Select {name}", { name: item.name }), onchange: () => this.toggle(item.uuid, box.checked) });
    box.checked = this.selected.has(item.uuid);
    cell.append(box);
  }

  fillName(cell, item, tr) {
    tr.classList.toggle("is-selected", this.selected.has(item.uuid));
    tr.classList.toggle("is-made", item.task !== undefined);
    const about = item.task ? t("Clone of {name}", { name: item.task.source }) : item.title || item.description;
    const facts = item.cpu_info ? `${n("{count} vCPU", "{count} vCPUs", item.cpu_info.vcpus)} · ${size(item.memory.current * 2 ** 20)}${this.diskBytes(item) ? ` · ${size(this.diskBytes(item))}` : ""}` : "";
    cell.append(element("div", { class: "line" }, called(item.name), !item.task && this.store.isNew(item) && element("span", { class: "badge" }, t("New"))));
    if (item.task) cell.append(this.making(item.task));
    if (about) cell.append(called(about, "about"));
    if (facts) cell.append(element("span", { class: "facts" }, item.state !== "shutoff" && `${stateName(item.state)} · `, facts));
  }

  fillState(cell, item) {
    if (item.task) {
      cell.append(this.making(item.task));
    } else {
      cell.append(element("span", { class: `lamp ${item.state}` }), stateName(item.state));
    }
  }

  making({ name, progress }) {
    return element("span", { class: "making" }, bar(t("How far {name} is", { name }), progress), element("span", { class: "percent" }, percent(progress)));
  }

  hardDisks(item) {
    return (item.disks ?? []).filter(({ device, place }) => place && (device === "disk" || device === "lun"));
  }

  diskBytes(item) {
    return this.hardDisks(item).reduce((sum, { place }) => sum + (this.store.sizes.get(place) ?? 0), 0);
  }

  fillDisks(cell, item) {
    if (item.task) return;
    const disks = this.hardDisks(item);
    const parts = disks.map(({ disk, place }) => [disk, this.store.sizes.get(place)]);
    if (disks.length === 0) return cell.append(element("span", { class: "none" }, t("none")));
    const shown = parts.length > 2 ? [[n("{count} disk", "{count} disks", parts.length), this.diskBytes(item)]] : parts;
    const places = disks.map(({ disk, place }) => `${disk}: ${place}`).join("\n");
    cell.append(element("span", { title: places }, shown.map(([name, bytes]) => element("span", { class: "disk" }, element("span", { class: "target" }, name), bytes ? ` ${size(bytes)}` : ""))));
  }

  fillAct(cell, item) {
    if (item.task) {
      const cancel = element("button", { type: "button", "data-act": "clone", "aria-label": t("Cancel {name}", { name: item.name }), onclick: () => this.page.cancel([item.task]) }, icon("close"), element("span", {}, t("Cancel")));
      return cell.append(cancel);
    }
    const why = whyNot(item);
    const button = element("button", {
      type: "button", class: "clone", "data-act": "clone", "aria-label": t("Clone {name}", { name: item.name }),
      "aria-disabled": why ? "true" : null, title: why, onclick: () => (why ? this.page.say([called(item.name), ": ", why]) : this.clone([item])),
    }, icon("clone"), element("span", {}, t("Clone")));
    return cell.append(button);
  }

  // --- Selection -----------------------------------------------------------------------------------------------------

  toggle(uuid, isOn) {
    if (isOn) this.selected.add(uuid);
    else this.selected.delete(uuid);
    this.table.render();
    this.showSelection();
  }

  select(uuids) {
    this.selected = new Set(uuids);
    this.table.render();
    this.showSelection();
  }

  selectAll() {
    this.select(this.all.checked ? this.table.items.filter((item) => !item.task).map((item) => item.uuid) : []);
  }

  showSelection() {
    const count = this.selected.size;
    const shown = this.table.items.filter((item) => !item.task);
    const among = shown.filter((item) => this.selected.has(item.uuid)).length;
    this.all.checked = among > 0 && among === shown.length;
    this.all.indeterminate = among > 0 && among < shown.length;
    this.selection.hidden = count === 0;
    setText(this.selectionText, count ? n("{count} guest selected", "{count} guests selected", count) : "");
  }

  cloneSelected() {
    const guests = [...this.selected].map((uuid) => this.store.guests.get(uuid)).filter(Boolean);
    this.clone(guests.sort((a, b) => (a.name < b.name ? -1 : 1)), () => this.select([]));
  }

  clone(guests, done = () => {}) {
    this.page.clone("guest", guests.map((guest) => ({ name: guest.name, path: path("vms", guest.name), why: whyNot(guest) })), done);
  }

  /** Shows a guest in the list, lit up for a moment; as soon as it is there. */
  reveal(uuid) {
    this.search.clear();
    this.table.awaited = uuid;
    this.refresh();
  }
}

/** Why a guest cannot be cloned, as far as its state tells; empty where it can. */
function whyNot(guest) {
  return guest.state === "shutoff" ? "" : t("Shut it down before it is cloned");
}
