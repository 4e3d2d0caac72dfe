// The form: what is chosen, and where files go.

import { tell } from "./cards.js";
import { addJob, refresh } from "./jobs.js";
import { addPicture, isPicture } from "./pictures.js";
import { ask, inWords } from "./service.js";
import { element } from "./slider.js";

const USUAL = "The service chooses the network that suits the size and the picture.";

const at = (id) => document.getElementById(id);

// What is asked of the service: network and size; a number is a factor, all else a size.
function query() {
  const asked = new URLSearchParams();
  if (at("model").value) asked.set("model", at("model").value);
  const size = at("size").value;
  if (size === "other") {
    const other = at("other").value.trim();
    if (other) asked.set(Number.isFinite(Number(other)) ? "scale" : "to", other);
  } else if (size) asked.set(...size.split("="));
  return asked;
}

function take(files) {
  const asJob = (file) => addJob(file, query());
  for (const file of files) {
    if (!isPicture(file)) asJob(file);
    else {
      const asked = query();
      asked.set("format", at("format").value);
      addPicture(file, asked, asJob);
    }
  }
}

function listen() {
  at("files").addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = "";
  });
  at("size").addEventListener("change", () => {
    at("other-label").hidden = at("size").value !== "other";
    if (!at("other-label").hidden) at("other").focus();
  });
  at("model").addEventListener("change", describe);
  at("form").addEventListener("submit", (event) => event.preventDefault());
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      at("drop").classList.toggle("over", name === "dragover");
      if (name === "drop") take(event.dataTransfer.files);
    });
  }
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) take(event.clipboardData.files);
  });
}

function describe() {
  at("about").textContent = at("model").selectedOptions[0]?.dataset.about ?? "";
}

async function start() {
  listen();
  try {
    const { models } = await (await ask("v1/models")).json();
    const options = models.map(({ name, scale, description }) => element("option", { value: name, "data-about": description }, `${name}, ${scale} times`));
    if (models.length > 1) options.unshift(element("option", { value: "", "data-about": USUAL }, "The usual one"));
    at("model").replaceChildren(...options);
    describe();
    await refresh();
  } catch (error) {
    tell(inWords(error));
  }
}

start();
