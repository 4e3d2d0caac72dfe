// Jobs: videos that the service works on, watched while they run.

import { card, download, inBytes, inSeconds, tell } from "./cards.js";
import { ask, events, hasToken, inWords, send, wait, wasStopped } from "./service.js";
import { element } from "./slider.js";

const MOST_WATCHED = 3; // A browser has six connections to a service at once.
const POLL = 4;

const list = document.getElementById("jobs");
const cards = new Map();
const watched = new Map();
let polling = false;

const isActive = (job) => job.state === "queued" || job.state === "running";

export async function addJob(file, query) {
  const stop = new AbortController();
  const shown = card(list, file.name, `Stop sending ${file.name}`, "Cancel");
  shown.button.addEventListener("click", () => stop.abort());
  const sent = (share) => { shown.progress(share); shown.say(`Sending, ${Math.round(share * 100)} % of ${inBytes(file.size)}.`); };
  const busy = (seconds) => shown.say(`The service has no room for it yet; trying again in ${inSeconds(seconds)}.`);
  sent(0);
  try {
    const name = new URLSearchParams({ name: file.name });
    await send(`v1/jobs?${query}&${name}`, file, { type: file.type || "application/octet-stream", sent, busy, signal: stop.signal });
    shown.remove();
    await refresh();
  } catch (error) {
    if (wasStopped(error)) shown.remove();
    else {
      shown.progress();
      shown.fail(inWords(error));
      tell(`${file.name} was not taken.`);
      shown.button.textContent = "Remove";
      shown.button.addEventListener("click", () => shown.remove());
    }
  }
}

// All jobs as they are now; those that run are watched from then on.
export async function refresh() {
  const { jobs } = await (await ask("v1/jobs")).json();
  const known = new Set(jobs.map((job) => job.id));
  for (const [id, { shown }] of cards) {
    if (!known.has(id)) {
      shown.remove();
      cards.delete(id);
    }
  }
  jobs.forEach(show);
  for (const job of jobs) {
    if (job.state === "running" && !watched.has(job.id) && watched.size < MOST_WATCHED) watch(job.id);
  }
  poll();
}

async function poll() {
  if (polling) return;
  polling = true;
  while ([...cards.values()].some(({ job }) => isActive(job))) {
    await wait(POLL);
    await refresh().catch((error) => tell(inWords(error)));
  }
  polling = false;
}

async function watch(id) {
  const stop = new AbortController();
  watched.set(id, stop);
  try {
    for await (const job of events(`v1/jobs/${encodeURIComponent(id)}/events`, stop.signal)) {
      show(job);
      if (!isActive(job)) break;
    }
  } catch {
    // The list is asked for again as long as a job is active.
  }
  stop.abort();
  watched.delete(id);
}

function show(job) {
  let known = cards.get(job.id);
  if (!known) {
    const shown = card(list, job.name, `Cancel ${job.name}`, "Cancel");
    shown.button.addEventListener("click", () => drop(job.id));
    known = { shown, notes: element("p", { class: "note" }), results: element("ul", { class: "results" }) };
    shown.item.append(known.notes, known.results);
    cards.set(job.id, known);
  }
  if (known.job && known.job.state !== job.state && !isActive(job)) tell(`${job.name}: ${job.state}.`);
  known.job = job;
  draw(job, known);
}

function draw(job, { shown, notes, results }) {
  const [finish, word] = { done: ["pass", "Done"], failed: ["fail", "Failed"], canceled: ["say", "Canceled"] }[job.state] ?? ["say"];
  shown.progress(...(isActive(job) ? [job.state === "running" && job.total ? job.done / job.total : null] : []));
  shown[finish](word ? `${word}${job.error ? `: ${job.error}` : ended(job)}` : going(job));
  shown.button.textContent = isActive(job) ? "Cancel" : "Remove";
  shown.button.setAttribute("aria-label", `${shown.button.textContent} ${job.name}`);
  notes.textContent = (job.notes ?? []).join(" ");
  if (results.childElementCount !== job.results.length) {
    results.replaceChildren(...job.results.map((result) => element("li", {}, link(result))));
  }
}

const ended = (job) => (job.done ? `, ${job.done} ${job.unit}.` : ".");

function going(job) {
  if (job.state === "queued") return "Waits for its turn.";
  const parts = [job.total ? `${job.done} of ${job.total} ${job.unit}` : `${job.done} ${job.unit}`];
  if (job.per_second) parts.push(`${job.per_second.toPrecision(3)} ${job.unit} per second`);
  if (job.seconds_left != null) parts.push(`${inSeconds(Math.ceil(job.seconds_left))} left`);
  return `${parts.join(", ")}.`;
}

// A link to a result; with a token it is fetched first, since links do not say tokens.
function link(result) {
  const url = result.url.replace(/^\//, "");
  const made = download(url, result.name, result.bytes);
  if (!hasToken()) return made;
  made.addEventListener("click", async (event) => {
    if (made.href.startsWith("blob:")) return;
    event.preventDefault();
    tell(`Fetching ${result.name}.`);
    try {
      made.href = URL.createObjectURL(await (await ask(url)).blob());
      made.click();
      tell("");
    } catch (error) {
      tell(inWords(error));
    }
  });
  return made;
}

async function drop(id) {
  try {
    await ask(`v1/jobs/${encodeURIComponent(id)}`, { method: "DELETE" });
  } catch (error) {
    tell(inWords(error));
  }
  await refresh().catch((error) => tell(inWords(error)));
}
