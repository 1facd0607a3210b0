// The header: canonical msgpack, and the rules for what it says (FORMAT.md, "Header" and "Quantisers").
//
// Maps become Map, bytes Uint8Array, floats Float (a number of another type than integers are), integers that a
// double cannot hold BigInt.

import { FormatError, LimitError, VersionError, need } from "./errors.mjs";

const KEYS = [
  "chunks",
  "class_count",
  "classes",
  "gaussians",
  "labels",
  "metadata",
  "provenance",
  "quantizers",
  "recipe",
  "required",
  "sections",
  "transforms",
];
const RECIPE = {
  augment: "text",
  batch_size: "integer",
  clamp: "boolean",
  epochs: "integer",
  lr: "float",
  mean: "list",
  model: "text",
  momentum: "float",
  std: "list",
  steps: "integer",
  value_space: "text",
  weight_decay: "float",
  zca: "map",
};
/** Sections of every layout of labels. */
export const LABELS = {
  none: [],
  hard: ["labels"],
  dense: ["label.weights"],
  sparse: ["label.counts", "label.classes", "label.weights"],
};

export class Float {
  constructor(value) {
    this.value = value;
  }
}

// Bytes of the number, and the least that needs so many; of negative numbers the greatest.
const UNSIGNED = { 0xcc: [1, 1n << 7n], 0xcd: [2, 1n << 8n], 0xce: [4, 1n << 16n], 0xcf: [8, 1n << 32n] };
const SIGNED = { 0xd0: [1, -33n], 0xd1: [2, -129n], 0xd2: [4, -32769n], 0xd3: [8, -(1n << 31n) - 1n] };
const LENGTHS = {
  0xc4: ["bytes", 1, 0n],
  0xc5: ["bytes", 2, 1n << 8n],
  0xc6: ["bytes", 4, 1n << 16n],
  0xd9: ["text", 1, 32n],
  0xda: ["text", 2, 1n << 8n],
  0xdb: ["text", 4, 1n << 16n],
  0xdc: ["list", 2, 16n],
  0xdd: ["list", 4, 1n << 16n],
  0xde: ["map", 2, 16n],
  0xdf: ["map", 4, 1n << 16n],
};
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

const ENCODER = new TextEncoder();

class Msgpack {
  constructor(data) {
    this.data = data;
    this.view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    this.at = 0;
    this.values = 0;
  }

  take(size) {
    need(this.at + size <= this.data.length, 36, "the header ends inside a value");
    this.at += size;
    return this.data.subarray(this.at - size, this.at);
  }

  number(size, first, signed = false) {
    let number = 0n;
    for (const byte of this.take(size)) number = (number << 8n) | BigInt(byte);
    if (signed) number = BigInt.asIntN(8 * size, number);
    need(signed ? number <= first : number >= first, 36, "not the shortest form");
    const small = Number(number);
    return Number.isSafeInteger(small) ? small : number;
  }

  value(depth) {
    need(++this.values <= 262144, 36, "more than 262,144 values", LimitError);
    const tag = this.take(1)[0];
    let kind, size;
    if (tag < 0x80) return tag;
    if (tag >= 0xe0) return tag - 256;
    if (tag < 0x90) [kind, size] = ["map", tag & 15];
    else if (tag < 0xa0) [kind, size] = ["list", tag & 15];
    else if (tag < 0xc0) [kind, size] = ["text", tag & 31];
    else if (tag === 0xc0) return null;
    else if (tag === 0xc2 || tag === 0xc3) return tag === 0xc3;
    else if (tag === 0xcb) {
      this.take(8);
      const number = this.view.getFloat64(this.at - 8);
      need(Number.isFinite(number), 36, "a float that is not finite");
      return new Float(number);
    } else if (tag in UNSIGNED) return this.number(...UNSIGNED[tag]);
    else if (tag in SIGNED) return this.number(...SIGNED[tag], true);
    else {
      need(tag in LENGTHS, 36, `type 0x${tag.toString(16)}`);
      const [what, ...form] = LENGTHS[tag];
      [kind, size] = [what, this.number(...form)];
    }
    if (kind === "bytes") return this.take(size);
    if (kind === "text") return this.text(size);
    need(depth <= 8, 36, "nested more than 8 deep", LimitError);
    return kind === "list" ? this.list(size, depth) : this.map(size, depth);
  }

  text(size) {
    const bytes = this.take(size);
    try {
      return UTF8.decode(bytes);
    } catch {
      throw new FormatError(36, "text that is not UTF-8");
    }
  }

  list(size, depth) {
    const result = [];
    for (let i = 0; i < size; i++) result.push(this.value(depth + 1));
    return result;
  }

  map(size, depth) {
    const result = new Map();
    let last = null;
    for (let i = 0; i < size; i++) {
      const key = this.value(depth + 1);
      need(typeof key === "string", 36, "a key that is no text");
      const bytes = ENCODER.encode(key);
      need(last === null || compare(last, bytes) < 0, 36, `key ${JSON.stringify(key)} is not after the last`);
      last = bytes;
      result.set(key, this.value(depth + 1));
    }
    return result;
  }
}

function compare(a, b) {
  const size = Math.min(a.length, b.length);
  for (let i = 0; i < size; i++) if (a[i] !== b[i]) return a[i] - b[i];
  return a.length - b.length;
}

function kindOf(value) {
  if (typeof value === "string") return "text";
  if (typeof value === "number" || typeof value === "bigint") return "integer";
  if (value instanceof Float) return "float";
  if (value instanceof Map) return "map";
  if (typeof value === "boolean") return "boolean";
  return Array.isArray(value) ? "list" : "other";
}

/** The plain value, if it is of this kind and within this range; `error` is for more than `high`. */
function check(value, kind, what, low = -Infinity, high = Infinity, error = FormatError) {
  need(kindOf(value) === kind, 36, `${what} is no ${kind}`);
  const plain = kind === "float" ? value.value : value;
  if (kind === "integer" || kind === "float") {
    need(plain >= low, 36, `${what} is ${plain}`);
    need(plain <= high, 36, `${what} is ${plain}`, error);
  }
  return plain;
}

const items = (value, kind, what, ...limits) =>
  check(value, "list", what).map((item) => check(item, kind, what, ...limits));

/** The known keys of a map; a newer minor version may have more. */
function keys(value, what, newer, required, optional = []) {
  const found = check(value, "map", what);
  const known = [...found].filter(([key]) => required.includes(key) || optional.includes(key));
  need(required.every((key) => found.has(key)) && (newer || known.length === found.size), 36, `keys of ${what}`);
  return Object.fromEntries(known);
}

function oneOf(value, what, ...choices) {
  need(choices.includes(check(value, "text", what)), 36, `${what} is ${JSON.stringify(value)}`);
  return value;
}

/**
 * The header of canonical bytes, every rule for its values checked: plain values, `quantizers` as tables of float32, and in
 * `raw` the map as it was parsed. Unknown keys are ignored in a `newer` minor version.
 */
export function readHeader(data, newer) {
  const parser = new Msgpack(data);
  const raw = parser.value(1);
  need(raw instanceof Map && parser.at === data.length, 36, "the header is one map and nothing else");
  for (const name of items(raw.get("required"), "text", "required"))
    throw new VersionError(36, `the file needs ${JSON.stringify(name)}`);
  const h = keys(raw, "header", newer, KEYS);

  const layout = oneOf(h.labels, "labels", ...Object.keys(LABELS));
  const classCount = check(h.class_count, "integer", "class_count", layout === "none" ? 0 : 1, 65535, LimitError);
  const classes = items(h.classes, "text", "classes");
  need(
    !classes.length || (classes.length === classCount && new Set(classes).size === classCount),
    36,
    "classes are not K different names",
  );
  check(h.metadata, "map", "metadata");
  check(h.provenance, "map", "provenance");

  const g = keys(h.gaussians, "gaussians", newer, ["antialias", "background", "channels", "kernel", "size"]);
  const antialias = oneOf(g.antialias, "antialias", "box-normalized", "box", "none");
  oneOf(g.kernel, "kernel", "gaussian-compact-10");
  const channels = check(g.channels, "integer", "channels", 1, 4);
  const background = items(g.background, "float", "background", -(2 ** 24), 2 ** 24);
  need(background.length === channels, 36, "background");
  const size = items(g.size, "integer", "size", 1, 65536, LimitError);
  need(size.length === 2, 36, "size");
  const t = keys(h.transforms, "transforms", newer, ["color", "order"]);
  oneOf(t.color, "color", channels === 3 ? "green-difference" : "none");
  oneOf(t.order, "order", "sorted-delta");

  const recipe = keys(h.recipe, "recipe", newer, ["value_space"], Object.keys(RECIPE));
  oneOf(recipe.value_space, "value_space", "srgb-unit");
  need("mean" in recipe === "std" in recipe, 36, "mean and std come together");
  for (const [name, value] of Object.entries(recipe)) {
    check(value, RECIPE[name], name, RECIPE[name] === "integer" ? 1 : -Infinity);
    need(value !== false, 36, name);
    if (RECIPE[name] !== "list") continue;
    const numbers = items(value, "float", name);
    need(numbers.length === channels && (name === "mean" || numbers.every((n) => n > 0)), 36, name);
  }

  const sets = check(h.quantizers, "list", "quantizers");
  check(sets.length, "integer", "number of quantiser sets", 1, 256, LimitError);
  const quantizers = sets.map((set) => {
    const found = keys(set, "quantizers", newer, ["colors", "means", "scales", "shear"]);
    return Object.fromEntries(Object.entries(found).map(([name, quantizer]) => [name, table(name, quantizer)]));
  });

  const c = keys(h.chunks, "chunks", newer, [
    "gaussians",
    "images",
    "quantizers",
    ...(layout === "sparse" ? ["labels"] : []),
  ]);
  const chunks = {
    images: items(c.images, "integer", "images", 1, 65536, LimitError),
    gaussians: items(c.gaussians, "integer", "gaussians", 0, 262144, LimitError),
    quantizers: items(c.quantizers, "integer", "quantizers of a chunk", 0, quantizers.length - 1),
    ...(layout === "sparse" ? { labels: items(c.labels, "integer", "labels of a chunk", 0) } : {}),
  };
  need(
    new Set(Object.values(chunks).map((column) => column.length)).size === 1,
    36,
    "lists of chunks differ in length",
  );
  const sum = (column) => column.reduce((a, b) => a + b, 0);
  need(
    sum(chunks.images) <= 2 ** 24 && sum(chunks.gaussians) <= 2 ** 32,
    36,
    "too many images or Gaussians",
    LimitError,
  );
  const soft = layout === "dense" || layout === "sparse";
  need(!soft || chunks.images.every((n) => n * classCount <= 2 ** 22), 36, "too many weights in a chunk", LimitError);
  need(
    (chunks.labels ?? []).every((n, i) => n <= chunks.images[i] * classCount),
    36,
    "more weights than images times K",
  );

  const known = ["counts", ...LABELS[layout], "gaussians"];
  const sections = items(h.sections, "text", "sections");
  const extra = sections.slice(known.length);
  need(
    known.every((name, i) => sections[i] === name),
    36,
    "names of sections",
  );
  need(
    extra.every((name, i) => i === 0 || extra[i - 1] < name),
    36,
    "names of optional sections",
  );
  need(extra.length <= 64, 36, "more than 64 optional sections", LimitError);
  for (const name of extra) {
    const good = /^[a-z0-9_-]{1,31}(\.[a-z0-9_-]{1,31}){1,3}$/.test(name) && !LABELS.sparse.includes(name);
    need(good, 36, `optional section ${JSON.stringify(name)}`);
  }
  return {
    raw,
    layout,
    classCount,
    classes,
    antialias,
    background,
    channels,
    size,
    quantizers,
    chunks,
    sections,
    own: known.length,
  };
}

/** The float32 values of a quantiser. */
function table(name, quantizer) {
  need(check(quantizer, "list", name).length === 4, 36, name);
  const kind = oneOf(quantizer[0], name, "uniform", "log2");
  const bound = kind === "uniform" ? 2 ** 24 : 64;
  const low = check(quantizer[1], "float", name, -bound);
  const high = check(quantizer[2], "float", name, -Infinity, bound);
  need(low < high, 36, `${name}: low is not below high`);
  const top = 2 ** check(quantizer[3], "integer", `bits of ${name}`, 1, 12, LimitError) - 1;
  const at = (k) => {
    const level = low + ((high - low) * k) / top;
    return Math.fround(kind === "uniform" ? level : 2 ** level);
  };
  const values = Float32Array.from({ length: top + 1 }, (_, k) => at(k));
  for (let k = 0; k < top; k++) {
    const threshold = at(k + 0.5);
    need(values[k] < threshold && threshold <= values[k + 1], 36, `${name} is too narrow`);
  }
  need(name !== "scales" || values[0] > 0, 36, "scales reach 0");
  return values;
}
