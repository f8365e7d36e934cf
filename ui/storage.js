// Storage: the pools and how full they are, and the volumes of the one that is chosen.

import { path } from "./api.js";
import { called, element, icon, meter, setText } from "./dom.js";
import { humane, size, stateName } from "./format.js";
import { n, t } from "./i18n.js";
import { SearchBox } from "./search.js";
import { VirtualTable } from "./table.js";

const NEARLY_FULL = 0.9;

export class Storage {
  constructor(page) {
    this.page = page;
    this.store = page.store;
    this.chosen = "";
    this.search = new SearchBox(t("Search volumes"), () => this.refresh());
    this.pools = element("ul", { class: "pools" });
    this.count = element("p", { class: "count", role: "status" });
    this.title = element("h3", { class: "pool-title" });
    this.table = new VirtualTable({ label: t("Volumes"), columns: this.columns(), key: (volume) => this.key(volume.name), sort: "name" });
    this.empty = element("div", { class: "empty", hidden: true });
    this.element = element("section", { class: "view storage", "aria-labelledby": "cloner-storage-title", hidden: true },
      element("div", { class: "toolbar" }, element("h2", { id: "cloner-storage-title" }, t("Storage")), this.count, this.search.element),
      element("div", { class: "split" },
        element("nav", { "aria-label": t("Storage pools") }, this.pools),
        element("div", { class: "volumes" }, this.title, this.table.element, this.empty)));
    this.store.on(["storage", "guests"], () => this.refresh());
  }

  columns() {
    return [
      { id: "name", title: t("Name"), kind: "main", isHead: true, sorted: (volume) => volume.name, fill: (cell, volume) => fillName(cell, volume) },
      { id: "format", title: t("Format"), kind: "format", sorted: (volume) => volume.format ?? "", fill: (cell, volume) => cell.append(volume.format ?? "") },
      { id: "capacity", title: t("Size"), kind: "number capacity", sorted: (volume) => volume.capacity, fill: (cell, volume) => cell.append(size(volume.capacity)) },
      { id: "allocation", title: t("Occupies"), kind: "number allocation", sorted: (volume) => volume.allocation, fill: (cell, volume) => cell.append(size(volume.allocation)) },
      { id: "users", title: t("Used by"), kind: "users", sorted: (volume) => volume.used_by.join(), fill: (cell, volume) => cell.append(volume.used_by.length ? called(volume.used_by.join(", "), "used-by") : "") },
      { id: "act", title: t("Actions"), kind: "act", fill: (cell, volume) => this.fillAct(cell, volume) },
    ];
  }

  /** Volumes of two pools may have one name. */
  key(name, pool = this.chosen) {
    return `${pool}/${name}`;
  }

  refresh() {
    if (this.element.hidden || !this.store.pools) return;
    const pools = this.store.pools;
    if (!pools.some((pool) => pool.name === this.chosen)) this.chosen = (pools.find((pool) => pool.state === "active") ?? pools[0])?.name ?? "";
    setText(this.count, n("{count} pool", "{count} pools", pools.length));
    this.showPools(pools);
    const pool = pools.find(({ name }) => name === this.chosen);
    const all = this.store.volumes.get(this.chosen) ?? [];
    const shown = all.filter((volume) => this.search.fits(volume, () => [volume.name, volume.format, ...volume.used_by]));
    this.title.replaceChildren(pool ? called(pool.name) : "", element("span", { class: "count" }, n("{count} volume", "{count} volumes", all.length)));
    this.table.setItems(shown);
    this.showEmpty(pool, all, shown);
  }

  showPools(pools) {
    const held = this.pools.contains(document.activeElement) ? this.chosen : null;
    this.pools.replaceChildren(...pools.map((pool) => element("li", {}, this.poolButton(pool))));
    if (held !== null) this.pools.querySelector("[aria-current]")?.focus();
  }

  poolButton(pool) {
    const isActive = pool.state === "active";
    const used = pool.capacity > 0 ? 1 - pool.available / pool.capacity : 0;
    const text = t("{free} free of {all}", { free: size(pool.available), all: size(pool.capacity) });
    return element("button", { type: "button", class: "pool", "aria-current": pool.name === this.chosen ? "true" : null, onclick: () => this.choose(pool.name) },
      element("span", { class: "line" }, called(pool.name), element("span", { class: "type" }, isActive ? pool.type : stateName(pool.state))),
      isActive && meter(t("How full {name} is", { name: pool.name }), text, used, used > NEARLY_FULL ? "is-full" : ""),
      isActive && element("span", { class: "about" }, text));
  }

  choose(name) {
    this.chosen = name;
    this.table.element.scrollTop = 0;
    this.refresh();
  }

  showEmpty(pool, all, shown) {
    this.empty.hidden = shown.length > 0 || !this.store.isRead.pools;
    this.table.element.hidden = !this.empty.hidden;
    if (this.empty.hidden) return;
    const isOff = pool && pool.state !== "active";
    const problem = this.store.problems.get(this.chosen);
    const title = !pool ? t("No storage pools") : isOff ? t("This pool is not active") : problem ? t("This pool cannot be read") : all.length ? t("Nothing found") : t("This pool is empty");
    const more = isOff ? t("Start it (virsh pool-start) to see its volumes.") : problem ? humane(problem).text : all.length ? t("No volume has these words in its name, format or guests.") : "";
    this.empty.replaceChildren(icon(all.length ? "search" : "disk"), element("h3", {}, title), element("p", {}, more));
  }

  fillAct(cell, volume) {
    const pool = this.chosen;
    cell.append(element("button", {
      type: "button", class: "clone", "data-act": "clone", "aria-label": t("Clone {name}", { name: volume.name }),
      onclick: () => this.page.clone("volume", [{ name: volume.name, pool, path: path("storagepools", pool, "storagevolumes", volume.name), why: "" }]),
    }, icon("clone"), element("span", {}, t("Clone"))));
  }

  /** Shows a volume in the list, lit up for a moment; as soon as it is there. */
  reveal(pool, name) {
    this.search.clear();
    this.table.awaited = this.key(name, pool);
    this.choose(pool);
  }
}

function fillName(cell, volume) {
  cell.append(element("div", { class: "line" }, called(volume.name)), called(volume.path, "about"),
    element("span", { class: "facts" }, `${volume.format ?? ""} · ${size(volume.capacity)}`));
}
