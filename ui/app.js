// The page as `cloner serve` shows it: alone, with a log-in of its own.

import { mount } from "./page.js";

const here = document.baseURI.split(/[?#]/)[0];

await mount(document.getElementById("cloner"), {
  base: new URL("plugins/kimchi", here).href,
  server: new URL(".", here).href,
  docs: new URL("docs", here).href,
  hash: true,
});
