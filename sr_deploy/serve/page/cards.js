// What pictures and jobs are shown with, and numbers in words.

import { element } from "./slider.js";

// A line for everybody, also for who only hears the page.
export function tell(text) {
  document.getElementById("status").textContent = text;
}

export function inBytes(count) {
  const [unit, size] = [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]].find(([, least]) => count >= least) ?? ["bytes", 1];
  return `${size === 1 ? count : (count / size).toPrecision(3)} ${unit}`;
}

export function inSeconds(seconds) {
  if (seconds < 10) return `${Number(seconds.toPrecision(2))} s`;
  const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.round(seconds) % 60];
  if (seconds < 60) return `${Math.round(seconds)} s`;
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${rest} s`;
}

export function download(href, name, bytes) {
  return element("a", { href, download: name }, `Download ${name}, ${inBytes(bytes)}`);
}

// One item of a list: a name, a button, a line on how it goes, and a bar. The newest comes first.
export function card(list, name, label, action) {
  const button = element("button", { type: "button", "aria-label": label }, action);
  const state = element("p", { class: "state" });
  const bar = element("progress", { max: 1, "aria-label": `Progress of ${name}` });
  const item = element("li", { class: "card" }, element("div", { class: "row" }, element("h3", {}, name), button), state, bar);
  list.prepend(item);
  list.parentElement.hidden = false;
  const told = (kind) => (text) => {
    state.className = `state ${kind}`.trim();
    state.textContent = text;
  };
  const progress = (share) => {
    bar.hidden = share === undefined;
    if (share == null) bar.removeAttribute("value");
    else bar.value = share;
  };
  const remove = () => {
    item.remove();
    list.parentElement.hidden = !list.childElementCount;
  };
  return { item, button, remove, progress, say: told(""), pass: told("pass"), fail: told("fail") };
}
