// Activity: every clone that is being made or was lately; those of one batch as one, with a bar that opens.

import { bar, called, element, icon, newId, setAttribute, setText } from "./dom.js";
import { duration, humane, percent, retell, size, speed, when } from "./format.js";
import { n, nodes, t } from "./i18n.js";

const PAGE = 50;
const RETELL_MS = 20_000;
const ICONS = { running: "pulse", finished: "check", failed: "alert", killed: "close" };

export class Activity {
  constructor(page) {
    this.page = page;
    this.store = page.store;
    this.only = "all";
    this.most = PAGE;
    this.cards = new Map();
    this.count = element("p", { class: "count" });
    this.list = element("ul", { class: "tasks" });
    this.more = element("button", { type: "button", class: "show-more", hidden: true, onclick: () => ((this.most += PAGE), this.refresh()) }, t("Show more"));
    this.clear = element("button", { type: "button", onclick: () => this.clearEnded() }, t("Clear ended"));
    this.filter = element("div", { class: "segments", role: "group", "aria-label": t("Show") },
      [["all", t("All")], ["running", t("Running")], ["failed", t("Failed")]].map(([value, label]) =>
        element("button", { type: "button", "data-value": value, "aria-pressed": String(value === "all"), onclick: () => this.showOnly(value) }, label)));
    this.empty = element("div", { class: "empty", hidden: true });
    this.element = element("section", { class: "view activity", "aria-labelledby": "cloner-activity-title", hidden: true },
      element("div", { class: "toolbar" }, element("h2", { id: "cloner-activity-title" }, t("Activity")), this.count, this.filter, this.clear),
      (this.scroller = element("div", { class: "scroller tasks-scroller", tabindex: 0, role: "group", "aria-label": t("Activity") }, this.list, this.more)), this.empty);
    this.store.on(["tasks", "guests"], () => this.refresh());
    const telling = setInterval(() => retell(this.element), RETELL_MS);
    page.live.ending.signal.addEventListener("abort", () => clearInterval(telling));
  }

  showOnly(value) {
    this.only = value;
    this.most = PAGE;
    for (const button of this.filter.children) setAttribute(button, "aria-pressed", String(button.dataset.value === value));
    this.refresh();
  }

  /** Tasks by batch, the newest first. */
  groups() {
    const found = new Map();
    for (const task of this.store.tasks.values()) {
      const key = task.batch === null ? `task ${task.id}` : `batch ${task.batch}`;
      if (!found.has(key)) found.set(key, []);
      found.get(key).push(task);
    }
    const sorted = [...found].map(([key, tasks]) => ({ key, tasks: tasks.sort((a, b) => a.id - b.id) }));
    return sorted.sort((a, b) => b.tasks[0].id - a.tasks[0].id);
  }

  refresh() {
    if (this.element.hidden) return;
    const all = this.groups();
    const fitting = this.only === "all" ? all : all.filter(({ tasks }) => tasks.some(({ status }) => status === this.only));
    const shown = fitting.slice(0, this.most);
    const keys = new Set(shown.map(({ key }) => key));
    const isHeld = this.list.contains(document.activeElement);
    for (const [key, card] of this.cards) {
      if (keys.has(key)) continue;
      card.element.remove();
      this.cards.delete(key);
    }
    let next = this.list.firstChild;
    for (const { key, tasks } of shown) {
      const card = this.cards.get(key) ?? this.newCard(key, tasks[0]);
      card.update(tasks);
      if (card.element === next) next = next.nextSibling;
      else this.list.insertBefore(card.element, next);
    }
    this.more.hidden = shown.length === fitting.length;
    this.clear.disabled = !all.some(({ tasks }) => tasks.every(({ status }) => status !== "running"));
    this.showCount();
    this.showEmpty(all.length, shown.length);
    if (isHeld && !this.element.contains(document.activeElement)) (this.scroller.hidden ? this.filter.firstChild : this.scroller).focus({ preventScroll: true });
  }

  newCard(key, { batch }) {
    const card = batch === null ? new TaskCard(this.page) : new BatchCard(this.page, batch);
    this.cards.set(key, card);
    return card;
  }

  showCount() {
    const running = this.store.running().length;
    setText(this.count, !this.store.isRead.tasks ? t("Reading…") : running ? n("{count} is being made", "{count} are being made", running) : t("Nothing is being made"));
  }

  showEmpty(all, shown) {
    this.empty.hidden = shown > 0 || !this.store.isRead.tasks;
    this.scroller.hidden = !this.empty.hidden;
    if (this.empty.hidden) return;
    this.empty.replaceChildren(icon("pulse"),
      element("h3", {}, all ? t("None of these") : t("Nothing has been cloned lately")),
      element("p", {}, all ? t("What was cloned is under All.") : t("Clones that are being made appear here, and stay for a while after that.")));
  }

  async clearEnded() {
    const ended = this.groups().flatMap(({ tasks }) => (tasks.some(({ status }) => status === "running") ? [] : tasks));
    for (const task of ended) if (!(await this.page.forget(task))) return;
  }
}

/** What cards have in common: a picture, a title, a bar, facts, and buttons. */
class Card {
  constructor(page) {
    this.page = page;
    this.store = page.store;
    this.icon = element("span", { class: "status" });
    this.title = element("h3", {});
    this.time = element("span", { class: "time" });
    this.buttons = element("div", { class: "buttons" });
    this.bar = bar("", 0);
    this.percent = element("span", { class: "percent" });
    this.facts = element("p", { class: "task-facts" });
    this.reason = element("div", { class: "reason", hidden: true });
    this.body = element("div", { class: "task-body" },
      element("div", { class: "task-head" }, this.title, this.time),
      element("div", { class: "task-bar" }, this.bar, this.percent), this.facts, this.reason);
    this.element = element("li", { class: "task" }, this.icon, this.body, this.buttons);
    this.status = "";
  }

  show(status, label, done) {
    if (this.status !== status) {
      const words = { running: t("Running"), finished: t("Finished"), failed: t("Failed"), killed: t("Cancelled") };
      this.icon.replaceChildren(icon(ICONS[status]), element("span", { class: "unseen" }, words[status]));
      this.element.className = `task ${status}`;
      this.bar.parentElement.hidden = status !== "running";
      this.status = status;
    }
    setAttribute(this.bar, "aria-label", label);
    this.bar.value = done;
    setText(this.percent, percent(done));
  }

  showTime(moment) {
    if (this.moment === moment) return;
    this.moment = moment;
    this.time.replaceChildren(when(moment));
  }

  /** Buttons by what they are for; those that are there stay, and keep the focus. */
  showButtons(wanted) {
    const kinds = Object.keys(wanted).filter((kind) => wanted[kind]);
    if (kinds.join() === this.kinds) return;
    this.kinds = kinds.join();
    const held = this.buttons.contains(document.activeElement);
    this.buttons.replaceChildren(...kinds.map((kind) => {
      const [label, name, act] = wanted[kind];
      return element("button", { type: "button", class: kind === "remove" ? "quiet icon-only" : "wordy", "data-act": kind, "aria-label": name, onclick: act }, label);
    }));
    if (held) (this.buttons.firstChild ?? this.toggle ?? this.element.closest("[tabindex]"))?.focus({ preventScroll: true });
  }
}

class TaskCard extends Card {
  update([task]) {
    if (this.task === task && this.wasThere === this.isThere(task)) return;
    this.wasThere = this.isThere(task);
    if (!this.task) this.title.replaceChildren(...nodes("{source} {arrow} {name}", { source: called(task.source), arrow: element("span", {}, icon("arrow"), element("span", { class: "unseen" }, t("to"))), name: called(task.name) }));
    this.task = task;
    this.show(task.status, t("How far {name} is", { name: task.name }), task.progress);
    this.showTime(task.ended ?? task.started);
    setText(this.facts, facts(task, this.store));
    this.showReason(task);
    this.showButtons({
      cancel: task.status === "running" && task.may_cancel && [t("Cancel"), t("Cancel {name}", { name: task.name }), () => this.page.cancel([this.task])],
      show: this.wasThere && [task.kind === "domain" ? t("Show guest") : t("Show volume"), t("Show {name}", { name: task.name }), () => this.page.reveal(this.task)],
      again: task.status === "failed" && this.sourceOf(task) && [t("Try again"), t("Clone {name} again", { name: task.source }), () => this.again()],
      remove: task.status !== "running" && [icon("close"), t("Take {name} out of the list", { name: task.name }), () => this.page.forget(this.task)],
    });
  }

  /** The guest that a clone was to be made of, if it is still there. */
  sourceOf({ kind, source }) {
    return kind === "domain" && [...this.store.guests.values()].find(({ name }) => name === source);
  }

  again() {
    const guest = this.sourceOf(this.task);
    if (guest) this.page.views.guests.clone([guest]);
  }

  isThere(task) {
    return task.status === "finished" && (task.kind === "volume" ? this.store.pools !== null : this.store.guests.has(task.uuid));
  }

  showReason(task) {
    const reasons = [task.status === "failed" || task.status === "killed" ? task.message : "", task.warning ?? ""].filter(Boolean).map(humane);
    this.reason.hidden = reasons.length === 0;
    this.reason.replaceChildren(...reasons.map(({ code, text }) => element("p", {}, text, " ", element("code", {}, code))));
  }
}

function facts(task, store) {
  const methods = [...new Set(task.disks.map(({ method }) => method).filter(Boolean))].join(", ");
  if (task.status !== "running") {
    const seconds = (new Date(task.ended) - new Date(task.started)) / 1000;
    const rate = task.status === "finished" ? store.speed(task) : 0;
    return [task.status === "finished" && size(task.bytes_total), methods, t("took {time}", { time: duration(seconds) }), rate && speed(rate)].filter(Boolean).join(" · ");
  }
  const rate = store.speed(task);
  const left = task.eta_seconds !== null && t("{time} left", { time: duration(task.eta_seconds) });
  const doing = humane(task.message).text;
  return [t("{done} of {all}", { done: size(task.bytes_done), all: size(task.bytes_total) }), rate && speed(rate), left, methods, doing].filter(Boolean).join(" · ");
}

class BatchCard extends Card {
  constructor(page, batch) {
    super(page);
    this.batch = batch;
    this.cards = new Map();
    this.most = PAGE;
    this.parts = element("ul", { class: "parts", hidden: true, id: newId("parts") });
    this.toggle = element("button", { type: "button", class: "quiet toggle", "data-act": "open", "aria-expanded": "false", "aria-controls": this.parts.id, onclick: () => this.open() }, icon("chevron"), (this.toggleText = element("span", {})));
    this.body.append(this.toggle, this.parts);
  }

  open() {
    this.isOpen = !this.isOpen;
    this.toggle.setAttribute("aria-expanded", String(this.isOpen));
    this.parts.hidden = !this.isOpen;
    this.showParts();
  }

  update(tasks) {
    this.tasks = tasks;
    const of = (status) => tasks.filter((task) => task.status === status).length;
    const [running, finished, failed, killed] = ["running", "finished", "failed", "killed"].map(of);
    const status = running ? "running" : failed ? "failed" : finished ? "finished" : "killed";
    const source = tasks[0].source;
    if (!this.titled) this.title.replaceChildren(...nodes(n("{count} clone of {source}", "{count} clones of {source}", tasks.length, { source: "{source}" }), { source: called(source) }));
    this.titled = true;
    this.show(status, t("How far the clones of {name} are", { name: source }), Math.floor(tasks.reduce((sum, { progress }) => sum + progress, 0) / tasks.length));
    this.showTime(running ? tasks[0].started : tasks.reduce((last, { ended }) => (ended > last ? ended : last), ""));
    const rate = tasks.reduce((sum, task) => sum + (task.status === "running" ? this.store.speed(task) : 0), 0);
    const done = tasks.reduce((sum, { bytes_done }) => sum + bytes_done, 0);
    const total = tasks.reduce((sum, { bytes_total }) => sum + bytes_total, 0);
    const left = running && rate > 0 && t("{time} left", { time: duration((total - done) / rate) });
    setText(this.facts, [n("{count} ready", "{count} ready", finished), failed && n("{count} failed", "{count} failed", failed), killed && n("{count} cancelled", "{count} cancelled", killed),
      running ? t("{done} of {all}", { done: size(done), all: size(total) }) : size(done), rate > 0 && speed(rate), left].filter(Boolean).join(" · "));
    setText(this.toggleText, t("Each of them"));
    this.showFirstReason(tasks.find((task) => task.status === "failed"));
    this.showButtons({
      cancel: running > 0 && [t("Cancel"), t("Cancel the clones of {name}", { name: source }), () => this.page.cancelBatch(this.batch, this.tasks)],
      undo: running === 0 && finished > 0 && [t("Undo"), t("Remove the clones of {name} again", { name: source }), () => this.page.undoBatch(this.batch, this.tasks)],
    });
    this.showParts();
  }

  showFirstReason(task) {
    this.reason.hidden = !task;
    if (!task || this.told === task.id) return;
    this.told = task.id;
    const { code, text } = humane(task.message);
    this.reason.replaceChildren(element("p", {}, called(task.name), ": ", text, " ", element("code", {}, code)));
  }

  showParts() {
    if (!this.isOpen) return;
    const order = { failed: 0, running: 1, killed: 2, finished: 3 };
    const sorted = [...this.tasks].sort((a, b) => order[a.status] - order[b.status] || a.id - b.id).slice(0, this.most);
    const cards = sorted.map((task) => {
      if (!this.cards.has(task.id)) this.cards.set(task.id, new TaskCard(this.page));
      const card = this.cards.get(task.id);
      card.update([task]);
      return card.element;
    });
    const more = this.tasks.length > this.most && element("li", {}, element("button", { type: "button", class: "show-more", onclick: () => ((this.most += PAGE), this.showParts()) }, t("Show more")));
    const wanted = [...cards, ...(more ? [more] : [])];
    if (wanted.length !== this.parts.children.length || wanted.some((node, place) => this.parts.children[place] !== node)) {
      const held = this.parts.contains(document.activeElement) ? document.activeElement : null;
      this.parts.replaceChildren(...wanted);
      held?.focus({ preventScroll: true });
    }
  }
}
