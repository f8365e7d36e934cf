// The page as a tab of Wok's. Wok's page puts it in anew each time that the tab is chosen, and the log-in is Wok's.

import { mount } from "./page.js";

const here = new URL(".", import.meta.url);

/** Styles for all below the tab and nothing else: Wok's page is light, whatever the system has. */
async function sheet(name) {
  const answer = await fetch(new URL(name, here));
  if (answer.redirected || answer.status === 401) location.href = "login.html";
  return new CSSStyleSheet().replace((await answer.text()).replaceAll(":root", ".cloner"));
}

let styles = null;

export async function show(place) {
  styles ??= Promise.all([sheet("colors.css"), sheet("page.css")]);
  for (const each of await styles) {
    if (!document.adoptedStyleSheets.includes(each)) document.adoptedStyleSheets.push(each);
  }
  place.style.setProperty("--cloner-height", "calc(100vh - 12rem)"); // Wok has a frame around it
  // Wok ends the session of who does nothing for a while, and knows by this what is not a person's doing.
  return mount(place, { base: new URL("..", here).href, unasked: { "Wok-Robot": "wok-robot" } });
}
