// The service as the page asks it: with a token where one is wanted, and what went wrong in words.

const KEY = "sr-deploy token";
const SILENT = "The service does not answer. Is it running, and reachable from here?";
const BROKEN = "The connection broke while the file was sent: it may be larger than the service takes, or the service has ended.";
const LONGEST_WAIT = 30;

// What a user is told; every other error is one of this page.
class Trouble extends Error {}

export const inWords = (error) => (error instanceof Trouble ? error.message : `This page has an error: ${error}`);

const dialog = document.getElementById("token-dialog");
const field = document.getElementById("token");
let asking = null;

const token = () => sessionStorage.getItem(KEY) ?? "";

export const hasToken = () => token() !== "";

function headers(more = {}) {
  return hasToken() ? { ...more, Authorization: `Bearer ${token()}` } : more;
}

// Ends once a token was typed; one dialog, however many requests wait for it.
function askForToken(tried) {
  if (token() !== tried) return Promise.resolve();
  asking ??= new Promise((go, stop) => {
    document.getElementById("token-trouble").textContent = tried ? "That token was not accepted." : "";
    field.value = "";
    const cancel = document.getElementById("token-cancel");
    cancel.onclick = () => dialog.close();
    document.getElementById("token-form").onsubmit = () => sessionStorage.setItem(KEY, field.value);
    dialog.onclose = () => {
      asking = null;
      if (token() === tried) stop(new Trouble("The service wants a token. Reload the page to give one."));
      else go();
    };
    dialog.showModal();
  });
  return asking;
}

// What an answer says of itself, or what its code means.
function trouble(status, text) {
  try {
    const { error } = JSON.parse(text);
    if (typeof error === "string" && error) return new Trouble(error);
  } catch {
    // No JSON: a proxy has answered in place of the service.
  }
  const meaning = { 404: "there is nothing of that name", 413: "it is too large", 415: "it is of an unknown kind" }[status];
  return new Trouble(`The service answers ${status}${meaning ? `: ${meaning}` : ""}.`);
}

export const wait = (seconds, signal) => new Promise((go, stop) => {
  const timer = setTimeout(go, seconds * 1000);
  signal?.addEventListener("abort", () => { clearTimeout(timer); stop(signal.reason); }, { once: true });
});

export const wasStopped = (error) => error?.name === "AbortError";

// The answer of the service; throws Trouble.
export async function ask(path, options = {}) {
  for (;;) {
    const tried = token();
    let answer;
    try {
      answer = await fetch(path, { ...options, headers: headers(options.headers) });
    } catch (error) {
      throw wasStopped(error) ? error : new Trouble(SILENT);
    }
    if (answer.ok) return answer;
    if (answer.status !== 401) throw trouble(answer.status, await answer.text());
    await askForToken(tried);
  }
}

// The same for a file, telling which share of it is sent; where the service is full, it is sent again. busy: is told for how long.
export async function send(path, file, { type, sent, busy, signal }) {
  for (;;) {
    const tried = token();
    const answer = await sendOnce(path, file, { type, sent, signal });
    if (answer.status >= 200 && answer.status < 300) return answer;
    if (answer.status === 401) await askForToken(tried);
    else if (answer.status === 503) {
      const seconds = Math.min(Number(answer.getResponseHeader("Retry-After")) || 2, LONGEST_WAIT);
      busy(seconds);
      await wait(seconds, signal);
    } else throw trouble(answer.status, await answer.response.text());
  }
}

// fetch does not tell how much of a body is sent, XMLHttpRequest does.
function sendOnce(path, file, { type, sent, signal }) {
  return new Promise((go, stop) => {
    const request = new XMLHttpRequest();
    let begun = false;
    request.open("POST", path);
    request.responseType = "blob";
    for (const [name, value] of Object.entries(headers({ "Content-Type": type }))) request.setRequestHeader(name, value);
    request.upload.onprogress = ({ loaded, total }) => {
      begun = true;
      sent(total ? loaded / total : 1);
    };
    request.upload.onload = () => sent(1);
    request.onload = () => go(request);
    request.onerror = () => stop(new Trouble(begun ? BROKEN : SILENT));
    request.onabort = () => stop(signal.reason);
    signal.addEventListener("abort", () => request.abort(), { once: true });
    if (signal.aborted) stop(signal.reason);
    else request.send(file);
  });
}

// The JSON documents of a stream of server-sent events.
export async function* events(path, signal) {
  const answer = await ask(path, { signal, headers: { Accept: "text/event-stream" } });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value.replaceAll("\r", "");
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim());
      if (data.length) yield JSON.parse(data.join("\n"));
    }
  }
}
