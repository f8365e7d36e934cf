// Numbers, sizes and times as people read them, in their language.

import { element, setText } from "./dom.js";
import { locale, t } from "./i18n.js";

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const SPANS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

export const number = (value) => new Intl.NumberFormat(locale()).format(value);

export const percent = (value) => new Intl.NumberFormat(locale(), { style: "percent" }).format(value / 100);

/** Bytes in the largest unit that leaves a number before the point. */
export function size(bytes) {
  const power = bytes > 0 ? Math.min(Math.floor(Math.log2(bytes) / 10), UNITS.length - 1) : 0;
  const value = bytes / 1024 ** power;
  const digits = power === 0 || value >= 100 ? 0 : 1;
  return `${new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(value)} ${UNITS[power]}`;
}

export const speed = (bytes) => `${size(bytes)}/s`;

/** A duration by its two largest units, such as `3 min 20 sec`. */
export function duration(seconds) {
  const place = SPANS.findIndex(([, length]) => seconds >= length);
  if (place < 0) return t("less than a second");
  const [[unit, length], smaller] = [SPANS[place], SPANS[place + 1]];
  const rest = smaller ? Math.floor((seconds % length) / smaller[1]) : 0;
  const parts = [amount(Math.floor(seconds / length), unit)];
  if (rest > 0) parts.push(amount(rest, smaller[0]));
  return parts.join(" ");
}

function amount(value, unit) {
  return new Intl.NumberFormat(locale(), { style: "unit", unit, unitDisplay: "short" }).format(value);
}

/** When something was, as people say it; the moment itself on hover. `retell` keeps it right. */
export function when(moment) {
  const date = new Date(moment);
  const absolute = new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "medium" }).format(date);
  return element("time", { datetime: moment, title: absolute }, ago(date));
}

function ago(date) {
  const seconds = Math.max((Date.now() - date) / 1000, 0);
  if (seconds < 45) return t("just now");
  const [unit, length] = SPANS.find(([, span]) => seconds >= span * 0.95);
  return new Intl.RelativeTimeFormat(locale(), { numeric: "auto" }).format(-Math.round(seconds / length), unit);
}

/** Tells the times below an element anew. */
export function retell(root) {
  for (const node of root.querySelectorAll("time")) setText(node, ago(new Date(node.dateTime)));
}

export const stateName = (state) => ({
  running: t("Running"), blocked: t("Blocked"), paused: t("Paused"), shutdown: t("Shutting down"), shutoff: t("Off"),
  crashed: t("Crashed"), pmsuspended: t("Suspended"), nostate: t("Unknown"),
  active: t("Active"), inactive: t("Inactive"), initializing: t("Starting up"), degraded: t("Degraded"), inaccessible: t("Inaccessible"),
}[state] ?? state);

const BYTES = { // where a text has them: a name may have numbers, too
  KCHVM0034E: /(?<= has room for )\d+(?: bytes)?|(?<=, and )\d+(?= are needed)/g,
  CLNLIMIT0002E: /(?<= takes )\d+ bytes|(?<= still writing )\d+|(?<= of the )\d+/g,
};

/** An error's text for people: byte counts in units. */
export function humane(reason) {
  const [, code = "", text = reason] = reason.match(/^([A-Z]{3,}\d{4}[A-Z]): (.*)$/s) ?? [];
  return { code, text: BYTES[code] ? text.replace(BYTES[code], (digits) => size(parseInt(digits, 10))) : text };
}
