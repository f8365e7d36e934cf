// A search box: what is typed is looked for in memory, all of its words, in any order and any case.

import { element, icon } from "./dom.js";
import { t } from "./i18n.js";

export class SearchBox {
  constructor(label, changed) {
    this.words = [];
    this.known = new WeakMap();
    this.changed = changed;
    this.input = element("input", { type: "search", class: "search-input", placeholder: label, "aria-label": label, autocomplete: "off", spellcheck: "false", "aria-keyshortcuts": "/", title: t("Press / to search") });
    this.input.addEventListener("input", () => this.read());
    this.element = element("div", { class: "search", role: "search" }, icon("search"), this.input);
  }

  get isEmpty() {
    return this.words.length === 0;
  }

  read() {
    this.words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    this.changed();
  }

  clear() {
    if (this.input.value === "") return;
    this.input.value = "";
    this.read();
    this.input.focus();
  }

  /** Whether all words are in the texts of an item, which are asked for once. */
  fits(item, texts) {
    if (this.words.length === 0) return true;
    if (!this.known.has(item)) this.known.set(item, texts().filter(Boolean).join("\n").toLowerCase());
    const whole = this.known.get(item);
    return this.words.every((word) => whole.includes(word));
  }
}
