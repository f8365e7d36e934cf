// The page's texts: English in the code, other languages from gettext's catalogues (po/<language>.po), read as they are.
// tests/unit/test_translations.py holds that every text is in each of them.

const LANGUAGES = ["de"];
const CATEGORIES = ["zero", "one", "two", "few", "many", "other"];

let language = "en";
let texts = new Map();

/** Takes the first of the reader's languages that there is. */
export async function loadTexts(wanted = navigator.languages) {
  const codes = wanted.map((tag) => tag.toLowerCase().split("-")[0]);
  const chosen = codes.find((code) => code === "en" || LANGUAGES.includes(code)) ?? "en";
  if (chosen === "en") return;
  const answer = await fetch(new URL(`po/${chosen}.po`, import.meta.url)).catch(() => null);
  if (!answer?.ok) return; // English is better than nothing
  texts = parseCatalogue(await answer.text());
  language = chosen;
}

export const locale = () => language;

/** A text, with `{name}` replaced by what `values` has for it. */
export function t(text, values = {}) {
  return filled(texts.get(text)?.[0] || text, values);
}

/** The text for a number, which `{count}` stands for. */
export function n(one, many, count, values = {}) {
  const found = texts.get(one);
  const chosen = found ? found[Math.min(form(count), found.length - 1)] : count === 1 ? one : many;
  return filled(chosen, { count: new Intl.NumberFormat(language).format(count), ...values });
}

/** A text as nodes, with `{name}` replaced by nodes. */
export function nodes(text, values) {
  const parts = (texts.get(text)?.[0] || text).split(/\{(\w+)\}/);
  return parts.map((part, place) => (place % 2 ? values[part] : part)).filter((part) => part !== "");
}

const filled = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);

function form(count) {
  const rules = new Intl.PluralRules(language);
  const known = rules.resolvedOptions().pluralCategories;
  return CATEGORIES.filter((category) => known.includes(category)).indexOf(rules.select(count));
}

/** gettext's format (its manual, "The Format of PO Files"): the translations of each text, by the text. */
export function parseCatalogue(content) {
  const found = new Map();
  let entry = {};
  let key = "";
  const take = () => {
    const forms = Object.keys(entry).filter((name) => name.startsWith("msgstr")).map((name) => entry[name]);
    if (entry.msgid && forms.every(Boolean)) found.set(entry.msgid, forms);
    entry = {};
  };
  for (const line of content.split("\n")) {
    const [, word, quoted] = line.match(/^(msg[\w[\]]+)?\s*(".*")\s*$/) ?? [];
    if (!quoted) continue;
    if (word === "msgid") take();
    key = word ?? key;
    entry[key] = (entry[key] ?? "") + JSON.parse(quoted);
  }
  take();
  return found;
}
