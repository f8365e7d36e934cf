// The page in its first form: what there is, a Clone button for each, and how the clones are doing.
// Every text is set as text; nothing from the server is ever markup.

const P = globalThis.clonerMount ?? "/plugins/kimchi"; // tab.js says where it is inside Wok
const byId = (id) => document.getElementById(id);

async function call(method, path) {
  const answer = await fetch(P + path, { method, headers: { "X-Requested-With": "XMLHttpRequest" } });
  const content = answer.status === 204 ? null : await answer.json();
  if (answer.status === 401) showLogin();
  if (!answer.ok) throw Object.assign(new Error(content.reason), { status: answer.status });
  return content;
}

function say(text, bad = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("bad", bad);
}

function cell(content, className = "") {
  const td = document.createElement("td");
  if (content instanceof Node) td.append(content);
  else td.textContent = content;
  td.className = className;
  return td;
}

function fill(table, headings, rows) {
  const head = document.createElement("thead");
  head.append(document.createElement("tr"));
  for (const heading of headings) {
    const th = document.createElement("th");
    th.scope = "col";
    th.textContent = heading;
    head.rows[0].append(th);
  }
  const body = document.createElement("tbody");
  for (const cells of rows) {
    const tr = document.createElement("tr");
    tr.append(...cells);
    body.append(tr);
  }
  table.replaceChildren(head, body);
}

function button(label, name, act, why = "") {
  const made = document.createElement("button");
  made.textContent = label;
  made.setAttribute("aria-label", `${label} ${name}`);
  made.disabled = why !== "";
  made.title = why;
  made.addEventListener("click", async () => {
    made.disabled = true; // a double click asks once
    try {
      await act();
      await refresh();
    } catch (error) {
      say(error.message, true);
    }
  });
  return made;
}

const cloneButton = (name, path, why) =>
  button("Clone", name, async () => say(`${(await call("POST", path)).name} is being made`), why);

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = bytes ? Math.min(Math.floor(Math.log2(bytes) / 10), units.length - 1) : 0;
  return `${(bytes / 1024 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
}

function guestRow(vm) {
  const why = vm.state === "shutoff" ? "" : "Shut it down before it is cloned";
  const path = `/vms/${encodeURIComponent(vm.name)}/clone`;
  return [cell(vm.name), cell(vm.state), cell(vm.cpu_info.vcpus), cell(`${vm.memory.current} MiB`), cell(cloneButton(vm.name, path, why))];
}

function volumeRow(pool, volume) {
  const path = `/storagepools/${encodeURIComponent(pool)}/storagevolumes/${encodeURIComponent(volume.name)}/clone`;
  const sizes = `${size(volume.allocation)} of ${size(volume.capacity)}`;
  return [cell(pool), cell(volume.name), cell(volume.format), cell(sizes), cell(cloneButton(volume.name, path, ""))];
}

function taskRow(task) {
  const running = task.status === "running";
  const remove = button(running ? "Cancel" : "Clear", `task ${task.id}`, () => call("DELETE", `/tasks/${task.id}`));
  return [cell(task.name), cell(task.status, task.status), cell(task.message), cell(remove)];
}

function noneForUsers(error) { // storage is there for admins alone
  if (error.status === 404) return [];
  throw error;
}

let shown = "";

async function refresh() {
  const [vms, pools, tasks] = await Promise.all([call("GET", "/vms"), call("GET", "/storagepools").catch(noneForUsers), call("GET", "/tasks")]);
  const active = pools.filter((pool) => pool.state === "active");
  const volumes = await Promise.all(active.map((pool) => call("GET", `/storagepools/${encodeURIComponent(pool.name)}/storagevolumes`)));
  showContent();
  const now = JSON.stringify([vms, volumes, tasks]);
  if (now === shown) return; // what has the focus keeps it
  shown = now;
  fill(byId("guests"), ["Name", "State", "vCPUs", "Memory", ""], vms.map(guestRow));
  fill(byId("volumes"), ["Pool", "Name", "Format", "Size", ""], active.flatMap((pool, n) => volumes[n].map((volume) => volumeRow(pool.name, volume))));
  fill(byId("tasks"), ["Clone", "Status", "Message", ""], tasks.reverse().map(taskRow));
}

function showLogin() {
  if (globalThis.clonerMount) location.href = "login.html"; // Wok's own
  byId("login").hidden = false;
  byId("content").hidden = true;
  byId("logout").hidden = true;
}

function showContent() {
  byId("login").hidden = true;
  byId("content").hidden = false;
  byId("logout").hidden = Boolean(globalThis.clonerMount);
}

byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = JSON.stringify({ username: byId("user").value, password: byId("token").value });
  const headers = { "Content-Type": "application/json", "X-Requested-With": "XMLHttpRequest" };
  const answer = await fetch("/login", { method: "POST", headers, body });
  say(answer.ok ? "" : (await answer.json()).reason, !answer.ok);
  if (answer.ok) await follow();
});

byId("logout").addEventListener("click", async () => {
  await fetch("/logout", { method: "POST", headers: { "X-Requested-With": "XMLHttpRequest" } });
  showLogin();
});

async function follow() {
  try {
    await refresh();
    if (byId("status").classList.contains("bad")) say("");
  } catch (error) {
    if (byId("login").hidden) say(error.message, true);
  }
}

await follow();
const polling = setInterval(() => {
  if (!byId("login")) clearInterval(polling); // another tab of Wok's was chosen
  else if (byId("login").hidden) follow();
}, 2000);
