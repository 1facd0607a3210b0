// One image in a dialog: drawn at 16 to 512 pixels, enlarged without limit, with the ellipses of its Gaussians.

import { WHOLE, ellipses, seen } from "./gaussians.mjs";
import { fitted } from "./layout.mjs";

const MOST_ZOOM = 64;
const MOST_ELLIPSES = 4000;
const get = (id) => document.getElementById(id);

export class Viewer {
  /** @param {function} describe (image, label) rows of a name and a text */
  constructor(painter, describe, next) {
    Object.assign(this, { painter, describe, next, image: null, view: WHOLE, turn: 0 });
    this.dialog = get("viewer");
    this.context = get("picture").getContext("2d");
    get("pixels").addEventListener("input", () => this.draw());
    get("ellipses").addEventListener("change", () => this.outline());
    get("close").addEventListener("click", () => this.dialog.close());
    get("previous").addEventListener("click", () => this.step(-1));
    get("next").addEventListener("click", () => this.step(1));
    get("in").addEventListener("click", () => this.zoom(2));
    get("out").addEventListener("click", () => this.zoom(0.5));
    get("whole").addEventListener("click", () => this.look(WHOLE));
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.dialog.addEventListener("close", () => (this.image = null));
    this.dialog.addEventListener("keydown", (event) => this.pressed(event));
    this.stage = get("stage");
    this.stage.addEventListener("wheel", (event) => this.wheeled(event), { passive: false });
    this.stage.addEventListener("pointerdown", (event) => event.button === 0 && this.stage.setPointerCapture(event.pointerId));
    this.stage.addEventListener("pointermove", (event) => this.dragged(event));
    new ResizeObserver(() => this.image !== null && this.draw()).observe(this.stage);
  }

  open(image) {
    this.image = image;
    this.view = WHOLE;
    const [height, width] = fitted(this.painter.header.size, 512);
    this.stage.style.aspectRatio = `${width} / ${height}`;
    this.stage.style.setProperty("--aspect", width / height);
    if (!this.dialog.open) this.dialog.showModal();
    this.tell();
    this.draw();
  }

  step(steps) {
    const image = this.next(this.image, steps);
    if (image !== null) this.open(image);
  }

  draw() {
    const side = Number(get("pixels").value);
    const [height, width] = fitted(this.painter.header.size, side);
    get("pixels-out").textContent = `${height}x${width}`;
    const { zoom } = this.view;
    get("zoom-out").textContent = `${zoom >= 10 ? zoom.toFixed(0) : zoom.toFixed(1).replace(/\.0$/, "")}×`;
    const turn = ++this.turn;
    const scratch = document.createElement("canvas");
    [scratch.width, scratch.height] = [width, height];
    this.painter.add({
      ...{ context: scratch.getContext("2d"), left: 0, top: 0, width, height, image: this.image, view: this.view },
      wanted: () => this.image !== null && turn === this.turn,
      done: (computed) => {
        if (computed[0] < height) get("pixels-out").textContent = `${height}x${width} (computed at ${computed.join("x")})`;
        const { canvas } = this.context;
        [canvas.width, canvas.height] = [width, height];
        this.context.drawImage(scratch, 0, 0);
        canvas.classList.toggle("coarse", this.stage.clientWidth >= 2 * width);
        canvas.dataset.done = `${this.image} ${width}x${height} ${zoom}`;
        this.tell();
      },
    });
    this.outline();
  }

  tell() {
    const list = get("facts");
    list.replaceChildren();
    const { painter, image } = this;
    const rows = this.describe(image, painter.leading(image), painter.values(image));
    for (const [name, text] of rows) {
      list.appendChild(document.createElement("dt")).textContent = name;
      list.appendChild(document.createElement("dd")).textContent = text;
    }
    this.stage.setAttribute("aria-label", rows.flat().join(" "));
    this.outline();
  }

  /** Draws the ellipses, as sharp as the screen is, whatever the pixels of the image. */
  outline() {
    const canvas = get("outline");
    const box = this.stage.getBoundingClientRect();
    const density = Math.min(devicePixelRatio, 2);
    [canvas.width, canvas.height] = [Math.round(box.width * density), Math.round(box.height * density)];
    const values = this.image === null || !get("ellipses").checked ? null : this.painter.values(this.image);
    const { header } = this.painter;
    get("most").hidden = !(values?.length > MOST_ELLIPSES * (5 + header.channels));
    if (!values) return;
    const context = canvas.getContext("2d");
    const shown = seen(values.subarray(0, MOST_ELLIPSES * (5 + header.channels)), header.channels, this.view);
    for (const [color, wide] of [["rgb(0 0 0 / 55%)", 2.5], ["#7df3e1", 1]]) {
      [context.strokeStyle, context.lineWidth] = [color, wide * density];
      for (const { x, y, long, short, angle } of ellipses(header, shown, canvas.height, canvas.width)) {
        context.beginPath();
        context.ellipse(x, y, Math.min(long, 1e5), Math.min(short, 1e5), angle, 0, 2 * Math.PI);
        context.stroke();
      }
    }
  }

  /** Enlarges by a factor; the point at `at` (from 0 to 1 of the window) stays where it is. */
  zoom(factor, at = [0.5, 0.5]) {
    const { zoom, x, y } = this.view;
    const larger = Math.min(Math.max(zoom * factor, 1), MOST_ZOOM);
    this.look({ zoom: larger, x: x + at[0] / zoom - at[0] / larger, y: y + at[1] / zoom - at[1] / larger });
  }

  look({ zoom, x, y }) {
    const inside = (start) => Math.min(Math.max(start, 0), 1 - 1 / zoom);
    this.view = { zoom, x: inside(x), y: inside(y) };
    this.draw();
  }

  wheeled(event) {
    event.preventDefault();
    const box = this.stage.getBoundingClientRect();
    this.zoom(2 ** (-event.deltaY / 300), [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]);
  }

  dragged(event) {
    if (!(event.buttons & 1) || this.view.zoom === 1) return;
    const box = this.stage.getBoundingClientRect();
    this.move(-event.movementX / box.width, -event.movementY / box.height);
  }

  /** Moves the window by parts of its width and height. */
  move(right, down) {
    const { zoom, x, y } = this.view;
    this.look({ zoom, x: x + right / zoom, y: y + down / zoom });
  }

  pressed(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const onSlider = event.target.type === "range";
    const moves = {
      ArrowRight: () => this.move(0.1, 0), ArrowLeft: () => this.move(-0.1, 0),
      ArrowDown: () => this.move(0, 0.1), ArrowUp: () => this.move(0, -0.1),
    };
    const actions = {
      "+": () => this.zoom(2), "=": () => this.zoom(2), "-": () => this.zoom(0.5), 0: () => this.look(WHOLE),
      e: () => get("ellipses").click(),
      ...(onSlider ? {} : event.shiftKey ? moves : { ArrowRight: () => this.step(1), ArrowLeft: () => this.step(-1) }),
    };
    if (!(event.key in actions)) return;
    actions[event.key]();
    event.preventDefault();
  }
}
