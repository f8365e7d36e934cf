// The OpenAPI document for people: each request with its fields, answers, errors and examples.
// Every text is set as text; nothing from the server is ever markup.

const DOCUMENT = "plugins/kimchi/openapi.json";
const byId = (id) => document.getElementById(id);

function element(tag, content = [], attributes = {}) {
  const made = document.createElement(tag);
  made.append(...[content].flat().filter((part) => part !== ""));
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

let api = {};

function resolved(part) {
  if (!part?.$ref) return part;
  return part.$ref.slice(2).split("/").reduce((found, step) => found[step], api);
}

// --- Shapes ----------------------------------------------------------------------------------------------------------

const nameOf = (schema) => schema.$ref?.split("/").at(-1) ?? "";

function kind(schema) {
  const part = resolved(schema);
  if (schema.$ref) return nameOf(schema);
  if (part.oneOf || part.anyOf) return (part.oneOf ?? part.anyOf).map(kind).join(" or ");
  if (part.allOf) return kind(part.allOf[0]);
  if ("const" in part) return JSON.stringify(part.const);
  if (part.enum) return part.enum.join(", ");
  if (part.type === "array") return `list of ${kind(part.items)}`;
  return [part.type ?? "anything"].flat().join(" or ");
}

function limits(schema) {
  const low = schema.minimum ?? schema.minLength;
  const high = schema.maximum ?? schema.maxLength;
  const range = low === undefined && high === undefined ? "" : `${low ?? ""} to ${high ?? ""}`.trim();
  const unit = range && schema.type === "string" ? " characters" : "";
  return [range + unit, "default" in schema ? `default ${JSON.stringify(schema.default)}` : ""].filter(Boolean).join("; ");
}

const row = (cells) => element("tr", cells.map((cell) => element("td", cell)));

function table(headings, rows) {
  const head = element("tr", headings.map((heading) => element("th", heading, { scope: "col" })));
  return element("div", element("table", [element("thead", head), element("tbody", rows)]), { class: "wide" });
}

function fieldRows(schema, before = "") {
  return Object.entries(schema.properties ?? {}).flatMap(([name, field]) => {
    const inner = resolved(field);
    const must = schema.required?.includes(name) ? "" : " (may be missing)";
    const about = [inner.description ?? inner.title ?? "", limits(inner)].filter(Boolean).join(" ");
    const own = row([element("code", before + name), kind(field) + must, about]);
    return field.$ref ? [own] : [own, ...fieldRows(inner, `${before}${name}.`)];
  });
}

function shape(schema) {
  const part = resolved(schema);
  const choices = part.oneOf ?? (part.type === "array" ? [part.items] : [schema]);
  return choices.flatMap((choice) => {
    const one = resolved(choice);
    const rows = fieldRows(one);
    const example = one.examples?.at(-1);
    return [
      element("p", `${part.type === "array" ? "A list, of each: " : ""}${one.title ?? one.description ?? kind(choice)}`),
      rows.length ? details("Fields", table(["Field", "Type", "Meaning"], rows)) : "",
      example === undefined ? "" : details("Example", sample(part.type === "array" ? [example] : example)),
    ];
  });
}

const sample = (value) => element("pre", element("code", typeof value === "string" ? value : JSON.stringify(value, null, 2)), { tabindex: 0 });
const details = (title, content) => element("details", [element("summary", title), ...[content].flat()]);

// --- Requests --------------------------------------------------------------------------------------------------------

function parameters(operation) {
  const rows = operation.parameters.map(resolved).map((parameter) => {
    const about = [parameter.description, limits(parameter.schema)].filter(Boolean).join(" ");
    return row([element("code", parameter.name), `${parameter.in}, ${kind(parameter.schema)}`, about]);
  });
  return details(`Parameters (${rows.length})`, table(["Name", "Where", "Meaning"], rows));
}

function body(operation) {
  const content = operation.requestBody?.content["application/json"];
  return content ? [element("h3", "Body"), ...shape(content.schema)] : [];
}

function answers(operation) {
  return Object.entries(operation.responses).filter(([status]) => status < 400).flatMap(([status, answer]) => {
    const headers = Object.keys(answer.headers).join(", ");
    const media = Object.entries(answer.content ?? {});
    const content = media.length ? [element("p", element("code", media.map(([type]) => type).join(", "))), ...shape(media[0][1].schema)] : [];
    return [element("h3", `${status} ${answer.description}`), element("p", `Headers: ${headers}`), ...content];
  });
}

function refusals(operation) {
  const rows = Object.entries(operation.responses).filter(([status]) => status >= 400).flatMap(([status, answer]) =>
    Object.entries(answer.content["application/json"].examples).map(([code, example]) =>
      row([status, element("code", code), resolved(example).value.reason.slice(code.length + 2)])));
  return details(`Errors (${rows.length})`, table(["Status", "Code", "Text"], rows));
}

function request(path, method, operation) {
  const title = [element("b", method.toUpperCase(), { class: `method ${method}` }), " ", element("code", path)];
  const login = operation.security?.length === 0 ? [element("p", "Needs no log-in.")] : [];
  return element("section", [
    element("h2", title),
    element("p", operation.summary),
    ...login,
    parameters(operation),
    ...body(operation),
    ...answers(operation),
    refusals(operation),
  ], { id: operation.operationId });
}

// --- The page --------------------------------------------------------------------------------------------------------

function say(...content) {
  byId("status").replaceChildren(...content);
}

function show() {
  const all = Object.entries(api.paths).flatMap(([path, item]) => Object.entries(item).map(([method, operation]) => ({ path, method, operation })));
  const link = ({ method, path, operation }) => element("li", element("a", `${method.toUpperCase()} ${path}`, { href: `#${operation.operationId}` }));
  byId("contents").replaceChildren(details("All requests", element("ul", all.map(link))));
  byId("requests").replaceChildren(...all.map(({ path, method, operation }) => request(path, method, operation)));
  say(`Version ${api.info.version}`);
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

try {
  const answer = await fetch(DOCUMENT, { headers: { "X-Requested-With": "XMLHttpRequest" } });
  api = await answer.json();
  if (answer.ok) show();
  else say(api.reason, " ", element("a", "Log in", { href: "./" }));
} catch (error) {
  say(error.message);
}
