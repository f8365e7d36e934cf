// The page as a tab of Wok's. Wok's page puts it in anew each time that the tab is chosen, and has styles of its own,
// so that ours are kept to the tab. The log-in is Wok's.

const here = new URL(".", import.meta.url);

async function text(name) {
  const answer = await fetch(new URL(name, here));
  if (answer.redirected || answer.status === 401) location.href = "login.html";
  return answer.text();
}

export async function show(place) {
  globalThis.clonerMount = new URL("..", here).pathname.replace(/\/$/, "");
  const [page, styles] = await Promise.all([text("index.html"), text("style.css")]);
  const parsed = new DOMParser().parseFromString(page, "text/html");
  for (const script of parsed.body.querySelectorAll("script")) script.remove();
  const style = document.createElement("style");
  style.textContent = `@scope (#${place.id}) { ${styles.replaceAll(":root", ":scope")} }`;
  place.replaceChildren(style, ...parsed.body.childNodes);
  await import(new URL(`app.js?${Date.now()}`, here).href);
}
