// Elements made by script. Text is always set as text, so that no name is ever markup.

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
  alert: "M8 1.5 15 14H1zM8 6v4M8 12v.5",
  arrow: "M2 8h11M9 4l4 4-4 4",
  check: "M2.5 8.5 6 12l7.5-8",
  chevron: "M6 3l5 5-5 5",
  clone: "M2.5 2.5h7v7h-7zM12 6.5h1.5v7h-7V12",
  close: "M3.5 3.5l9 9m0-9-9 9",
  disk: "M2 4c0-1.5 12-1.5 12 0v8c0 1.5-12 1.5-12 0zM2 4c0 1.5 12 1.5 12 0M2 8c0 1.5 12 1.5 12 0",
  guest: "M1.5 2.5h13v8.5h-13zM5 14h6M8 11v3",
  logout: "M9 2H3v12h6M6.5 8H14M11 5l3 3-3 3",
  minus: "M3 8h10",
  plus: "M3 8h10M8 3v10",
  pulse: "M1 8h3l2-5 4 10 2-5h3",
  search: "M7 2a5 5 0 1 0 0 10A5 5 0 0 0 7 2M10.7 10.7 14.5 14.5",
  sort: "M4 10l4 4 4-4M4 6l4-4 4 4",
  up: "M4 10l4-4 4 4",
  down: "M4 6l4 4 4-4",
};

/** An element: `element("p", { class: "note", onclick: act }, "text", other)`. What is null or false is left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) set(made, name, value);
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

function set(made, name, value) {
  if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
  else if (value === true) made.setAttribute(name, "");
  else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
}

/** Sets what has changed alone, so that nothing is announced twice. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets or takes away an attribute. */
export function setAttribute(node, name, value) {
  if (value === null || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** A picture that says nothing that the text beside it does not. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  for (const [key, value] of Object.entries({ viewBox: "0 0 16 16", class: `icon icon-${name}`, "aria-hidden": "true" })) svg.setAttribute(key, value);
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A name from outside: cut where there is no room, whole on hover, and of no influence on the text around it. */
export function called(text, className = "name") {
  return element("bdi", { class: className, title: text }, text);
}

/** A bar from 0 to 100. */
export function bar(label, percent) {
  return element("progress", { max: 100, value: percent, "aria-label": label });
}

/** How full something is; `level` is a word for the colour. */
export function meter(label, text, part, level = "") {
  const fill = element("span", { class: "fill" });
  fill.style.inlineSize = `${Math.min(Math.max(part, 0), 1) * 100}%`;
  return element("span", {
    class: `meter ${level}`, role: "meter", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100,
    "aria-valuenow": Math.round(part * 100), "aria-valuetext": text,
  }, fill);
}

let last = 0;

/** An id that nothing else in the document has. */
export function newId(word) {
  last += 1;
  return `cloner-${word}-${last}`;
}

/** A field with its label; `hint` is told with it. */
export function field(label, input, hint = null) {
  input.id ||= newId("field");
  if (hint) {
    hint.id ||= newId("hint");
    input.setAttribute("aria-describedby", hint.id);
  }
  return element("div", { class: "field" }, element("label", { for: input.id }, label), input, hint);
}
