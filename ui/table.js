// A table of which only the rows in sight are in the document, so that thousands cost what some twenty cost.

import { element, icon, setAttribute } from "./dom.js";

const BEYOND = 6; // rows beyond those in sight, so that the next ones are there when Tab leads to them
const LIGHT_MS = 4000;
const FIRST_ROWS = 30; // before the table has a height

export class VirtualTable {
  /**
   * @param label what the table is of
   * @param columns of each `id`, `title`, a class name `kind`, how it is `sorted` (a value of an item), and `fill(cell, item)`
   * @param key what identifies an item
   * @param version what a row depends on beside its item
   * @param sort the column that it is sorted by at first
   */
  constructor({ label, columns, key, version = () => "", sort }) {
    Object.assign(this, { columns, key, version });
    this.sorting = { id: sort, down: false };
    this.items = [];
    this.rows = new Map();
    this.order = new Map(); // places by key, as they were last
    this.awaited = null; // what is to be lit up as soon as it is there
    this.above = element("tr", { class: "spacer", "aria-hidden": "true" }, element("td"));
    this.below = this.above.cloneNode(true);
    this.body = element("tbody", {}, this.above, this.below);
    this.head = element("thead", {}, element("tr", { "aria-rowindex": 1 }, columns.map((column) => this.heading(column))));
    this.table = element("table", { "aria-label": label }, this.head, this.body);
    this.element = element("div", { class: "scroller", tabindex: 0, role: "group", "aria-label": label }, this.table);
    this.element.addEventListener("scroll", () => this.render(), { passive: true });
    this.element.addEventListener("keydown", (event) => this.moved(event));
    new ResizeObserver(() => this.render()).observe(this.element);
    this.showSorting();
  }

  heading({ id, title, kind = "", sorted, head }) {
    if (head) return element("th", { scope: "col", class: kind }, head);
    if (!sorted) return element("th", { scope: "col", class: kind }, element("span", { class: "unseen" }, title));
    return element("th", { scope: "col", class: kind, "data-column": id }, element("button", { type: "button", class: "sort", onclick: () => this.sortBy(id) }, title, icon("down")));
  }

  sortBy(id) {
    this.sorting = { id, down: this.sorting.id === id && !this.sorting.down };
    this.showSorting();
    this.setItems(this.items);
    this.element.scrollTop = 0;
  }

  showSorting() {
    for (const th of this.head.querySelectorAll("[data-column]")) {
      const isIt = th.dataset.column === this.sorting.id;
      setAttribute(th, "aria-sort", isIt ? (this.sorting.down ? "descending" : "ascending") : null);
    }
  }

  setItems(items) {
    const { sorted } = this.columns.find(({ id }) => id === this.sorting.id);
    const turn = this.sorting.down ? -1 : 1;
    // In the order of last time they are nearly sorted, and that sorts in no time.
    const keyed = items.map((item) => [sorted(item), item, this.order.get(this.key(item)) ?? Infinity]);
    keyed.sort(([, , a], [, , b]) => (a === b ? 0 : a - b));
    keyed.sort(([a], [b]) => turn * (typeof a === "string" ? compare(a, b) : a - b));
    this.items = keyed.map(([, item]) => item);
    this.items.forEach((item, place) => this.order.set(this.key(item), place));
    this.table.setAttribute("aria-rowcount", items.length + 1);
    this.render();
    if (this.awaited) this.light(this.awaited);
  }

  /** Lights an item up for a moment, and leads to it. */
  light(key) {
    const tr = this.reveal(key);
    if (!tr) return;
    this.awaited = null;
    tr.classList.add("is-lit");
    setTimeout(() => tr.classList.remove("is-lit"), LIGHT_MS);
    tr.querySelector("[data-act=clone]")?.focus({ preventScroll: true });
  }

  get rowHeight() {
    return parseFloat(getComputedStyle(this.element).getPropertyValue("--row"));
  }

  render() {
    const height = this.rowHeight;
    const first = Math.max(Math.floor(this.element.scrollTop / height) - BEYOND, 0);
    const inSight = this.element.clientHeight ? Math.ceil(this.element.clientHeight / height) + 2 * BEYOND : FIRST_ROWS;
    const last = Math.min(first + inSight, this.items.length);
    const wanted = new Map();
    for (let place = first; place < last; place += 1) wanted.set(this.key(this.items[place]), place);
    for (const [key, row] of this.rows) if (!wanted.has(key)) this.drop(key, row);
    let next = this.above.nextSibling;
    for (const [key, place] of wanted) {
      const row = this.rows.get(key) ?? this.newRow(key);
      this.update(row, this.items[place], place);
      if (row.tr === next) next = next.nextSibling;
      else this.body.insertBefore(row.tr, next);
    }
    this.above.firstChild.style.blockSize = `${first * height}px`;
    this.below.firstChild.style.blockSize = `${Math.max(this.items.length - last, 0) * height}px`;
    this.above.hidden = first === 0;
    this.below.hidden = last >= this.items.length;
  }

  newRow(key) {
    const cells = this.columns.map(({ kind = "", isHead }) => element(isHead ? "th" : "td", { class: kind, ...(isHead && { scope: "row" }) }));
    const row = { tr: element("tr", {}, cells), cells, item: null, version: null };
    this.rows.set(key, row);
    return row;
  }

  drop(key, row) {
    if (row.tr.contains(document.activeElement)) this.element.focus({ preventScroll: true });
    row.tr.remove();
    this.rows.delete(key);
  }

  update(row, item, place) {
    setAttribute(row.tr, "aria-rowindex", place + 2);
    const version = this.version(item);
    if (row.item === item && row.version === version) return;
    Object.assign(row, { item, version });
    this.columns.forEach(({ fill }, column) => {
      const cell = row.cells[column];
      const filled = cell.cloneNode(false);
      fill(filled, item, row.tr);
      if (filled.innerHTML !== cell.innerHTML) refill(cell, filled);
      else cell.querySelectorAll("input").forEach((input, place) => (input.checked = filled.querySelectorAll("input")[place].checked));
    });
  }

  /** Brings an item into sight; its row. */
  reveal(key) {
    const place = this.items.findIndex((item) => this.key(item) === key);
    if (place < 0) return null;
    const height = this.rowHeight;
    const top = place * height;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop || top + 2 * height > scrollTop + clientHeight) this.element.scrollTop = top - clientHeight / 3;
    this.render();
    return this.rows.get(key)?.tr ?? null;
  }

  /** The arrow keys lead to the same button of the next row. */
  moved(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    const tr = event.target.closest("tbody tr");
    const found = tr && [...this.rows].find(([, row]) => row.tr === tr);
    if (!step || !found) return;
    event.preventDefault();
    const place = this.items.findIndex((item) => this.key(item) === found[0]);
    const next = Math.min(Math.max(place + step, 0), this.items.length - 1);
    const { act } = event.target.dataset;
    this.reveal(this.key(this.items[next]))?.querySelector(`[data-act="${act}"]`)?.focus({ preventScroll: true });
  }
}

/** What is in a cell stays where it shows the same: a button that is replaced while it is pressed is not pressed. */
function refill(cell, filled) {
  const held = cell.contains(document.activeElement) ? document.activeElement.dataset.act : null;
  cell.replaceChildren(...filled.childNodes);
  if (held) (cell.querySelector(`[data-act="${held}"]`) ?? cell.querySelector("button, input"))?.focus({ preventScroll: true });
}

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
const compare = (a, b) => collator.compare(a, b);
