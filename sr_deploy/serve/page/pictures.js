// Pictures: sent one after the other, and shown before and after.

import { card, download, inSeconds, tell } from "./cards.js";
import { inWords, send, wasStopped } from "./service.js";
import { compare, element } from "./slider.js";

const KINDS = { png: "image/png", jpg: "image/jpeg", webp: "image/webp", avif: "image/avif", tif: "image/tiff", bmp: "image/bmp" };
const SUFFIXES = /\.(png|jpe?g|jfif|webp|tiff?|avif|bmp|gif|jp2|j2k|pgm|ppm|pnm)$/i;

const list = document.getElementById("pictures");
let last = Promise.resolve();

export const isPicture = (file) => (file.type ? file.type.startsWith("image/") : SUFFIXES.test(file.name));

// query: of the request. asJob: takes the file where it is no single picture.
export function addPicture(file, query, asJob) {
  const stop = new AbortController();
  const shown = card(list, file.name, `Remove ${file.name}`, "Remove");
  const urls = [];
  shown.button.addEventListener("click", () => {
    stop.abort();
    urls.forEach(URL.revokeObjectURL);
    shown.remove();
  });
  shown.say("Waits.");
  last = last.then(async () => {
    if (stop.signal.aborted) return;
    try {
      await upscale(file, query, shown, stop.signal, urls);
    } catch (error) {
      if (wasStopped(error)) return;
      shown.progress();
      shown.fail(inWords(error));
      tell(`${file.name} failed.`);
      const button = element("button", { type: "button" }, "Send it as a job");
      button.addEventListener("click", () => { shown.remove(); asJob(file); });
      shown.item.append(element("p", {}, button));
    }
  });
}

async function upscale(file, query, shown, signal, urls) {
  const began = performance.now();
  const sent = (share) => {
    shown.progress(share < 1 ? share : null);
    shown.say(share < 1 ? `Sending, ${Math.round(share * 100)} %.` : "Upscaling.");
  };
  sent(0);
  const busy = (seconds) => { shown.progress(null); shown.say(`The service is busy; trying again in ${inSeconds(seconds)}.`); };
  const type = file.type || `image/${file.name.split(".").at(-1).toLowerCase()}`;
  const answer = await send(`v1/upscale?${query}`, file, { type, sent, busy, signal });
  const large = answer.response;
  const network = decodeURIComponent(answer.getResponseHeader("X-Network") ?? "after");
  urls.push(URL.createObjectURL(file), URL.createObjectURL(large));
  shown.progress();
  const sizes = await show(shown.item, file.name, urls, ["before", network]);
  const suffix = Object.keys(KINDS).find((name) => KINDS[name] === large.type.split(";")[0]) ?? "png";
  const name = `${file.name.replace(/\.[^.]*$/, "")}_${network}.${suffix}`;
  shown.item.append(element("p", {}, download(urls[1], name, large.size)));
  shown.pass([...sizes, ...facts(answer, (performance.now() - began) / 1000)].join(", ") + ".");
  tell(`${file.name} is done.`);
}

// What the service says of what it did.
function facts(answer, seconds) {
  const [tiles, recomputed, replaced] = ["Tiles", "Recomputed", "Replaced"].map((name) => Number(answer.getResponseHeader(`X-${name}`)));
  const computed = answer.getResponseHeader("X-Seconds");
  const found = [computed ? `${inSeconds(Number(computed))} in the service` : inSeconds(seconds)];
  if (tiles > 1) found.push(`${tiles} tiles`);
  if (recomputed) found.push(`${recomputed} of ${tiles} tiles were not sane, and were computed again in fp32`);
  if (replaced) found.push(`${replaced} of them are bicubic, as fp32 failed too`);
  return found;
}

// Both images with the slider, as far as the browser can show them; their sizes in words.
async function show(item, name, urls, labels) {
  const images = urls.map((src, side) => element("img", { src, alt: labels[side] }));
  const good = await Promise.all(images.map((image) => image.decode().then(() => true, () => false)));
  const figure = element("figure", { class: "comparison", "data-name": name });
  figure.append(...images.filter((_, side) => good[side]));
  item.append(figure);
  if (good[0] && good[1]) compare(figure);
  else item.append(element("p", { class: "note" }, `This browser cannot show ${good[1] ? "the original" : "the result"}; download it.`));
  return good[0] && good[1] ? [images.map((image) => `${image.naturalWidth}×${image.naturalHeight}`).join(" became ")] : [];
}
