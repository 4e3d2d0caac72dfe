// A <figure class="comparison"> of two <img> or more becomes one stage: the left one before a divider, the right one behind it.
// Mouse and touch move the divider, or the image where it is zoomed; so do keys. alt: what an image is called; data-note: more of it.

const ZOOMS = [1, 2, 4, 8, 16]; // Pixels of the screen to a pixel of the largest image; 0 is the whole image.
const PIXELS_FROM = 2;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

class Slider {
  constructor(figure) {
    this.figure = figure;
    this.images = [...figure.querySelectorAll("img")];
    this.shown = [0, 1];
    this.at = 0.5;
    this.zoom = 0;
    this.center = [0.5, 0.5];
    this.pointers = new Map();
    this.build();
    this.listen();
    for (const image of this.images) {
      image.draggable = false;
      image.addEventListener("load", () => this.render());
    }
    new ResizeObserver(() => this.render()).observe(this.stage);
  }

  build() {
    const called = this.figure.dataset.name || "images";
    this.divider = element("div", {
      class: "divider", role: "slider", tabindex: 0, "aria-orientation": "horizontal", "aria-valuemin": 0, "aria-valuemax": 100,
      "aria-label": `Divider between before and after: ${called}`,
    });
    this.tags = ["before", "after"].map((side) => element("span", { class: `tag ${side}` }));
    this.stage = element("div", { class: "stage", role: "group", tabindex: 0, "aria-label": `Compared: ${called}` });
    this.figure.prepend(this.stage);
    this.stage.append(...this.images, ...this.tags, this.divider);
    this.output = element("output", { "aria-label": "Zoom" });
    const button = (text, title, act) => {
      const made = element("button", { type: "button", title, "aria-label": title }, text);
      made.addEventListener("click", act);
      return made;
    };
    const zoom = element("span", { class: "zoom" },
      this.output,
      button("Whole", "Show the whole image", () => this.zoomTo(0)),
      button("1:1", "One pixel of the screen for each pixel", () => this.zoomTo(1)),
      button("−", "Zoom out", () => this.step(-1)),
      button("+", "Zoom in", () => this.step(1)));
    this.selects = this.images.length > 2 ? ["Left", "Right"].map((side, place) => this.choice(side, place)) : [];
    this.figure.append(element("div", { class: "tools" }, ...this.selects.map((select) => element("label", {}, select.title, select)), zoom));
  }

  choice(side, place) {
    const options = this.images.map((image, number) => element("option", { value: number }, image.alt));
    const select = element("select", { title: side, "aria-label": `${side} image` }, ...options);
    select.addEventListener("change", () => {
      this.shown[place] = Number(select.value);
      this.render();
    });
    return select;
  }

  listen() {
    const { stage } = this;
    stage.addEventListener("pointerdown", (event) => this.down(event));
    stage.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    stage.addEventListener("click", (event) => this.isZoomed || this.divideAt(this.place(event)[0]));
    stage.addEventListener("dblclick", (event) => this.zoomTo(this.isZoomed ? 0 : 4, this.place(event)));
    stage.addEventListener("keydown", (event) => this.key(event));
    stage.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.zoomTo(this.now * 2 ** (-event.deltaY / 120), this.place(event));
    }, { passive: false });
  }

  get size() {
    const side = (image, name, natural) => image[natural] || Number(image.getAttribute(name)) || 1;
    return [["width", "naturalWidth"], ["height", "naturalHeight"]].map((names) => Math.max(...this.images.map((image) => side(image, ...names))));
  }

  get room() { return [this.stage.clientWidth, this.stage.clientHeight]; }

  // Pixels of the screen to a pixel of the largest image, where the whole of it is shown.
  get whole() {
    return Math.min(...this.size.map((side, axis) => this.room[axis] / side)) * devicePixelRatio;
  }

  get now() { return this.zoom || this.whole; }

  get isZoomed() { return this.now > this.whole * 1.001; }

  // Where the image lies in the stage: left, top, width, height.
  get box() {
    const sides = this.size.map((side) => (side * this.now) / devicePixelRatio);
    const from = sides.map((side, axis) => {
      const room = this.room[axis];
      return side <= room ? (room - side) / 2 : clamp(room / 2 - this.center[axis] * side, room - side, 0);
    });
    return [...from.map((edge) => Math.round(edge * devicePixelRatio) / devicePixelRatio), ...sides];
  }

  place(event) {
    const { left, top } = this.stage.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  render() {
    const { size } = this;
    this.stage.style.aspectRatio = `${size[0]} / ${size[1]}`;
    const [left, top, width, height] = this.box;
    this.center = [0, 1].map((axis) => (this.room[axis] / 2 - [left, top][axis]) / [width, height][axis]);
    const cut = clamp(this.at * this.room[0] - left, 0, width);
    this.images.forEach((image, number) => {
      const side = this.shown.indexOf(number);
      image.hidden = side < 0;
      Object.assign(image.style, { width: `${width}px`, height: `${height}px`, translate: `${left}px ${top}px` });
      image.style.clipPath = this.shown[0] === this.shown[1] ? "none" : `inset(0 ${side ? 0 : width - cut}px 0 ${side ? cut : 0}px)`;
    });
    this.stage.classList.toggle("zoomed", this.isZoomed);
    this.stage.classList.toggle("pixels", this.now >= PIXELS_FROM);
    this.tell();
  }

  tell() {
    const shown = this.shown.map((number) => this.images[number]);
    const names = shown.map((image) => image.alt);
    this.tags.forEach((tag, side) => { tag.textContent = [names[side], shown[side].dataset.note].filter(Boolean).join(": "); });
    this.selects.forEach((select, place) => { select.value = this.shown[place]; });
    const percent = Math.round(this.at * 100);
    this.divider.style.left = `${this.at * 100}%`;
    this.divider.setAttribute("aria-valuenow", percent);
    this.divider.setAttribute("aria-valuetext", `${percent} % ${names[0]}, ${100 - percent} % ${names[1]}`);
    this.output.textContent = `${Math.round(this.now * 100)} %`;
  }

  divideAt(x) {
    this.at = clamp(x / this.room[0], 0, 1);
    this.render();
  }

  // place: of the stage, what lies there stays there.
  zoomTo(zoom, place = this.room.map((side) => side / 2)) {
    const [left, top, width, height] = this.box;
    const point = [(place[0] - left) / width, (place[1] - top) / height];
    const small = this.whole < 1;
    this.zoom = small && zoom <= this.whole ? 0 : zoom && clamp(zoom, small ? this.whole : 1, Math.max(this.whole, ZOOMS.at(-1)));
    const sides = this.size.map((side) => (side * this.now) / devicePixelRatio);
    this.center = point.map((share, axis) => share - (place[axis] - this.room[axis] / 2) / sides[axis]);
    this.render();
  }

  step(direction) {
    const next = direction > 0 ? ZOOMS.find((zoom) => zoom > this.now * 1.01) : ZOOMS.findLast((zoom) => zoom < this.now * 0.99);
    this.zoomTo(next ?? (direction > 0 ? this.zoom : 0));
  }

  pan(across, down) {
    const [, , width, height] = this.box;
    this.center = [this.center[0] - across / width, this.center[1] - down / height];
    this.render();
  }

  down(event) {
    if (event.button) return;
    this.pointers.set(event.pointerId, this.place(event));
    this.divides = event.target === this.divider || !this.isZoomed;
    event.target.setPointerCapture(event.pointerId);
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const place = this.place(event);
    this.pointers.set(event.pointerId, place);
    if (this.pointers.size > 1) this.pinch(event.pointerId, before, place);
    else if (this.divides) this.divideAt(place[0]);
    else this.pan(place[0] - before[0], place[1] - before[1]);
  }

  pinch(moved, before, place) {
    const [other] = [...this.pointers].filter(([id]) => id !== moved).map(([, where]) => where);
    const apart = (where) => Math.hypot(where[0] - other[0], where[1] - other[1]) || 1;
    this.zoomTo((this.now * apart(place)) / apart(before), place.map((value, axis) => (value + other[axis]) / 2));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = this.action(event);
    if (!act) return;
    event.preventDefault();
    act();
  }

  action({ key, shiftKey, target }) {
    const keys = { "+": () => this.step(1), "=": () => this.step(1), "-": () => this.step(-1), 0: () => this.zoomTo(0), 1: () => this.zoomTo(1) };
    if (keys[key]) return keys[key];
    const [across, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key] ?? [0, 0];
    if (target === this.stage && this.isZoomed) return (across || down) && (() => this.pan(-40 * across, -40 * down));
    const steps = { Home: -100, End: 100, PageUp: 10, PageDown: -10 }[key] ?? (across - down) * (shiftKey ? 10 : 1);
    return steps && (() => this.divideAt((this.at + steps / 100) * this.room[0]));
  }
}

export function compare(figure) {
  return new Slider(figure);
}

for (const figure of document.querySelectorAll("figure.comparison")) compare(figure);
