// What clones would do: asked for by a dry run, which takes the way of the clone itself, and shown.

import { Refused } from "./api.js";
import { called, element, icon } from "./dom.js";
import { duration, humane, size } from "./format.js";
import { n, nodes, t } from "./i18n.js";

export const MOST = 1000;

const AT_ONCE = 4;
const SOME_NAMES = 4;
const STAMPED = /-clone-\d{16}/;
const SOME_SOURCES = 100;
const FEW_SOURCES = 3; // which are shown in full
const AT_A_GUESS = 200 * 2 ** 20; // bytes a second, where nothing was measured yet
const INSTANT = ["reflink", "linked"];
const INSTANT_S = 0.1;
const MOMENTS_S = 5;

export class Plans {
  constructor(api, sources) {
    Object.assign(this, { api, sources });
    this.found = { plans: [], refusals: [], pools: Object.create(null), methods: null, short: null };
  }

  stop() {
    this.asking?.abort();
  }

  /**
   * What would be done for each source: `plans`, `refusals`, bytes by pool, and why methods cannot serve. `told` hears how
   * many sources have been asked about.
   */
  async ask(wishes, told) {
    this.stop();
    const asking = (this.asking = new AbortController());
    const results = new Array(this.sources.length);
    const left = this.sources.map((source, place) => [source, place]);
    const work = async () => {
      for (let next = left.shift(); next; next = left.shift()) {
        results[next[1]] = await this.one(next[0], wishes, asking.signal);
        told(results.length - left.length);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    this.results = results;
    this.found = { ...summed(results), wishes };
    return this.found;
  }

  /** Takes a source out whose clones were accepted: they are not asked for again, whatever else is wished. */
  take(source) {
    this.sources = this.sources.filter((each) => each !== source);
    this.results = this.results.filter((each) => each.source !== source);
    this.found = { ...summed(this.results), wishes: this.found.wishes };
  }

  /** How many clones of a source there is room for; 0 where there is none, or where nobody knows. */
  async fitting(source, wishes) {
    try {
      const { pools } = await this.one(source, wishes, this.asking.signal);
      const each = Object.values(pools ?? { none: { needed: 1, available: 0 } }).map(({ needed, available }) => (needed ? Math.floor(available / needed) : MOST));
      return Math.min(...each, MOST);
    } catch {
      return 0;
    }
  }

  async one(source, wishes, signal) {
    try {
      const answer = await this.api.request("POST", `${source.path}/clone`, { body: { ...wishes, dry_run: true }, signal });
      return { source, ...answer };
    } catch (error) {
      if (error instanceof Refused) return { source, error };
      throw error;
    }
  }
}

function summed(results) {
  const found = { plans: [], refusals: [], pools: Object.create(null), methods: null, short: null };
  for (const { source, error, plans, pools, methods } of results) {
    if (error) {
      found.refusals.push({ source, error });
      continue;
    }
    found.plans.push({ source, plan: plans[0], names: plans.map(({ name }) => name) });
    for (const [name, { needed, available }] of Object.entries(pools)) {
      const pool = (found.pools[name] ??= { needed: 0, available });
      pool.needed += needed;
      if (pool.needed > available) found.short = { pool: name, needed: size(pool.needed), available: size(available) };
    }
    found.methods = found.methods ? Object.fromEntries(Object.entries(methods).map(([name, why]) => [name, found.methods[name] ?? why])) : methods;
  }
  return found;
}

/** Shows what was found in `place`. */
export function showPlans(place, found, { sources, page, kind, opened }) {
  if (found.plans.length === 0) return place.replaceChildren(element("p", { class: "hint" }, t("As it is, nothing can be done.")));
  const heading = element("h3", {}, n("{count} clone", "{count} clones", clonesOf(found)));
  const [first] = found.plans;
  const parts = sources.length > 1
    ? [heading, leftOut(found, sources), facts(found, page.store), ...listed(found, kind, opened)]
    : [heading, namesOf(first), facts(found, page.store), disks(first.plan), own(first.plan, kind)];
  place.replaceChildren(...parts.filter(Boolean));
}

const clonesOf = ({ plans }) => plans.reduce((sum, { names }) => sum + names.length, 0);

function namesOf({ names }) {
  const some = names.slice(0, SOME_NAMES).map((name) => element("li", {}, called(name)));
  const more = names.length - some.length;
  const rest = more > 0 && element("li", { class: "hint" }, n("and {count} more, each with a name of its own", "and {count} more, each with a name of its own", more));
  const numbers = names.some((name) => STAMPED.test(name)) && element("li", { class: "hint" }, t("The numbers tell the time, so they will be later ones."));
  return element("ul", { class: "names" }, some, rest, numbers);
}

function leftOut({ refusals }, sources) {
  const problems = [...refusals.map(({ source, error }) => [source, humane(error.message).text]), ...sources.filter(({ why }) => why).map((source) => [source, source.why])];
  return problems.length > 0 && element("div", { class: "left-out" },
    element("h4", {}, icon("alert"), n("{count} is left out", "{count} are left out", problems.length)),
    element("ul", {}, problems.slice(0, SOME_SOURCES).map(([source, why]) => element("li", {}, called(source.name), element("span", { class: "hint" }, why)))));
}

/** Each source, which opens on what would be made of it. */
function listed({ plans }, kind, opened) {
  const shown = plans.slice(0, SOME_SOURCES).map((each) => {
    const fill = () => {
      opened.set(each.source, details.open);
      if (details.open && details.childElementCount === 1) details.append(...[namesOf(each), disks(each.plan), own(each.plan, kind)].filter(Boolean));
    };
    const details = element("details", { open: opened.get(each.source) ?? plans.length <= FEW_SOURCES, ontoggle: fill },
      element("summary", {}, icon("chevron"), called(each.source.name), element("span", { class: "hint" }, size(bytesOf(each.plan)))));
    fill();
    return element("li", {}, details);
  });
  const more = plans.length - shown.length;
  return [element("ul", { class: "sources" }, shown), more > 0 && element("p", { class: "hint" }, n("and {count} more guest", "and {count} more guests", more))];
}

const copies = (plan) => plan.disks.filter(({ action }) => action === "clone");
const bytesOf = (plan) => copies(plan).reduce((sum, { bytes }) => sum + bytes, 0);

function facts(found, store) {
  const rows = Object.entries(found.pools).map(([name, { needed, available }]) => [
    nodes("Room in {pool}", { pool: called(name) }), t("{needed} of {available} free", { needed: size(needed), available: size(available) }),
  ]);
  rows.push([t("Time"), time(found, store)]);
  if (found.wishes.start) rows.push([t("Afterwards"), n("It is started", "They are started", clonesOf(found))]);
  return element("dl", { class: "facts-list" }, rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

/** The whole of it in a line. */
export function summary(found, store) {
  if (found.plans.length === 0) return "";
  const needed = Object.values(found.pools).reduce((sum, pool) => sum + pool.needed, 0);
  return [n("{count} clone", "{count} clones", clonesOf(found)), size(needed), time(found, store)].join(" · ");
}

/** How long it should take: as copies lately took, or at a guess where there were none. */
function time({ plans }, store) {
  let seconds = 0;
  let isCopied = false;
  let isGuess = false;
  for (const { plan, names } of plans) {
    for (const { method, total } of copies(plan)) {
      const usual = INSTANT.includes(method) ? 0 : store.usualSpeed(method);
      isCopied ||= !INSTANT.includes(method);
      isGuess ||= !INSTANT.includes(method) && !usual;
      seconds += names.length * (INSTANT.includes(method) ? INSTANT_S : total / (usual || AT_A_GUESS));
    }
  }
  if (seconds < (isCopied ? 1 : MOMENTS_S)) return t("moments");
  return isGuess ? t("about {time}, at a guess", { time: duration(seconds) }) : t("about {time}", { time: duration(seconds) });
}

function disks(plan) {
  const rows = plan.disks.map((disk) => element("li", { class: `plan-disk ${disk.action}` },
    element("span", { class: "target" }, disk.disk),
    element("div", {}, disk.action === "clone" ? cloned(disk) : element("span", { class: "hint" }, leftAs(disk)))));
  return element("div", {}, element("h4", {}, t("Disks")), element("ul", { class: "plan-disks" }, rows));
}

function cloned(disk) {
  return [
    element("div", { class: "line" }, element("span", { class: `method ${disk.method}` }, disk.method), element("span", {}, size(disk.bytes)), icon("arrow"), called(`${disk.target.pool}/${disk.target.name}`)),
    element("span", { class: "hint" }, disk.reason, disk.note && `. ${disk.note}`),
  ];
}

const leftAs = ({ action, reason }) => (action === "share" ? t("Shared with the source: {reason}", { reason }) : t("Empty: {reason}", { reason }));

function own(plan, kind) {
  if (kind === "volume") return null;
  const things = [t("name and UUID"), t("MAC addresses"), ...copies(plan).map(({ disk }) => disk), plan.nvram && t("UEFI variables"), plan.tpm && t("TPM state")].filter(Boolean);
  const shared = plan.disks.filter(({ action }) => action === "share").map(({ disk }) => disk);
  const isLinked = copies(plan).some(({ method }) => method === "linked");
  return element("ul", { class: "own" },
    element("li", {}, icon("check"), t("Its own, not shared: {things}", { things: things.join(", ") })),
    shared.length > 0 && element("li", { class: "hint" }, icon("minus"), t("Shared with the source: {things}", { things: shared.join(", ") })),
    isLinked && element("li", { class: "warning" }, icon("alert"), t("Its disks stand on the source's, which must not be started or deleted before the clone is gone.")));
}
