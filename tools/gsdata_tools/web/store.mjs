// What the page asks of a file: read by the reader of spec/js, in a worker where the browser lets a page from disk have one.

import { Float, LABELS } from "../../../spec/js/header.mjs";
import { CODECS, GsdFile } from "../../../spec/js/reader.mjs";
import { render, toByte } from "../../../spec/js/render.mjs";
import { reached, seen } from "./gaussians.mjs";

const MOST_ROWS = 400; // of a table; a header may hold 262,144 values
const LONGEST = 1000; // characters of a value
const MOST_WORK = 5e7; // pixels, over all Gaussians, that one drawing without WebGL2 computes: about half a second

export class Store {
  /** @param {string} base64 the whole file */
  constructor(base64) {
    const text = atob(base64);
    const data = new Uint8Array(text.length);
    for (let i = 0; i < data.length; i++) data[i] = text.charCodeAt(i);
    this.file = new GsdFile(data);
  }

  /** Everything but the Gaussians, as plain values; `classes` are the numbers of the classes of all images, -1 where there is none. */
  summary() {
    const { header, data } = this.file;
    const { antialias, background, channels, chunks, classCount, layout, size } = header;
    const classes = new Int32Array(chunks.images.reduce((a, b) => a + b, 0)).fill(-1);
    let image = 0;
    for (let chunk = 0; chunk < chunks.images.length; chunk++) {
      for (const label of this.file.index(chunk).labels) classes[image++] = heaviest(label);
    }
    const tables = ["recipe", "provenance", "metadata"].map((name) => [name === "recipe" ? "training recipe" : name, flat(header.raw.get(name))]);
    return {
      ...{ antialias, background, channels, classCount, classes, layout, size, tables },
      names: header.classes,
      images: chunks.images,
      gaussians: chunks.gaussians.reduce((a, b) => a + b, 0),
      total: data.length,
      ...bytes(this.file),
    };
  }

  /** A chunk; labels are null, a class or the K weights of an image. */
  chunk(number) {
    return this.file.chunk(number);
  }

  /** RGBA bytes of images, drawn without WebGL2: of the first of the list, and of as many more as do not take too long. */
  draw(list) {
    const pictures = [];
    let work = 0;
    for (const image of list) {
      if (work > MOST_WORK / 8) break;
      pictures.push(picture(this.file.header, image));
      work += pictures.at(-1).work;
    }
    return pictures;
  }
}

/** RGBA bytes of one image; smaller by a power of two where it would take too long. */
function picture(header, { values, height, width, view }) {
  const rows = seen(values, header.channels, view);
  let [h, w] = [height, width];
  let work;
  while ((work = reached(header, rows, h, w)) > MOST_WORK && h * w > 1) [h, w] = [Math.max(1, h >> 1), Math.max(1, w >> 1)];
  return { rgba: rgba(render(header, rows, h, w), header.channels, h * w), height: h, width: w, work };
}

/** Answers questions { id, what, with } of a page with { id, answer } or { id, error }. */
export function serve(scope) {
  let store = null;
  scope.onmessage = ({ data: { id, what, value } }) => {
    try {
      if (what === "open") store = new Store(value);
      const answer = what === "open" ? store.summary() : store[what](value);
      scope.postMessage({ id, answer }, what === "draw" ? answer.map(({ rgba }) => rgba.buffer) : []);
    } catch (error) {
      scope.postMessage({ id, error: `${error.name}: ${error.message}` });
    }
  };
  scope.postMessage({ id: 0 });
}

/** The class of a label: the first one of the largest weight where there are weights. */
function heaviest(label) {
  return Array.isArray(label) ? label.indexOf(label.reduce((a, b) => Math.max(a, b))) : (label ?? -1);
}

/** Where the bytes go, as gsdata's byte table has it: `parts` and, by name, `sections`. */
function bytes({ header, table, data }) {
  const labels = LABELS[header.layout];
  const sections = header.sections.map((name, i) => {
    const part = i >= header.own ? "overhead" : labels.includes(name) ? "labels" : "payload";
    return { name, part, stored: 0, raw: 0, codecs: new Set() };
  });
  for (const { name, stored, raw, codec } of table) {
    sections[name].stored += stored;
    sections[name].raw += raw;
    sections[name].codecs.add(CODECS[codec]);
  }
  const parts = { payload: 0, labels: 0, index: 28 * table.length, overhead: 0 };
  for (const { part, stored } of sections) parts[part] += stored;
  parts.overhead = data.length - parts.payload - parts.labels - parts.index;
  return { parts, sections: sections.map((section) => ({ ...section, codecs: [...section.codecs].join(", ") })) };
}

/** Nested maps as rows of a dotted name and a text. */
function flat(map, prefix = "", rows = []) {
  for (const [key, value] of map) {
    if (rows.length >= MOST_ROWS) break;
    const name = prefix + key;
    if (value instanceof Map && value.size) flat(value, `${name}.`, rows);
    else rows.push([name.slice(0, LONGEST), text(value).slice(0, LONGEST)]);
  }
  return rows;
}

function text(value) {
  if (value instanceof Float) return String(value.value);
  if (value instanceof Uint8Array) return Array.from(value.subarray(0, LONGEST), (b) => b.toString(16).padStart(2, "0")).join("");
  if (value instanceof Map) return `{${[...value].map(([key, item]) => `${key}: ${text(item)}`).join(", ")}}`;
  return Array.isArray(value) ? value.map(text).join(", ") : String(value);
}

/** Pixels as they are shown: one or two channels are gray (and alpha), three or four colour (and alpha). */
function rgba(pixels, channels, size) {
  const result = new Uint8ClampedArray(4 * size).fill(255);
  const places = [[0], [0, 3], [0, 1, 2], [0, 1, 2, 3]][channels - 1];
  places.forEach((place, channel) => {
    for (let i = 0; i < size; i++) result[4 * i + place] = toByte(pixels[channel * size + i]);
  });
  if (channels < 3) for (let i = 0; i < 4 * size; i += 4) result[i + 1] = result[i + 2] = result[i];
  return result;
}
