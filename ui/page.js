// The page as a whole. `mount` puts it into an element, alone or within another page, such as a tab of Wok's.

import { Activity } from "./activity.js";
import { Api, path, Refused } from "./api.js";
import { CloneDialog } from "./clonedialog.js";
import { ask, askLogin, sayLoggedOut } from "./dialogs.js";
import { called, element, icon, setAttribute, setText } from "./dom.js";
import { humane } from "./format.js";
import { Guests } from "./guests.js";
import { loadTexts, locale, n, nodes, t } from "./i18n.js";
import { Live } from "./live.js";
import { Notices } from "./notices.js";
import { Storage } from "./storage.js";
import { Store } from "./store.js";

const LATE_MS = 1500; // a connection that is back within that was not worth a word
const SETTLING_MS = 300; // in which the second click of a double click is none on what a dialog has covered
const TOGETHER_MS = 2000;
const LOGGED_IN = "logged in";

/**
 * Shows the page in an element.
 *
 * @param options.base the plugin's address, such as `/plugins/kimchi`
 * @param options.server where `login` and `logout` are; left out where the surrounding page sees to the log-in
 * @param options.docs the address of the API's description, if there is one
 * @param options.headers further headers of each request
 * @param options.unasked further ones of those that nobody has clicked for
 * @param options.languages of the reader, the best first
 * @param options.hash whether the address tells which view is shown
 */
export async function mount(root, options) {
  await loadTexts(options.languages);
  const page = new Page(root, options);
  page.begin();
  return page;
}

class Page {
  constructor(root, options) {
    this.root = root;
    this.options = options;
    this.store = new Store();
    const api = (headers) => new Api(options.base.replace(/\/$/, ""), () => this.askLogin(), headers);
    this.api = api(options.headers);
    this.live = new Live(api({ ...options.headers, ...options.unasked }), this.store, (task) => this.ended(task));
    this.notices = new Notices();
    this.views = { guests: new Guests(this), storage: new Storage(this), activity: new Activity(this) };
    this.said = new Map(); // what takes the notice away that a task's clone is being made
    this.channel = options.server && new BroadcastChannel("cloner"); // to the other tabs of this reader
    this.build();
    this.store.on(["connection"], () => this.showConnection());
    this.store.on(["tasks", "storage"], () => this.showTabs());
    const { signal } = this.live.ending;
    document.addEventListener("keydown", (event) => this.pressed(event), { signal });
    if (options.hash) window.addEventListener("popstate", () => this.show(this.viewInAddress()), { signal });
  }

  /** Takes the page down: its connections and its listeners. */
  end() {
    this.live.end();
    this.channel?.close();
    this.channel = null;
    this.watch.disconnect();
    this.root.replaceChildren();
  }

  build() {
    const tab = (id, label, picture) => element("a", { href: `#${id}`, onclick: (event) => this.follow(event, id) }, icon(picture), element("span", {}, label));
    this.tabs = { guests: tab("guests", t("Guests"), "guest"), storage: tab("storage", t("Storage"), "disk"), activity: tab("activity", t("Activity"), "pulse") };
    this.running = element("span", { class: "bubble", hidden: true });
    this.tabs.activity.append(this.running);
    this.connection = element("p", { class: "connection", role: "status" });
    const { server, docs } = this.options;
    this.root.classList.add("cloner");
    this.root.lang = locale();
    this.root.replaceChildren(
      element("header", { class: "top" },
        server && element("h1", {}, element("span", { class: "logo", "aria-hidden": "true" }), "cloner"),
        element("nav", { "aria-label": t("Views") }, Object.values(this.tabs)),
        this.connection,
        docs && element("a", { class: "docs", href: docs }, t("API")),
        server && element("button", { type: "button", class: "quiet", "aria-label": t("Log out"), onclick: () => this.logOut() }, icon("logout"), element("span", {}, t("Log out")))),
      (this.banner = element("div", { class: "banner", role: "alert", hidden: true })),
      (this.main = element("main", {}, Object.values(this.views).map((view) => view.element))),
      this.notices.element);
  }

  begin() {
    this.watch = new MutationObserver(() => this.root.isConnected || this.end());
    this.watch.observe(document.documentElement, { childList: true, subtree: true });
    this.show(this.options.hash ? this.viewInAddress() : "guests");
    this.live.start().catch((error) => this.fail(error));
  }

  // --- Views ---------------------------------------------------------------------------------------------------------

  viewInAddress() {
    const wanted = window.location.hash.slice(1);
    return Object.hasOwn(this.views, wanted) ? wanted : "guests";
  }

  follow(event, id) {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    this.go(id);
  }

  go(id) {
    if (this.options.hash && this.shown !== id) window.history.pushState(null, "", `#${id}`);
    this.show(id);
  }

  show(id) {
    this.shown = id;
    if (id === "storage") this.live.refreshStorage();
    for (const [name, view] of Object.entries(this.views)) view.element.hidden = name !== id;
    this.views[id].refresh();
    this.showTabs();
  }

  showTabs() {
    for (const [name, tab] of Object.entries(this.tabs)) setAttribute(tab, "aria-current", name === this.shown ? "page" : null);
    this.tabs.storage.hidden = this.store.pools === null;
    const running = this.store.running().length;
    this.running.hidden = running === 0;
    setText(this.running, running ? String(running) : "");
    if (this.options.hash) document.title = running ? `(${running}) cloner` : "cloner";
  }

  /** `/` leads to the search, as in many a list. */
  pressed(event) {
    const isTyping = event.target.closest?.("input:not([type=checkbox], [type=radio]), textarea, dialog");
    const search = this.views[this.shown].search;
    if (event.key !== "/" || isTyping || !search || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    search.input.focus();
  }

  /** Shows what a task has made. */
  reveal(task) {
    this.go(task.kind === "domain" ? "guests" : "storage");
    if (task.kind === "domain") this.views.guests.reveal(task.uuid);
    else this.views.storage.reveal(task.pool, task.name);
  }

  // --- Connection and log-in -----------------------------------------------------------------------------------------

  showConnection() {
    const state = this.store.connection;
    const words = { connecting: t("Connecting…"), live: t("Live"), polling: t("Asking every few seconds"), lost: t("Connection lost") };
    this.connection.className = `connection ${state}`;
    if (this.connection.textContent !== words[state]) this.connection.replaceChildren(element("span", { class: "lamp" }), element("span", {}, words[state]));
    clearTimeout(this.late);
    if (state === "lost") this.late = setTimeout(() => this.showBanner(), LATE_MS);
    else this.banner.hidden = true;
    if (state === "live" || state === "polling") this.channel?.postMessage(LOGGED_IN);
  }

  showBanner() {
    this.banner.hidden = false;
    this.banner.replaceChildren(icon("alert"), element("span", {}, t("The server cannot be reached. What is shown may be old; it goes on by itself as soon as the server answers.")));
  }

  /** One log-in serves all who wait for it. */
  askLogin() {
    this.login ??= this.askForLogin().finally(() => (this.login = null));
    return this.login;
  }

  askForLogin() {
    if (!this.options.server) return sayLoggedOut(this.root);
    const elsewhere = new Promise((resolve) => {
      this.channel.onmessage = ({ data }) => data === LOGGED_IN && resolve();
    });
    return askLogin(this.root, (user, password) => this.logIn(user, password), this.store.isRead.tasks, elsewhere);
  }

  /** What is wrong with a log-in; '' when it is done. */
  async logIn(username, password) {
    try {
      const headers = { ...this.api.headers, "Content-Type": "application/json" };
      await this.api.read(await fetch(`${this.options.server}login`, { method: "POST", headers, body: JSON.stringify({ username, password }) }));
      return "";
    } catch (error) {
      return error instanceof Refused ? humane(error.message).text : t("The server cannot be reached.");
    }
  }

  async logOut() {
    await this.attempt(() => fetch(`${this.options.server}logout`, { method: "POST", headers: this.api.headers }));
    window.location.reload();
  }

  // --- Clones --------------------------------------------------------------------------------------------------------

  clone(kind, sources, done) {
    if (this.dialog) return; // the second click of a double click
    this.dialog = new CloneDialog(this, kind, sources, done);
    this.dialog.open();
    this.live.refreshPools();
  }

  dialogClosed(dialog) {
    if (this.dialog === dialog) this.dialog = null;
    this.main.classList.add("is-settling");
    setTimeout(() => this.main.classList.remove("is-settling"), SETTLING_MS);
  }

  accepted(tasks) {
    tasks.forEach((task) => this.store.putTask(task));
    if (tasks.every(({ id }) => this.store.tasks.get(id).status !== "running")) return; // which was said by then
    const content = tasks.length === 1 ? nodes("{name} is being made", { name: called(tasks[0].name) }) : n("{count} clone is being made", "{count} clones are being made", tasks.length);
    const taken = this.notices.say(content, { act: this.shown === "activity" ? null : [t("Show"), () => this.go("activity")] });
    if (tasks.length === 1) this.said.set(tasks[0].id, taken);
  }

  ended(task) {
    this.said.get(task.id)?.();
    this.said.delete(task.id);
    if (task.batch !== null) return this.batchEnded(task);
    const name = called(task.name);
    if (task.status === "finished") this.ready(task);
    else if (task.status === "failed") this.notices.say(nodes("{name} could not be made: {why}", { name, why: humane(task.message).text }), { isBad: true, act: [t("Show"), () => this.go("activity")] });
    else this.notices.say(nodes("{name} was cancelled; everything made for it is gone", { name }));
    if (task.warning) this.notices.say([called(task.name), ": ", humane(task.warning).text], { isBad: true });
  }

  /** One that is ready is told of at once, those of the next moments together. */
  ready(task) {
    if (this.others) return this.others.push(task);
    this.others = [];
    this.notices.say(nodes("{name} is ready", { name: called(task.name) }), { act: [t("Show"), () => this.reveal(task)] });
    return setTimeout(() => this.othersReady(), TOGETHER_MS);
  }

  othersReady() {
    const tasks = this.others;
    this.others = null;
    if (tasks.length === 1) return this.ready(tasks[0]);
    if (tasks.length === 0) return null;
    this.others = [];
    const act = this.shown === "activity" ? null : [t("Show"), () => this.go("activity")];
    this.notices.say(n("{count} more clone is ready", "{count} more clones are ready", tasks.length), { act });
    return setTimeout(() => this.othersReady(), TOGETHER_MS);
  }

  batchEnded({ batch, source }) {
    const tasks = [...this.store.tasks.values()].filter((task) => task.batch === batch);
    if (tasks.some(({ status }) => status === "running")) return;
    const of = (wanted) => tasks.filter(({ status }) => status === wanted).length;
    const [finished, failed] = [of("finished"), of("failed")];
    const act = this.shown === "activity" ? null : [t("Show"), () => this.go("activity")];
    if (failed) this.notices.say(nodes("Clones of {source}: {finished} ready, {failed} failed", { source: called(source), finished: String(finished), failed: String(failed) }), { isBad: true, act });
    else if (finished) this.notices.say(nodes(n("{count} clone of {source} is ready", "{count} clones of {source} are ready", finished, { source: "{source}" }), { source: called(source) }), { act });
    else this.notices.say(nodes("The clones of {source} were cancelled; everything made for them is gone", { source: called(source) }));
  }

  async cancel(tasks) {
    for (const task of tasks) {
      const answer = await this.attempt(() => this.api.request("DELETE", path("tasks", task.id), { body: { cancel: true } }));
      if (answer?.explanation) this.say(answer.explanation);
      if (answer) this.live.takeTask(answer);
    }
  }

  cancelBatch(batch) {
    return this.attempt(() => this.api.request("DELETE", path("batches", batch), { body: { undo: false } }));
  }

  async undoBatch(batch, tasks) {
    const count = tasks.filter(({ status }) => status === "finished").length;
    const text = n("The clone that this made is deleted, with its disks and whatever was written to them.", "The {count} clones that this made are deleted, with their disks and whatever was written to them.", count);
    if (await ask(this.root, t("Remove these clones again?"), text, n("Delete {count} clone", "Delete {count} clones", count))) {
      await this.attempt(() => this.api.request("DELETE", path("batches", batch), { body: { undo: true } }));
    }
  }

  /** Takes a task out of the list; whether it is out. */
  async forget(task) {
    const isGone = await this.attempt(async () => (await this.api.remove(path("tasks", task.id)), true));
    if (isGone) this.store.removeTask(task.id);
    return isGone;
  }

  /** Does something; what goes wrong is said, and null is returned then. */
  async attempt(act) {
    try {
      return await act();
    } catch (error) {
      this.fail(error);
      return null;
    }
  }

  fail(error) {
    this.say(error instanceof Refused ? humane(error.message).text : t("The server cannot be reached."), true);
  }

  say(text, isBad = false) {
    this.notices.say(text, { isBad });
  }
}
