// Small dialogs: the log-in, and a question before something is taken away.

import { element, field, icon, newId } from "./dom.js";
import { t } from "./i18n.js";

/**
 * Asks for a log-in, again and again, until `attempt(user, password)` resolves to ''; it resolves to what is wrong. When
 * `elsewhere` resolves, somebody has logged in there.
 */
export function askLogin(root, attempt, isAgain, elsewhere) {
  return new Promise((resolve) => {
    const title = newId("title");
    const user = element("input", { type: "text", autocomplete: "username", value: "admin", required: true });
    const password = element("input", { type: "password", autocomplete: "current-password", required: true });
    const problem = element("div", { class: "problem", role: "alert", hidden: true });
    const button = element("button", { class: "primary" }, t("Log in"));
    const submit = async (event) => {
      event.preventDefault();
      button.disabled = true;
      const wrong = await attempt(user.value, password.value);
      button.disabled = false;
      if (wrong === "") return dialog.close();
      problem.hidden = false;
      problem.replaceChildren(icon("alert"), element("p", {}, wrong));
      password.select();
    };
    const about = isAgain
      ? t("The session has ended. After the log-in everything goes on where it was.")
      : t("The link that the server printed when it started logs in by itself, once. The token of admin lies in the server's state directory.");
    const dialog = element("dialog", { class: "login", "aria-labelledby": title, oncancel: (event) => event.preventDefault(), onclose: () => (dialog.remove(), resolve()) },
      element("form", { onsubmit: submit },
        element("h2", { id: title }, isAgain ? t("Log in again") : t("Log in to cloner")), element("p", { class: "hint" }, about), problem,
        field(t("User"), user), field(t("Password or token"), password), element("div", { class: "foot" }, button)));
    dialog.addEventListener("keydown", (event) => event.key === "Escape" && event.preventDefault()); // nothing is behind it
    root.append(dialog);
    dialog.showModal();
    password.focus();
    elsewhere.then(() => dialog.close());
  });
}

/** For a log-in that is the surrounding page's: says that it has ended, and leads to it. */
export function sayLoggedOut(root) {
  const title = newId("title");
  const dialog = element("dialog", { class: "login", "aria-labelledby": title, oncancel: (event) => event.preventDefault() },
    element("form", { method: "dialog", onsubmit: () => window.location.reload() },
      element("h2", { id: title }, t("Log in again")), element("p", { class: "hint" }, t("The session has ended.")),
      element("div", { class: "foot" }, element("button", { class: "primary" }, t("Log in")))));
  root.append(dialog);
  dialog.showModal();
  return new Promise(() => {});
}

/** Asks before something is done that cannot be taken back; resolves to whether to do it. */
export function ask(root, heading, text, yes) {
  return new Promise((resolve) => {
    const title = newId("title");
    const dialog = element("dialog", { class: "question", role: "alertdialog", "aria-labelledby": title, onclose: () => (dialog.remove(), resolve(dialog.returnValue === "yes")) },
      element("form", { method: "dialog" }, element("h2", { id: title }, heading), element("p", {}, text),
        element("div", { class: "foot" }, element("button", { value: "no" }, t("Leave it")), element("button", { value: "yes", class: "danger" }, yes))));
    root.append(dialog);
    dialog.showModal();
  });
}
