// All that is in a file, as the JSON of vectors has it (spec/README.md).

import { createHash } from "node:crypto";

import { Float } from "./header.mjs";
import { CODECS, GsdFile, crc32 } from "./reader.mjs";

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
export function describe(data) {
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
