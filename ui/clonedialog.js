// The clone dialog: what is wanted on one side, what would be done on the other, before anything is.

import { Lost, newKey } from "./api.js";
import { called, element, field, icon, meter, newId, setAttribute, setText } from "./dom.js";
import { humane, number, size, stateName } from "./format.js";
import { n, nodes, t } from "./i18n.js";
import { MOST, Plans, showPlans, summary } from "./plan.js";

const PAUSE_MS = 120; // after the last key, before the plan is asked for
const OPENING_MS = 300; // in which the second click of a double click is none on this dialog
const AGAIN_MS = 1500;
const MANY = 50; // sources; so many take more than a moment
const SOME = 25;

export const METHODS = () => ({
  auto: [t("Automatic"), t("The best one that can serve here.")],
  reflink: [t("Reflink"), t("The file system shares blocks until one side writes. Takes moments and next to no room, and neither depends on the other.")],
  copy: [t("Copy"), t("The server copies the file; what is sparse stays sparse. Takes as long as there is data.")],
  libvirt: [t("By libvirt"), t("libvirt copies the content, in any pool: LVM and remote hosts, too. Snapshots inside of the image stay behind.")],
  linked: [t("Linked"), t("Stores differences alone. Takes moments, but the source must not change for as long as the clone is there.")],
});

export class CloneDialog {
  /**
   * @param kind `guest` or `volume`
   * @param sources of each `name`, `path`, and in `why` what is against it, and the `pool` of a volume
   * @param done is called once they are being made
   */
  constructor(page, kind, sources, done = () => {}) {
    Object.assign(this, { page, kind, sources, done });
    this.plans = new Plans(page.api, sources.filter(({ why }) => !why));
    this.keys = new Map();
    this.opened = new Map(); // whether the plan of a source is shown in full
    this.busy = false;
    this.build();
    this.listener = () => this.showPools();
    page.store.on(["storage"], this.listener);
  }

  open() {
    this.page.root.append(this.dialog);
    this.dialog.showModal();
    setTimeout(() => this.dialog.classList.remove("is-opening"), OPENING_MS);
    (this.name.disabled ? this.count : this.name).focus();
    this.planNow();
  }

  get isOne() {
    return this.sources.length === 1;
  }

  // --- What there is to see ------------------------------------------------------------------------------------------

  build() {
    const title = newId("title");
    const heading = this.isOne ? nodes("Clone {name}", { name: called(this.sources[0].name) }) : n("Clone {count} guest", "Clone {count} guests", this.sources.length);
    this.problem = element("div", { class: "problem", role: "alert", hidden: true });
    this.plan = element("div", { class: "plan", "aria-busy": "true" });
    this.confirm = element("button", { type: "submit", class: "primary confirm", disabled: true }, icon("clone"), (this.confirmText = element("span", {}, t("Clone"))));
    this.form = element("form", { class: "clone-form", method: "dialog", novalidate: true, onsubmit: (event) => this.submitted(event), oninput: () => this.changed() },
      element("div", { class: "head" }, element("h2", { id: title }, heading), element("button", { type: "button", class: "quiet icon-only", "aria-label": t("Close"), onclick: () => this.close() }, icon("close"))),
      element("div", { class: "columns" },
        (this.wanted = element("div", { class: "wishes" }, element("div", { class: "side-by-side" }, this.buildCount(), this.buildName()), this.buildPools(), this.buildMethods(), this.buildStart(), this.buildMore())),
        element("section", { class: "foreseen", "aria-label": t("What will be done"), tabindex: 0 }, this.plan)),
      this.problem,
      element("div", { class: "foot" }, (this.summary = element("p", { class: "summary", role: "status" })), element("button", { type: "button", onclick: () => this.close() }, t("Cancel")), this.confirm));
    this.dialog = element("dialog", { class: "clone-dialog is-opening", "aria-labelledby": title, onclose: () => this.closed(), onkeydown: (event) => isHeldDown(event) && event.preventDefault() }, this.form);
  }

  buildCount() {
    this.count = element("input", { type: "number", min: 1, max: MOST, step: 1, value: 1, inputmode: "numeric", required: true });
    const step = (by) => () => {
      this.count.value = Math.min(Math.max((this.count.valueAsNumber || 0) + by, 1), MOST);
      this.changed();
    };
    const label = this.isOne ? t("How many") : t("How many of each");
    const made = field(label, this.count);
    const steps = element("span", { class: "stepper" });
    this.count.replaceWith(steps);
    steps.append(
      element("button", { type: "button", class: "icon-only", "aria-label": t("One less"), onclick: step(-1) }, icon("minus")), this.count,
      element("button", { type: "button", class: "icon-only", "aria-label": t("One more"), onclick: step(1) }, icon("plus")));
    return made;
  }

  buildName() {
    this.name = element("input", { type: "text", autocomplete: "off", spellcheck: "false", dir: "auto", disabled: !this.isOne });
    this.nameHint = element("p", { class: "hint" });
    return field(t("Name"), this.name, this.nameHint);
  }

  buildPools() {
    this.pools = element("div", { class: "choices pools-choice", role: "radiogroup", "aria-label": t("Where to") });
    this.poolField = element("fieldset", {}, element("legend", {}, t("Where to")), this.pools);
    this.showPools();
    return this.poolField;
  }

  showPools() {
    const { pools } = this.page.store;
    const told = JSON.stringify(pools);
    if (told === this.told) return; // what is replaced while it is pressed is not pressed
    this.told = told;
    this.poolField.hidden = pools === null || pools.length === 0;
    const chosen = this.form ? this.value("pool") : "";
    const stay = this.kind === "guest" ? t("Where each disk lies now") : t("Where it lies now");
    const held = this.pools.contains(document.activeElement);
    this.pools.replaceChildren(choice("pool", "", chosen === "", stay, null), ...(pools ?? []).map((pool) => poolChoice(pool, chosen === pool.name)));
    if (held) this.pools.querySelector(":checked")?.focus();
  }

  buildMethods() {
    this.methods = element("div", { class: "choices", role: "radiogroup", "aria-label": t("How") });
    for (const [method, [title, about]] of Object.entries(METHODS())) this.methods.append(choice("method", method, method === "auto", title, element("span", { class: "about" }, about)));
    return element("fieldset", {}, element("legend", {}, t("How")), this.methods);
  }

  buildStart() {
    this.start = element("input", { type: "checkbox" });
    return element("label", { class: "check", hidden: this.kind === "volume" }, this.start, t("Start afterwards"));
  }

  buildMore() {
    const isGuest = this.kind === "guest";
    this.flatten = element("input", { type: "checkbox" });
    this.drop = element("input", { type: "checkbox" });
    this.titleField = element("input", { type: "text", maxlength: 255, dir: "auto", autocomplete: "off" });
    this.description = element("input", { type: "text", maxlength: 8192, dir: "auto", autocomplete: "off" });
    this.bandwidth = element("input", { type: "number", min: 1, max: 1000000, step: 1, inputmode: "numeric" });
    return element("details", { class: "more" }, element("summary", {}, icon("chevron"), t("More")),
      isGuest && field(t("Title"), this.titleField),
      isGuest && field(t("Description"), this.description, element("p", { class: "hint" }, t("Left empty, it is the source's."))),
      element("label", { class: "check" }, this.flatten, t("Without backing files: copy their content")),
      isGuest && element("label", { class: "check" }, this.drop, t("Without devices of the host that are passed through")),
      field(t("Read at most, in MiB a second"), this.bandwidth, element("p", { class: "hint" }, t("For each disk that is copied; empty for no limit."))));
  }

  // --- What is wanted ------------------------------------------------------------------------------------------------

  value(name) {
    return this.form.elements[name]?.value ?? this.form.querySelector(`[name="${name}"]:checked`)?.value ?? "";
  }

  get amount() {
    const value = this.count.valueAsNumber;
    return Number.isInteger(value) && value >= 1 && value <= MOST ? value : null;
  }

  wishes() {
    const wanted = {};
    const put = (key, value) => value && (wanted[key] = value);
    if (this.amount > 1) wanted.count = this.amount;
    else if (this.isOne) put("name", this.name.value);
    put("pool", this.value("pool"));
    if (this.value("method") !== "auto") put("method", this.value("method"));
    put("start", this.start.checked);
    put("title", this.titleField.value);
    put("description", this.description.value);
    put("flatten", this.flatten.checked);
    put("drop_hostdevs", this.drop.checked);
    put("bandwidth", this.bandwidth.valueAsNumber || 0);
    return wanted;
  }

  changed() {
    this.keys.clear(); // another wish is another request
    this.name.disabled = !this.isOne || this.amount !== 1;
    this.plan.setAttribute("aria-busy", "true");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.planNow(), PAUSE_MS);
    this.planned = null;
  }

  // --- The plan ------------------------------------------------------------------------------------------------------

  /** Asks for the plan; resolves to whether it can be done. */
  planNow() {
    clearTimeout(this.timer);
    this.planned = this.askForPlan();
    return this.planned;
  }

  async askForPlan() {
    if (this.amount === null) return this.showProblem(t("How many must be a number from 1 to {most}", { most: MOST }), "", this.count);
    let found;
    try {
      found = await this.plans.ask(this.wishes(), (done) => this.showProgress(done, this.plans.sources.length, (values) => t("{done} of {all} planned", values)));
    } catch (error) {
      if (error.name === "AbortError") return false; // a newer one is on its way
      if (!(error instanceof Lost)) throw error;
      this.showProblem(t("The server does not answer. The plan comes as soon as it does."));
      this.timer = setTimeout(() => this.dialog.open && this.planNow(), AGAIN_MS);
      return false;
    }
    this.plan.setAttribute("aria-busy", "false");
    this.showMethods(found.methods);
    this.showHints(found);
    this.showPlans();
    setText(this.summary, summary(found, this.page.store));
    const refusal = found.refusals[0];
    if (found.plans.length === 0 && refusal) return this.showRefusal(refusal.error);
    if (found.plans.length === 0) return this.showProblem(this.sources[0].why);
    if (found.short) return this.showProblem(t("There is no room for all of them: {pool} has {available}, and {needed} are needed.", found.short));
    this.showProblem("");
    return true;
  }

  /** How far it is where that takes a while, now and then: it is read out. */
  showProgress(done, all, words) {
    if (all >= MANY && done % SOME === 0) setText(this.summary, words({ done: number(done), all: number(all) }));
  }

  showPlans() {
    showPlans(this.plan, this.plans.found, this);
  }

  showHints({ plans }) {
    const made = plans[0]?.plan.name ?? "";
    const isMadeUp = this.isOne && this.amount === 1 && !this.name.value;
    this.name.placeholder = this.name.disabled || !made ? "" : isMadeUp ? made : this.name.placeholder;
    this.nameHint.textContent = this.name.disabled ? t("Each gets a name of its own.") : t("Left empty, it gets a new one.");
  }

  showMethods(reasons) {
    if (!reasons) return;
    for (const input of this.methods.querySelectorAll("input")) {
      const why = reasons[input.value] ?? "";
      const about = input.closest("label").querySelector(".about");
      input.disabled = why !== "" && !input.checked;
      input.closest("label").classList.toggle("is-off", why !== "");
      about.textContent = why ? t("Not here: {why}", { why }) : METHODS()[input.value][1];
    }
  }

  /** Shows what is in the way; false, for the plan cannot be done. */
  showProblem(text, code = "", input = null) {
    this.problem.replaceChildren(...(text ? [icon("alert"), element("p", {}, text, code && element("code", {}, code))] : []));
    this.problem.hidden = !text;
    this.confirm.disabled = Boolean(text);
    if (text) setText(this.summary, "");
    for (const each of [this.name, this.count]) setAttribute(each, "aria-invalid", each === input ? "true" : null);
    this.confirmText.textContent = this.label();
    return !text;
  }

  showRefusal(error) {
    const { code, text } = humane(error.message);
    if (code !== "KCHVM0034E" || this.amount === 1) return this.showProblem(text, code, code.startsWith("CLNNAME") ? this.name : null);
    this.showProblem(n("There is no room for {count} clone. Of the one that does not fit: {why}", "There is no room for {count} clones. Of the first that does not fit: {why}", this.amount, { why: text }), code);
    this.offerWhatFits();
    return false;
  }

  /** Says how many there is room for, and takes so many at the press of a button. */
  async offerWhatFits() {
    const asked = this.amount;
    const { count: _, ...one } = this.wishes();
    const most = Math.min(...(await Promise.all(this.plans.sources.map((source) => this.plans.fitting(source, one)))));
    if (most < 1 || this.amount !== asked || !this.dialog.open) return;
    const take = () => {
      this.count.value = most;
      this.changed();
      this.count.focus();
    };
    this.problem.append(element("button", { type: "button", class: "fitting", onclick: take }, n("Take {count}", "Take {count}", most)));
  }

  label() {
    const all = (this.amount ?? 1) * this.plans.sources.length;
    return all > 1 ? n("Make {count} clone", "Make {count} clones", all) : t("Clone");
  }

  // --- Doing it ------------------------------------------------------------------------------------------------------

  async submitted(event) {
    event.preventDefault();
    if (this.busy) return;
    this.setBusy(true);
    try {
      if (await (this.planned ?? this.planNow())) await this.order();
    } finally {
      this.setBusy(false);
    }
  }

  /** What is wanted stays as it is while it is asked for. */
  setBusy(isBusy) {
    this.busy = isBusy;
    if (isBusy) this.held = this.wanted.contains(document.activeElement) ? document.activeElement : null;
    this.wanted.inert = isBusy;
    if (this.held) (isBusy ? this.confirm : this.held).focus();
    setAttribute(this.confirm, "aria-disabled", isBusy ? "true" : null);
    this.confirm.classList.toggle("is-busy", isBusy);
  }

  async order() {
    const wanted = this.wishes();
    const made = [];
    const { plans } = this.plans.found;
    for (const { source } of plans) {
      const accepted = await this.orderOne(source, wanted);
      if (!accepted) break;
      made.push(accepted);
      this.plans.take(source);
      this.showProgress(made.length, plans.length, (values) => t("{done} of {all} accepted", values));
    }
    if (made.length > 0) this.page.accepted(made.flatMap((answer) => answer.tasks ?? [answer]));
    if (this.plans.found.plans.length > 0) return this.showPlans();
    this.done();
    this.close();
  }

  /** Asks for the clones of one source until there is an answer; the key sees to it that they are made once. */
  async orderOne(source, wanted) {
    if (!this.keys.has(source)) this.keys.set(source, newKey());
    const key = this.keys.get(source);
    while (this.dialog.open) {
      try {
        return await this.page.api.request("POST", `${source.path}/clone`, { body: wanted, key });
      } catch (error) {
        if (error instanceof Lost) this.showProblem(t("The server does not answer. It is asked again until it does; nothing is made twice."));
        else if (error.code !== "CLNAPI0010E") return this.showRefused(error);
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      }
    }
    return null;
  }

  /** A refusal that may pass can be tried again as it is. */
  showRefused(error) {
    this.showRefusal(error);
    if (error.retryAfter) this.confirm.disabled = false;
    return null;
  }

  close() {
    this.dialog.close();
  }

  closed() {
    clearTimeout(this.timer);
    this.plans.stop();
    this.page.store.off(this.listener);
    this.dialog.remove();
    this.page.dialogClosed(this);
  }
}

/** Enter that is still held down from what opened the dialog confirms nothing. */
const isHeldDown = ({ key, repeat }) => key === "Enter" && repeat;

function choice(name, value, isChosen, title, about, isOff = false) {
  const input = element("input", { type: "radio", name, value, disabled: isOff });
  input.checked = isChosen;
  return element("label", { class: `choice${isOff ? " is-off" : ""}` }, input, element("span", { class: "choice-text" }, element("span", { class: "choice-title" }, title), about));
}

function poolChoice(pool, isChosen) {
  const isActive = pool.state === "active";
  const used = pool.capacity > 0 ? 1 - pool.available / pool.capacity : 0;
  const free = isActive ? t("{free} free of {all}", { free: size(pool.available), all: size(pool.capacity) }) : stateName(pool.state);
  const about = element("span", { class: "about pool-room" }, isActive && meter(t("How full {name} is", { name: pool.name }), free, used), free);
  return choice("pool", pool.name, isChosen, called(pool.name), about, !isActive);
}
