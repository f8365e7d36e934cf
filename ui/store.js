// What the page knows of the host. Views are told when something has changed: once a frame at most, and so seldom that
// showing it takes a part of the time alone.

const NEW_MS = 30 * 60 * 1000;
const REST = 4; // times as long as showing took

export class Store {
  constructor() {
    this.guests = new Map(); // by UUID
    this.tasks = new Map(); // by id
    this.pools = []; // null: storage is not there for this user
    this.volumes = new Map(); // by pool, a list each
    this.problems = new Map(); // by pool, why its volumes could not be read
    this.sizes = new Map(); // bytes of a disk, by its place
    this.connection = "connecting"; // or live, polling, lost
    this.isRead = { guests: false, tasks: false, pools: false };
    this.speeds = new Map();
    this.made = new Map(); // tasks by the UUID of what they make
    this.listeners = [];
    this.restUntil = 0;
    this.changed = new Set();
  }

  /** Calls back after any of some things has changed: guests, tasks, storage, connection. */
  on(kinds, listener) {
    this.listeners.push({ kinds, listener });
  }

  off(listener) {
    this.listeners = this.listeners.filter((each) => each.listener !== listener);
  }

  tell(kind) {
    if (this.changed.size === 0) setTimeout(() => requestAnimationFrame(() => this.flush()), this.restUntil - performance.now());
    this.changed.add(kind);
  }

  flush() {
    const changed = this.changed;
    this.changed = new Set();
    const begun = performance.now();
    for (const { kinds, listener } of this.listeners) if (kinds.some((kind) => changed.has(kind))) listener(changed);
    this.restUntil = performance.now() + REST * (performance.now() - begun);
  }

  setConnection(state) {
    if (this.connection === state) return;
    this.connection = state;
    this.tell("connection");
  }

  // --- Guests --------------------------------------------------------------------------------------------------------

  putGuest(guest) {
    this.guests.set(guest.uuid, guest);
    this.tell("guests");
  }

  removeGuest(uuid) {
    if (this.guests.delete(uuid)) this.tell("guests");
  }

  replaceGuests(list) {
    this.guests = new Map(list.map((guest) => [guest.uuid, guest]));
    this.isRead.guests = true;
    this.tell("guests");
  }

  // --- Tasks ---------------------------------------------------------------------------------------------------------

  /** Takes in a task as it is now; returns how it was. */
  putTask(task) {
    const before = this.tasks.get(task.id);
    if (before && before.status !== "running" && task.status === "running") return before; // old news
    this.measure(task);
    this.tasks.set(task.id, task);
    if (task.uuid) this.made.set(task.uuid, task);
    this.tell("tasks");
    return before;
  }

  removeTask(id) {
    const task = this.tasks.get(id);
    if (!task) return;
    this.tasks.delete(id);
    this.speeds.delete(id);
    if (this.made.get(task.uuid) === task) this.made.delete(task.uuid);
    this.tell("tasks");
  }

  replaceTasks(list) {
    const there = new Set(list.map((task) => task.id));
    for (const id of [...this.tasks.keys()]) if (!there.has(id)) this.removeTask(id);
    list.forEach((task) => this.putTask(task));
    this.isRead.tasks = true;
    this.tell("tasks");
  }

  running() {
    return [...this.tasks.values()].filter((task) => task.status === "running");
  }

  measure(task) {
    const now = performance.now();
    const last = this.speeds.get(task.id);
    if (!last) this.speeds.set(task.id, { at: now, bytes: task.bytes_done, rate: 0 });
    else if (now - last.at > 250 && task.bytes_done > last.bytes) {
      const rate = ((task.bytes_done - last.bytes) * 1000) / (now - last.at);
      this.speeds.set(task.id, { at: now, bytes: task.bytes_done, rate: last.rate ? 0.6 * last.rate + 0.4 * rate : rate });
    }
  }

  /** Bytes a second of a task: lately while it runs, from beginning to end after that. */
  speed(task) {
    if (task.status === "running") return this.speeds.get(task.id)?.rate || (task.eta_seconds ? (task.bytes_total - task.bytes_done) / task.eta_seconds : 0);
    const seconds = (new Date(task.ended) - new Date(task.started)) / 1000;
    return seconds > 0.2 ? task.bytes_done / seconds : 0;
  }

  /** Bytes a second that clones by a method have lately been made with; 0 when none was. */
  usualSpeed(method) {
    const rates = [...this.tasks.values()]
      .filter((task) => task.status === "finished" && task.disks.some((disk) => disk.method === method))
      .slice(-20).map((task) => this.speed(task)).filter((rate) => rate > 0).sort((a, b) => a - b);
    return rates[Math.floor(rates.length / 2)] ?? 0;
  }

  /** Whether a guest was cloned lately. */
  isNew(guest) {
    const task = this.made.get(guest.uuid);
    return task?.status === "finished" && Date.now() - new Date(task.ended) < NEW_MS;
  }

  // --- Storage -------------------------------------------------------------------------------------------------------

  setPools(pools) {
    this.pools = pools;
    this.isRead.pools = true;
    this.tell("storage");
  }

  setVolumes(pool, volumes, problem = "") {
    const gone = this.volumes.get(pool) ?? [];
    for (const volume of gone) for (const place of [volume.path, `${pool}/${volume.name}`]) this.sizes.delete(place);
    this.volumes.set(pool, volumes);
    if (problem) this.problems.set(pool, problem);
    else this.problems.delete(pool);
    for (const volume of volumes) {
      this.sizes.set(volume.path, volume.capacity);
      this.sizes.set(`${pool}/${volume.name}`, volume.capacity);
    }
    this.tell("storage");
  }
}
