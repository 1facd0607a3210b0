// node spec/js/check.mjs spec/vectors      this reader against the vectors; exit 0 where all agree

import { createHash } from "node:crypto";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";

import { FormatError } from "./errors.mjs";
import { Float } from "./header.mjs";
import { CODECS, GsdFile, crc32 } from "./reader.mjs";
import { render, toByte } from "./render.mjs";

/** A header's value as the JSON of vectors has it. */
function plain(value) {
  if (value instanceof Float) return value.value;
  if (typeof value === "bigint") return { integer: String(value) };
  if (value instanceof Uint8Array) return { bytes: Buffer.from(value).toString("hex") };
  if (Array.isArray(value)) return value.map(plain);
  return value instanceof Map ? Object.fromEntries([...value].map(([key, item]) => [key, plain(item)])) : value;
}

const sha256 = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest("hex");

/** All that is in a file, each byte of it checked, and the rows of the Gaussians of every image. */
function describe(data) {
  const file = new GsdFile(data);
  const { header, table } = file;
  const chunks = header.chunks.images.map((_, i) => file.chunk(i));
  const raw = table.map((_, row) => file.section(row));
  const width = 5 + header.channels;
  const values = Buffer.concat(chunks.map((chunk) => Buffer.from(chunk.values.buffer)));
  const rows = chunks.flatMap((chunk) => {
    let at = 0;
    return Array.from(chunk.counts, (count) => chunk.values.subarray(at, (at += width * count)));
  });
  const all = chunks.flatMap((chunk) => Array.from(chunk.values));
  const found = {
    sha256: sha256(data),
    content_id: sha256(file.packed, ...raw.filter((_, row) => table[row].name < header.own)),
    header: plain(header.raw),
    sections: table.map((entry, row) => [
      entry.chunk,
      header.sections[entry.name],
      CODECS[entry.codec],
      crc32(raw[row]),
    ]),
    counts: chunks.flatMap((chunk) => Array.from(chunk.counts)),
    labels: chunks.flatMap((chunk) => chunk.labels),
    gaussians: [0, 1, 2, 3].map((i) => all.slice(i * width, (i + 1) * width)).filter((row) => row.length),
    gaussians_sha256: sha256(values),
  };
  return { file, found, rows };
}

/** What this reader makes of a vector other than its JSON says; null where they agree. */
function disagreement(path) {
  const expected = JSON.parse(readFileSync(path.replace(/\.gsd$/, ".json"), "utf8"));
  const data = new Uint8Array(readFileSync(path));
  let result;
  try {
    result = describe(data);
  } catch (error) {
    if (!(error instanceof FormatError)) return `${error.stack}`;
    return error.name === expected.error && error.offset === expected.offset ? null : `${error.name}: ${error.message}`;
  }
  if ("error" in expected) return "read without an error";
  const { file, found, rows } = result;
  const wrong = Object.keys(found).filter((key) => key in expected && !isDeepStrictEqual(found[key], expected[key]));
  for (const picture of expected.renders ?? []) {
    const pixels = render(file.header, rows[picture.image], ...picture.size);
    const same = pixels.length === picture.pixels.length;
    if (!same || picture.pixels.some((p, i) => !(Math.abs(p - pixels[i]) <= picture.tolerance[i])))
      wrong.push(`pixels at ${picture.size}`);
    if (!same || picture.bytes.some((b, i) => b !== null && b !== toByte(pixels[i])))
      wrong.push(`bytes at ${picture.size}`);
  }
  return wrong.length ? `another ${wrong.join(", ")}` : null;
}

const folder = process.argv[2];
if (process.argv.length !== 3 || !existsSync(folder)) {
  console.error("one argument needed: the folder of the vectors");
  process.exit(2);
}
const vectors = ["invalid", "render", "valid"]
  .filter((kind) => existsSync(join(folder, kind)))
  .flatMap((kind) =>
    readdirSync(join(folder, kind))
      .sort()
      .map((name) => join(kind, name)),
  )
  .filter((name) => name.endsWith(".gsd"));
const wrong = vectors.map((name) => [name, disagreement(join(folder, name))]).filter(([, what]) => what !== null);
for (const [name, what] of wrong) console.log(`${name}: ${what}`);
console.log(`${vectors.length - wrong.length} of ${vectors.length} vectors agree`);
process.exit(wrong.length || !vectors.length ? 1 : 0);
