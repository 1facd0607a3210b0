// What the page asks of a file: read by the reader of spec/js, in a worker where the browser lets a page from disk have one.

import { Float, LABELS } from "../../../spec/js/header.mjs";
import { CODECS, GsdFile } from "../../../spec/js/reader.mjs";
import { render, toByte } from "../../../spec/js/render.mjs";
import { reached, seen } from "./gaussians.mjs";
import { visible } from "./texts.mjs";

const MOST_ROWS = 200; // of a table; a header may hold 262,144 values, and laying out rare scripts takes time
const [LONGEST, LONGEST_NAME] = [400, 200]; // characters of a value, and of a key or the name of a class
const LEADING = 5; // classes of a soft label that are told
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
      names: header.classes.map((name) => visible(name, LONGEST_NAME)),
      images: chunks.images,
      gaussians: chunks.gaussians.reduce((a, b) => a + b, 0),
      total: data.length,
      ...bytes(this.file),
    };
  }

  /**
   * A chunk: `values`, rows of its Gaussians; `starts`, the first row of each image, and one more; `leading`, where labels are soft,
   * the classes of the largest weights of each image and their shares, largest first, as many as LEADING with shares of 0 at the end.
   */
  chunk(number) {
    const { counts, labels, values } = this.file.chunk(number);
    const starts = new Uint32Array(counts.length + 1);
    counts.forEach((count, i) => (starts[i + 1] = starts[i] + count));
    if (!Array.isArray(labels[0])) return { starts, values, leading: null };
    const leading = { classes: new Uint16Array(LEADING * labels.length), shares: new Float32Array(LEADING * labels.length) };
    labels.forEach((weights, i) => {
      foremost(weights).forEach(([k, share], place) => {
        leading.classes[LEADING * i + place] = k;
        leading.shares[LEADING * i + place] = share;
      });
    });
    return { starts, values, leading };
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
  const moved = {
    open: ({ classes }) => [classes.buffer],
    chunk: ({ values }) => [values.buffer],
    draw: (pictures) => pictures.map(({ rgba }) => rgba.buffer),
  };
  scope.onmessage = ({ data: { id, what, value } }) => {
    try {
      if (what === "open") store = new Store(value);
      const answer = what === "open" ? store.summary() : store[what](value);
      scope.postMessage({ id, answer }, moved[what](answer));
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

/** [class, share] of the largest weights. */
function foremost(weights) {
  let sum = 0;
  const found = [];
  for (let k = 0; k < weights.length; k++) {
    sum += weights[k];
    if (weights[k] <= (found[LEADING - 1]?.[1] ?? 0)) continue;
    found.push([k, weights[k]]);
    found.sort((a, b) => b[1] - a[1]).splice(LEADING);
  }
  return found.map(([k, weight]) => [k, weight / sum]);
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

/** Nested maps as rows of a dotted name and a text; where there are too many, the last row says so. */
function flat(map, prefix = "", rows = []) {
  for (const [key, value] of map) {
    if (rows.length > MOST_ROWS) break;
    const name = visible(prefix + key, LONGEST_NAME);
    if (value instanceof Map && value.size) flat(value, `${name}.`, rows);
    else if (rows.length < MOST_ROWS) rows.push([name, visible(text(value), LONGEST)]);
    else rows.push(["…", "and more; gsd-inspect --json shows all"]);
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
