// What has just happened, said in a corner and to screen readers; failures stay until they were seen.

import { element, icon } from "./dom.js";
import { t } from "./i18n.js";

const SHOWN_MS = 8000;
const MOST = 4;

export class Notices {
  constructor() {
    this.polite = element("div", { class: "notices-of", role: "status" });
    this.alerts = element("div", { class: "notices-of", role: "alert" });
    this.element = element("div", { class: "notices" }, this.polite, this.alerts);
  }

  /** @param act a button's label and what it does; returns what takes the notice away */
  say(content, { isBad = false, act = null } = {}) {
    const close = () => notice.remove();
    const notice = element("div", { class: `notice ${isBad ? "is-bad" : ""}` },
      icon(isBad ? "alert" : "check"), element("p", {}, content),
      act && element("button", { type: "button", onclick: () => (close(), act[1]()) }, act[0]),
      element("button", { type: "button", class: "quiet icon-only", "aria-label": t("Dismiss"), onclick: close }, icon("close")));
    const place = isBad ? this.alerts : this.polite;
    while (place.childElementCount >= MOST) place.firstElementChild.remove();
    place.append(notice);
    const end = () => (notice.matches(":hover, :focus-within") ? setTimeout(end, SHOWN_MS) : close());
    if (!isBad) setTimeout(end, SHOWN_MS);
    return close;
  }
}
