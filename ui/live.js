// Keeps the store as the host is: by server-sent events, by asking again and again where those cannot be had, and by
// itself after the connection was lost.

import { Lost, path, Refused } from "./api.js";

const POLL_MS = 2000;
const QUIET_MS = 20_000;
const RETRY_MS = [500, 1000, 2000, 3000];
const EVENTS_AGAIN_MS = 30_000;
const SHARE = 10; // of the time, reading volumes takes a tenth at most

export class Live {
  /** `ended` is told of each task that was seen to end. */
  constructor(api, store, ended) {
    this.api = api;
    this.store = store;
    this.ended = ended;
    this.last = ""; // the id of the last event
    this.source = null;
    this.attempt = 0;
    this.meanwhile = null; // events that come while lists are read
    this.stale = new Set(); // pools whose volumes have changed
    this.ending = new AbortController();
  }

  async start() {
    await this.persist(async () => {
      for await (const page of [await this.api.get("vms?_limit=100")]) page.forEach((guest) => this.store.putGuest(guest));
    });
    const { signal } = this.ending;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.rest() : this.wake()), { signal });
    window.addEventListener("online", () => this.wake(), { signal });
    this.wake();
    this.readStorage();
  }

  /** A browser has six connections to a server: pages that nobody looks at hold none of them. */
  rest() {
    this.close();
    clearTimeout(this.timer);
  }

  wake() {
    clearTimeout(this.timer);
    if (!this.source && !document.hidden && !this.ending.signal.aborted) this.open();
  }

  /** Nothing is asked or heard from now on. */
  end() {
    this.ending.abort();
    this.rest();
  }

  close() {
    this.source?.close();
    this.source = null;
    clearInterval(this.watch);
  }

  // --- Events --------------------------------------------------------------------------------------------------------

  open() {
    const after = this.last ? `&_after=${this.last}` : "";
    const source = new EventSource(this.api.url(`events?guests=true${after}`));
    this.source = source;
    source.onopen = () => this.opened(source);
    source.onerror = () => this.failed(source);
    for (const name of ["task", "removed", "guest", "guest-removed", "guests"]) {
      source.addEventListener(name, (event) => this.heard(name, JSON.parse(event.data), event.lastEventId));
    }
  }

  async opened(source) {
    this.heardAt = Date.now();
    this.watch = setInterval(() => this.check(), QUIET_MS / 2);
    try {
      await this.readAll();
    } catch (error) {
      return this.failed(source, error);
    }
    this.attempt = 0;
    if (this.source === source) this.store.setConnection("live");
  }

  heard(name, data, id) {
    this.heardAt = Date.now();
    if (id) this.last = id;
    if (this.meanwhile) this.meanwhile.push([name, data]);
    else this.take(name, data);
  }

  take(name, data) {
    if (name === "task") this.takeTask(data);
    else if (name === "removed") this.store.removeTask(data.id);
    else if (name === "guest") this.store.putGuest(data);
    else if (name === "guest-removed") this.store.removeGuest(data.uuid);
    else this.readAll().catch(() => this.failed(this.source));
  }

  takeTask(task) {
    const before = this.store.putTask(task);
    if (task.status === "running" || (before && before.status !== "running")) return;
    if (before) this.ended(task);
    for (const disk of task.disks) if (disk.target) this.stale.add(disk.target.pool);
    this.readStorageSoon();
  }

  /** A connection may be dead without a word. */
  async check() {
    if (Date.now() - this.heardAt < QUIET_MS) return;
    try {
      await this.api.get("config");
      this.heardAt = Date.now();
    } catch {
      this.failed(this.source);
    }
  }

  /** Events ended: as they do every ten minutes, or with the log-in, the server or the network. */
  async failed(source) {
    if (!source || this.source !== source) return;
    this.close();
    const wait = RETRY_MS[Math.min(this.attempt, RETRY_MS.length - 1)];
    this.attempt += 1;
    let polls = false;
    try {
      await this.api.get("config"); // which asks for the log-in where that is what is missing
      polls = this.attempt > 2;
      if (polls) await this.poll();
    } catch {
      this.store.setConnection("lost");
    }
    if (polls) this.pollUntil(Date.now() + EVENTS_AGAIN_MS);
    else this.timer = setTimeout(() => this.wake(), wait);
  }

  // --- Polling -------------------------------------------------------------------------------------------------------

  pollUntil(deadline) {
    this.timer = setTimeout(async () => {
      try {
        await this.poll();
      } catch {
        this.store.setConnection("lost");
      }
      if (Date.now() > deadline) this.wake();
      else this.pollUntil(deadline);
    }, Math.max(POLL_MS, (this.cost ?? 0) * SHARE));
  }

  async poll() {
    const begun = performance.now();
    await this.readAll();
    this.cost = performance.now() - begun;
    this.store.setConnection("polling");
  }

  // --- Lists ---------------------------------------------------------------------------------------------------------

  /** Guests and tasks from the beginning. What events tell meanwhile is newer, and taken in after them. */
  async readAll() {
    this.reading ??= this.readLists().finally(() => (this.reading = null));
    return this.reading;
  }

  async readLists() {
    this.meanwhile = [];
    try {
      const [guests, tasks] = await Promise.all([this.api.all("vms", "name"), this.api.all("tasks", "id")]);
      this.store.replaceGuests(guests);
      const known = this.store.isRead.tasks;
      for (const task of tasks) if (known && this.store.tasks.has(task.id)) this.takeTask(task);
      this.store.replaceTasks(tasks);
    } finally {
      const news = this.meanwhile;
      this.meanwhile = null;
      for (const [name, data] of news) this.take(name, data);
    }
  }

  readStorageSoon() {
    this.storageTimer ??= setTimeout(() => this.readStorage(), Math.max(1000, (this.storageCost ?? 0) * SHARE));
  }

  /** Pools, and the volumes of those that have changed; at first of all. */
  async readStorage() {
    const begun = performance.now();
    const stale = this.stale;
    this.stale = new Set();
    try {
      const isFirst = !this.store.isRead.pools;
      const pools = await this.api.get("storagepools");
      this.store.setPools(pools);
      const wanted = pools.filter((pool) => pool.state === "active" && (isFirst || stale.has(pool.name) || !this.store.volumes.has(pool.name)));
      for (const pool of wanted) await this.readVolumes(pool.name);
    } catch (error) {
      if (error instanceof Refused && error.status === 404) this.store.setPools(null); // storage is for admins
      else stale.forEach((name) => this.stale.add(name));
    }
    this.storageCost = performance.now() - begun;
    this.storageTimer = null;
    if (this.stale.size > 0) this.readStorageSoon();
  }

  async readVolumes(pool) {
    this.store.setVolumes(pool, await this.api.get(`${path("storagepools", pool)}/storagevolumes`));
  }

  /** Does something until the server could be reached. */
  async persist(act) {
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await act();
      } catch (error) {
        if (!(error instanceof Lost) && !(error instanceof Refused && error.status >= 500)) throw error;
        this.store.setConnection("lost");
        const wait = RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)];
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    }
  }
}
