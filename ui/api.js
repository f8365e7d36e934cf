// The REST API. A session that has ended is asked for anew, and the request goes on then; docs/API.md has the rest.

const PAGE = 1000;
const PATIENCE_MS = 30_000;

/** What the server refuses, with its reason. */
export class Refused extends Error {
  constructor(status, reason, retryAfter) {
    super(reason);
    this.status = status;
    this.code = reason.split(":")[0];
    this.retryAfter = retryAfter;
  }
}

/** The server cannot be reached, or does not answer as ours does. */
export class Lost extends Error {}

export class Api {
  /**
   * @param base the plugin's address
   * @param askLogin asks for a log-in; resolves once there is one
   * @param headers further ones, of every request
   */
  constructor(base, askLogin, headers = {}) {
    this.base = base;
    this.askLogin = askLogin;
    this.headers = { Accept: "application/json", "X-Requested-With": "XMLHttpRequest", ...headers };
  }

  url(path) {
    return `${this.base}/${path}`;
  }

  get(path, options = {}) {
    return this.request("GET", path, options);
  }

  /** What a path says for as long as it goes on; the caller's signal alone ends it. `asking` is told before each try. */
  async open(path, signal, asking) {
    for (;;) {
      const asked = asking();
      const answer = await this.fetch(path, { headers: this.headers, signal }).finally(asked);
      if (answer.status === 401) await this.askLogin();
      else if (answer.ok) return answer.body;
      else await this.read(answer);
    }
  }

  async request(method, path, { body, key, signal } = {}) {
    const headers = { ...this.headers };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (key) headers["Idempotency-Key"] = key;
    for (;;) {
      const answer = await this.send(path, { method, headers, body: body && JSON.stringify(body), signal });
      if (answer.status === 401) await this.askLogin();
      else return this.read(answer);
    }
  }

  /** Takes something away; what somebody else has taken away before is gone as well. */
  async remove(path) {
    try {
      await this.request("DELETE", path);
    } catch (error) {
      if (!(error instanceof Refused && error.status === 404)) throw error;
    }
  }

  async send(path, options) {
    const patience = AbortSignal.timeout(PATIENCE_MS);
    const signal = options.signal ? AbortSignal.any([options.signal, patience]) : patience;
    return this.fetch(path, { ...options, signal }, options.signal);
  }

  async fetch(path, options, signal = options.signal) {
    try {
      return await fetch(this.url(path), options);
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Lost(error.message);
    }
  }

  async read(answer) {
    if (answer.status === 204) return null;
    let content;
    try {
      content = await answer.json();
    } catch (error) {
      throw new Lost(error.message);
    }
    if (answer.ok) return content;
    throw new Refused(answer.status, content.reason ?? answer.statusText, Number(answer.headers.get("Retry-After")) || 0);
  }

  /** A list by the page; `mark` names what comes after: a name, or an id. */
  async *pages(path, mark) {
    let after = "";
    for (;;) {
      const found = await this.get(`${path}${path.includes("?") ? "&" : "?"}_limit=${PAGE}${after}`);
      yield found;
      if (found.length < PAGE) return;
      after = `&_after=${encodeURIComponent(found.at(-1)[mark])}`;
    }
  }

  async all(path, mark) {
    const found = [];
    for await (const page of this.pages(path, mark)) found.push(...page);
    return found;
  }
}

/** A path whose parts may be any names. */
export const path = (...parts) => parts.map(encodeURIComponent).join("/");

/** An idempotency key: made anew for each thing that is wanted. `crypto.randomUUID` wants HTTPS. */
export function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
