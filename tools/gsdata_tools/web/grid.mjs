// The images of a file as a grid that scrolls with the page. Only rows on the screen exist: a row of images is one canvas.

import { TITLE, between, fitted, layOut, moved } from "./layout.mjs";
import { LARGEST } from "./painter.mjs";

const AHEAD = 300; // pixels above and below the screen that are drawn, too

export class Grid {
  /**
   * @param {HTMLElement} element where the rows go
   * @param {HTMLElement} tools what stays above them when they scroll
   * @param {function} opened what to do with an image that is chosen
   * @param {function} described (image) the words for it
   */
  constructor(element, tools, painter, opened, described) {
    Object.assign(this, { element, tools, painter, opened, described, shown: new Map(), spare: [], at: null, groups: [], side: 64 });
    this.cursor = element.appendChild(document.createElement("div"));
    this.cursor.className = "cursor";
    this.cursor.setAttribute("role", "option");
    this.cursor.setAttribute("aria-selected", "true");
    this.cursor.hidden = true;
    addEventListener("scroll", () => this.schedule(), { passive: true });
    new ResizeObserver(() => this.arrange()).observe(element);
    element.addEventListener("click", (event) => this.clicked(event));
    element.addEventListener("keydown", (event) => this.pressed(event));
    element.addEventListener("focus", () => this.focused());
    element.addEventListener("blur", () => (this.cursor.hidden = true));
  }

  /** Shows these groups, images with a longer side of so many CSS pixels. */
  show(groups, side) {
    const other = groups !== this.groups;
    if (other) this.at = null;
    Object.assign(this, { groups, side });
    this.arrange(true);
    const above = this.hidden();
    if (other && above > 0) scrollBy(0, -above);
  }

  /** How many pixels of it are above what can be seen. */
  hidden() {
    return this.tools.offsetHeight - this.element.getBoundingClientRect().top;
  }

  arrange(always = false) {
    const { width } = this.element.getBoundingClientRect();
    const density = Math.min(devicePixelRatio, 2, LARGEST / this.side);
    if (!always && width === this.width && density === this.density) return;
    const anchor = this.anchor();
    const [height, wide] = fitted(this.painter.header.size, Math.min(this.side, width));
    this.gap = this.side < 40 ? 2 : 6;
    Object.assign(this, { width, density, cell: [wide, height] });
    this.layout = layOut(this.groups, width, this.cell, this.gap);
    this.element.style.height = `${Math.ceil(this.layout.height)}px`;
    for (const item of this.shown.values()) this.retire(item);
    this.shown.clear();
    if (this.at) this.at = this.placeOf(this.image) ?? null;
    this.restore(anchor);
    this.draw();
    this.cursor.hidden = true;
    if (document.activeElement === this.element) this.focused();
  }

  focused() {
    if (this.layout?.rows.length) this.point(this.at ?? this.placeOf(this.anchor()) ?? { row: 0, column: 0 }, false);
  }

  /** The first image on the screen, so that it stays there when sizes change. */
  anchor() {
    const top = this.hidden();
    if (!this.layout || top <= 0) return null;
    const [first] = between(this.layout.rows, top, top, this.cell[1]);
    return this.layout.rows[first]?.images[0] ?? null;
  }

  restore(image) {
    const place = image === null ? null : this.placeOf(image);
    if (place) scrollBy(0, this.layout.rows[place.row].y - this.gap - this.hidden());
  }

  placeOf(image) {
    const row = this.layout.rows.findIndex(({ images }) => images.includes(image));
    return row < 0 ? null : { row, column: this.layout.rows[row].images.indexOf(image) };
  }

  schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.draw();
    });
  }

  /** Makes what is on the screen, and takes away what is not. */
  draw() {
    if (!this.layout) return;
    const above = -this.element.getBoundingClientRect().top;
    const [top, bottom] = [above - AHEAD, above + innerHeight + AHEAD];
    const wanted = new Set();
    const { rows, titles } = this.layout;
    const [firstRow, endRow] = between(rows, top, bottom, this.cell[1]);
    const [firstTitle, endTitle] = between(titles, top, bottom, TITLE);
    for (let i = firstTitle; i < endTitle; i++) wanted.add(titles[i]);
    for (let i = firstRow; i < endRow; i++) wanted.add(rows[i]);
    for (const [item, row] of this.shown) {
      if (wanted.has(item)) continue;
      this.retire(row);
      this.shown.delete(item);
    }
    for (const item of wanted) if (!this.shown.has(item)) this.shown.set(item, item.images ? this.row(item) : this.title(item));
  }

  retire(row) {
    row.wanted = false;
    row.node.remove();
    if (row.context && this.spare.length < 64) this.spare.push(row.node);
  }

  title({ y, name, count }) {
    const node = this.element.appendChild(document.createElement("h3"));
    node.setAttribute("aria-hidden", "true"); // the cursor says it
    const words = node.appendChild(document.createElement("bdi"));
    words.textContent = name;
    node.appendChild(document.createElement("span")).textContent = count.toLocaleString("en");
    node.style.top = `${y}px`;
    return { node };
  }

  row({ y, images }) {
    const [width, height] = this.cell;
    const node = this.spare.pop() ?? document.createElement("canvas");
    node.setAttribute("aria-hidden", "true");
    const pixels = [Math.round(height * this.density), Math.round(width * this.density)];
    const step = Math.round((width + this.gap) * this.density);
    node.height = pixels[0];
    node.width = step * (images.length - 1) + pixels[1]; // clears it, too
    node.style.width = `${node.width / this.density}px`;
    node.style.height = `${height}px`;
    node.style.top = `${y}px`;
    this.element.insertBefore(node, this.cursor);
    const row = { node, context: node.getContext("2d"), wanted: true };
    row.context.fillStyle = "rgb(128 128 128 / 12%)";
    images.forEach((image, i) => {
      row.context.fillRect(step * i, 0, pixels[1], pixels[0]);
      const place = { left: step * i, top: 0, height: pixels[0], width: pixels[1] };
      this.painter.add({ ...place, context: row.context, image, wanted: () => row.wanted });
    });
    return row;
  }

  clicked(event) {
    const box = this.element.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const [row] = between(this.layout.rows, y, y, this.cell[1]);
    const column = Math.floor(x / (this.cell[0] + this.gap));
    const image = this.layout.rows[row]?.y <= y ? this.layout.rows[row].images[column] : undefined;
    if (image === undefined) return;
    this.point({ row, column }, false);
    this.opened(image);
  }

  pressed(event) {
    if (!this.at || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") this.opened(this.image);
    else {
      const page = Math.max(1, Math.floor((innerHeight - 120) / (this.cell[1] + this.gap)));
      const place = moved(this.layout.rows, this.at, event.key, page);
      if (!place) return;
      this.point(place, true);
    }
    event.preventDefault();
  }

  /** Puts the cursor on an image. */
  point(place, scroll) {
    this.at = place;
    const row = this.layout.rows[place.row];
    this.image = row.images[place.column];
    const [width, height] = this.cell;
    const { style } = this.cursor;
    [style.left, style.top] = [`${place.column * (width + this.gap)}px`, `${row.y}px`];
    [style.width, style.height] = [`${width}px`, `${height}px`];
    style.scrollMarginTop = `${this.tools.offsetHeight + TITLE}px`;
    this.cursor.id = `image-${this.image}`; // another one, so that a screen reader takes note
    this.cursor.setAttribute("aria-label", this.described(this.image));
    this.cursor.setAttribute("aria-posinset", row.first + place.column + 1);
    this.cursor.setAttribute("aria-setsize", this.layout.shown);
    this.cursor.hidden = false;
    this.element.setAttribute("aria-activedescendant", this.cursor.id);
    if (scroll) this.cursor.scrollIntoView({ block: "nearest" });
  }

  /** The image that stands so many places after this one in the order of the grid; null where there is none. */
  next(image, steps) {
    const place = this.placeOf(image);
    const found = place && moved(this.layout.rows, place, steps > 0 ? "ArrowRight" : "ArrowLeft", 1);
    const other = found ? this.layout.rows[found.row].images[found.column] : image;
    if (other === image) return null;
    this.point(found, false);
    return other;
  }
}
