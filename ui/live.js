// Keeps the store as the host is: by server-sent events, by asking again and again where those cannot be had, and by
// itself after the connection was lost.

import { Lost, path, Refused } from "./api.js";

const POLL_MS = 2000;
const SILENCE_MS = 40_000; // after which a connection is dead: every 15 s there is something to hear
const MUTE_MS = 10_000; // after which there is none: the first words come at once, unless a proxy keeps them
const RETRY_MS = [200, 300, 500, 1000, 2000, 3000];
const EVENTS_AGAIN_MS = 30_000;
const SHARE = 10; // of the time, reading lists takes a tenth at most
const LONGEST_REST_MS = 30_000; // however long it took: somebody may have had to log in meanwhile

export class Live {
  /** `ended` is told of each task that was seen to end. */
  constructor(api, store, ended) {
    this.api = api;
    this.store = store;
    this.ended = ended;
    this.last = ""; // the id of the last event
    this.stream = null; // ends the events that are heard
    this.attempt = 0;
    this.meanwhile = null; // events that come while lists are read
    this.stale = new Set(); // pools whose volumes have changed
    this.storageTimer = null;
    this.storageCost = 0; // milliseconds that reading it has taken
    this.ending = new AbortController();
    this.proceed = () => {};
  }

  /** Shows the first guests as soon as can be, and all of them and what becomes of them from then on. */
  async start() {
    const { signal } = this.ending;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.stream?.abort() : this.proceed()), { signal });
    window.addEventListener("online", () => this.proceed(), { signal });
    signal.addEventListener("abort", () => (this.stream?.abort(), this.proceed()));
    await this.persist(async () => (await this.api.get("vms?_limit=100")).forEach((guest) => this.store.putGuest(guest)));
    if (!this.store.isRead.pools) this.readStorageSoon(0);
    while (!signal.aborted) await this.follow();
  }

  /** Nothing is asked or heard from now on. */
  end() {
    this.ending.abort();
  }

  /** Resolves after a time, or as soon as it is worth going on. */
  pause(milliseconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.proceed = () => (clearTimeout(timer), resolve());
    });
  }

  async follow() {
    // A browser has six connections to a server: pages that nobody looks at hold none of them.
    if (document.hidden) return this.pause(2 ** 30);
    try {
      await this.hear();
    } catch (error) {
      if (this.ending.signal.aborted || document.hidden) return;
      const isDenied = error instanceof Refused && error.status === 503;
      if (isDenied || this.isMute) return this.pollUntil(Date.now() + EVENTS_AGAIN_MS);
      await this.wait();
    }
  }

  /** The connection is lost; waits before the next attempt. */
  wait() {
    this.store.setConnection("lost");
    this.attempt += 1;
    return this.pause(RETRY_MS[Math.min(this.attempt, RETRY_MS.length) - 1]);
  }

  // --- Events --------------------------------------------------------------------------------------------------------

  /** Takes in events until they end, as they do every ten minutes. */
  async hear() {
    const stream = (this.stream = new AbortController());
    this.isMute = false;
    let silence = null;
    const listen = (patience, isMute) => {
      clearTimeout(silence);
      silence = setTimeout(() => ((this.isMute = isMute), stream.abort()), patience);
      return () => clearTimeout(silence);
    };
    try {
      const asking = () => listen(MUTE_MS, true);
      const events = await this.api.open(`events?guests=true${this.last && `&_after=${this.last}`}`, stream.signal, asking);
      const lists = this.readAll();
      lists.catch(() => stream.abort());
      asking();
      let isHeard = false;
      for await (const lines of chunksOf(events)) {
        listen(SILENCE_MS, false);
        if (!isHeard) lists.then(() => this.isLive(), () => {});
        isHeard = true;
        for (const line of lines) this.hearLine(line);
      }
      await lists;
    } finally {
      clearTimeout(silence);
      stream.abort();
      this.stream = null;
    }
  }

  isLive() {
    this.attempt = 0;
    if (this.wasLive) this.refreshStorage(); // nothing tells what others have done to it
    this.wasLive = true;
    this.store.setConnection("live");
  }

  /** A line of the stream (HTML standard, 9.2.6); events of ours have their data in one. */
  hearLine(line) {
    const [, field, value] = line.match(/^(\w+): ?(.*)$/s) ?? [];
    if (field === "event") this.name = value;
    else if (field === "id") this.last = value;
    else if (field === "data" && this.meanwhile) this.meanwhile.push([this.name, JSON.parse(value)]);
    else if (field === "data") this.take(this.name, JSON.parse(value));
  }

  take(name, data) {
    if (name === "task") this.takeTask(data, true);
    else if (name === "removed") this.store.removeTask(data.id);
    else if (name === "guest") this.store.putGuest(data);
    else if (name === "guest-removed") this.store.removeGuest(data.uuid);
    else this.readAnew();
  }

  /** Takes a task in; one that an event is the first to tell of may have ended before it was seen to run. */
  takeTask(task, isNews = false) {
    const before = this.store.putTask(task);
    if (task.status === "running" || before?.status === task.status) return;
    if (before ? before.status === "running" : isNews) this.ended(task);
    for (const disk of task.disks) if (disk.target) this.stale.add(disk.target.pool);
    this.readStorageSoon();
  }

  // --- Polling -------------------------------------------------------------------------------------------------------

  async pollUntil(deadline) {
    while (Date.now() < deadline && !document.hidden && !this.ending.signal.aborted) {
      const begun = performance.now();
      try {
        await this.readAll();
        this.attempt = 0;
        this.store.setConnection("polling");
      } catch {
        return this.wait();
      }
      await this.pause(Math.max(POLL_MS, Math.min((performance.now() - begun) * SHARE, LONGEST_REST_MS)));
    }
  }

  // --- Lists ---------------------------------------------------------------------------------------------------------

  readAnew() {
    this.readAll().catch(() => this.stream?.abort());
    this.refreshStorage();
  }

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

  /** Pools and volumes are read anew, once for all who ask meanwhile. */
  refreshStorage() {
    for (const pool of this.store.volumes.keys()) this.stale.add(pool);
    this.readStorageSoon(0);
  }

  /** Pools alone, and how full they are. */
  refreshPools() {
    this.readStorageSoon(0);
  }

  readStorageSoon(atLeast = 1000) {
    if (this.ending.signal.aborted || this.store.pools === null) return; // storage is for admins
    this.storageTimer ??= setTimeout(() => this.readStorage(), Math.max(atLeast, Math.min(this.storageCost * SHARE, LONGEST_REST_MS)));
  }

  /** Pools, and the volumes of those that have changed; at first of all. */
  async readStorage() {
    if (this.ending.signal.aborted) return;
    const begun = performance.now();
    const stale = this.stale;
    this.stale = new Set();
    let isLost = false;
    try {
      const pools = await this.api.get("storagepools");
      this.store.setPools(pools);
      const wanted = pools.filter(({ name, state }) => state === "active" && (stale.has(name) || !this.store.volumes.has(name)));
      for (const { name } of wanted) await this.readVolumes(name);
    } catch (error) {
      if (error instanceof Refused && error.status === 404) this.store.setPools(null);
      isLost = isPassing(error);
      stale.forEach((name) => this.stale.add(name));
    }
    this.storageCost = performance.now() - begun;
    this.storageTimer = null;
    if (isLost) this.readStorageSoon(RETRY_MS.at(-1));
    else if (this.stale.size > 0) this.readStorageSoon();
  }

  /** A pool that cannot be read is none of the others' concern. */
  async readVolumes(pool) {
    try {
      this.store.setVolumes(pool, await this.api.get(`${path("storagepools", pool)}/storagevolumes`));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.store.setVolumes(pool, this.store.volumes.get(pool) ?? [], error.message);
    }
  }

  /** Does something until the server could be reached. */
  async persist(act) {
    for (;;) {
      try {
        return await act();
      } catch (error) {
        if (!isPassing(error)) throw error;
        await this.wait();
      }
    }
  }
}

/** Whether it may be otherwise the next time. */
const isPassing = (error) => error instanceof Lost || (error instanceof Refused && error.status >= 500);

/** What a stream says, as whole lines, a chunk at a time. */
async function* chunksOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield lines;
  }
}
