// A reader of `.gsd` in plain JavaScript, written from FORMAT.md alone: for browsers and Node, without a build step.
//
//     const file = new GsdFile(new Uint8Array(await response.arrayBuffer()));    // checks the structure
//     const { labels, counts, values } = file.chunk(0);                          // checks and decodes one chunk
//
// Every error is a FormatError, with an `offset`.

import { ChecksumError, FormatError, LimitError, VersionError, need } from "./errors.mjs";
import { readHeader } from "./header.mjs";
import { rans } from "./rans.mjs";
import { unzstd } from "./zstd.mjs";

export const VERSION = [1, 0];
export const CODECS = ["stored", "zstd", "rans"];
const MAGIC = [0x89, 0x47, 0x53, 0x44, 0x0d, 0x0a, 0x1a, 0x0a];

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** CRC-32 of several runs of bytes, one after another. */
export function crc32(...parts) {
  let crc = -1;
  for (const part of parts) for (let i = 0; i < part.length; i++) crc = CRC[(crc ^ part[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

export class GsdFile {
  /**
   * Opens a file: `header` is what it says of itself (see `readHeader`), `table` its sections, `packed` the canonical header.
   * @param {Uint8Array} data the whole file
   */
  constructor(data) {
    need(MAGIC.every((byte, i) => data[i] === byte) && data.length >= 36, 0, "no .gsd file");
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const [major, minor, flags] = [view.getUint16(8, true), view.getUint16(10, true), view.getUint32(12, true)];
    const [length, count] = [view.getUint32(16, true), view.getUint32(20, true)];
    need(major === VERSION[0], 8, `version ${major}.${minor}, not ${VERSION[0]}.x`, VersionError);
    need(
      view.getBigUint64(24, true) === BigInt(data.length),
      24,
      `${data.length} bytes instead of ${view.getBigUint64(24, true)}`,
    );
    need(flags === 0 || flags === 1, 12, `flags ${flags}`);
    need(length <= 1 << 22, 16, `header of ${length} bytes`, LimitError);
    need(count <= 1 << 18, 20, `${count} sections`, LimitError);
    const start = 36 + length + 28 * count;
    need(start <= data.length, 16, "the file ends before the section table does");
    need(
      crc32(data.subarray(0, 32), data.subarray(36, start)) === view.getUint32(32, true),
      32,
      "checksum",
      ChecksumError,
    );
    this.data = data;
    this.packed = data.subarray(36, 36 + length);
    if (flags) this.packed = unzstd(this.packed, 36, 1 << 22);
    this.header = readHeader(this.packed, minor > VERSION[1]);
    this.table = [];
    this.readTable(view, 36 + length, start);
  }

  readTable(view, at, end) {
    const { own, sections, chunks } = this.header;
    const expected = this.expected();
    let last = -1;
    for (const begin = end; at < begin; at += 28) {
      const [name, codec, zero, chunk] = [
        view.getUint16(at, true),
        view.getUint8(at + 2),
        view.getUint8(at + 3),
        view.getUint32(at + 4, true),
      ];
      const [stored, raw, crc] = [
        view.getUint32(at + 8, true),
        view.getUint32(at + 12, true),
        view.getUint32(at + 16, true),
      ];
      need(name < sections.length && codec < 3 && zero === 0, at, "name, codec or zero");
      need(chunk * 65536 + name > last, at, "not sorted");
      need(view.getBigUint64(at + 20, true) === BigInt(end), at, "a hole or an overlap");
      need(raw <= 1 << 24, at, "raw size", LimitError);
      need(codec === 0 ? stored === raw : stored < raw, at, "stored size");
      need(expected.next().value === chunk * 65536 + name, at, "another section belongs here");
      if (name < own)
        need(
          raw === this.streams(chunk, name).reduce((sum, [bits, n]) => sum + n * (bits > 8 ? 2 : 1), 0),
          at,
          "raw size",
        );
      else need(codec !== 2, at, "codec of an optional section");
      this.table.push({ name, chunk, codec, stored, raw, crc, offset: end });
      end += stored;
      last = chunk * 65536 + name;
    }
    need(expected.next().done, at, "a section is missing");
    need(end === this.data.length, 24, "the last section does not end where the file ends");
    this.perChunk = chunks.images.map((_, chunk) => (chunk ? sections.length + (chunk - 1) * own : 0)); // first row of each
  }

  /** Which sections belong into the table, in order, as chunk * 65536 + name. */
  *expected() {
    const { own, sections, chunks } = this.header;
    for (let chunk = 0; chunk < Math.max(1, chunks.images.length); chunk++) {
      for (let name = chunks.images.length ? 0 : own; name < (chunk ? own : sections.length); name++)
        yield chunk * 65536 + name;
    }
  }

  /** [bits, codes] of every stream of a section of the format. */
  streams(chunk, name) {
    const { chunks, classCount, channels, quantizers, sections } = this.header;
    const [images, gaussians, set] = [
      chunks.images[chunk],
      chunks.gaussians[chunk],
      quantizers[chunks.quantizers[chunk]],
    ];
    const weights = chunks.labels ? chunks.labels[chunk] : images * classCount;
    const digits = (n) => Math.max(1, 32 - Math.clz32(n - 1));
    switch (sections[name]) {
      case "counts":
        return [[16, images]];
      case "labels":
        return [[digits(classCount), images]];
      case "label.counts":
        return [[digits(classCount + 1), images]];
      case "label.classes":
        return [[digits(classCount), weights]];
      case "label.weights":
        return [[8, weights]];
      default: {
        const order = ["means", "means", "scales", "scales", "shear", ...new Array(channels).fill("colors")];
        return order.map((key) => [Math.log2(set[key].length), gaussians]);
      }
    }
  }

  /** Decoded bytes of a row of the table. */
  section(row) {
    const { name, chunk, codec, stored, raw, crc, offset } = this.table[row];
    const data = this.data.subarray(offset, offset + stored);
    need(crc32(data) === crc, offset, "checksum of a section", ChecksumError);
    if (codec === 1) return unzstd(data, offset, 1 << 24, raw);
    return codec === 2 ? rans(data, this.streams(chunk, name), offset) : data;
  }

  /** Codes of every stream of a section of a chunk; `at` is the offset of errors. */
  codes(chunk, name, at) {
    const data = this.section(this.perChunk[chunk] + name);
    let start = 0;
    return this.streams(chunk, name).map(([bits, n]) => {
      const codes = Uint16Array.from(data.subarray(start, start + n));
      start += n;
      if (bits > 8) {
        for (let i = 0; i < n; i++) codes[i] |= data[start + i] << 8;
        start += n;
      }
      need(
        codes.every((code) => code < 2 ** bits),
        at,
        `a code of more than ${bits} bits`,
      );
      return codes;
    });
  }

  /** What a chunk says of its images: `counts` of Gaussians, and `labels` (null, a class or K weights). */
  index(chunk) {
    const { chunks, own } = this.header;
    const at = (name) => this.table[this.perChunk[chunk] + name].offset;
    const [counts] = this.codes(chunk, 0, at(0));
    need(counts.reduce((a, b) => a + b, 0) === chunks.gaussians[chunk], at(0), "counts do not add up");
    const streams = [];
    for (let name = 1; name < own - 1; name++) streams.push(this.codes(chunk, name, at(1))[0]);
    return { counts, labels: readLabels(this.header, counts.length, streams, at(1)) };
  }

  /** One chunk: its index, and `values`, a row of 5 + C numbers for each Gaussian: x, y, l11, l21, l22, colours. */
  chunk(chunk) {
    const { chunks, channels, own, quantizers } = this.header;
    const offset = this.table[this.perChunk[chunk] + own - 1].offset;
    const { counts, labels } = this.index(chunk);
    const [x, y, l11, l22, l21, ...colors] = this.codes(chunk, own - 1, offset);
    const set = quantizers[chunks.quantizers[chunk]];
    let first = 0;
    for (const count of counts) {
      for (let i = first + 1; i < first + count; i++) {
        need(x[i] + x[i - 1] < set.means.length, offset, "x adds up beyond its table");
        x[i] += x[i - 1];
      }
      first += count;
    }
    if (channels === 3) {
      const mask = set.colors.length - 1;
      const [green, red, blue] = colors;
      colors[0] = red.map((r, i) => (r + green[i]) & mask);
      colors[1] = green;
      colors[2] = blue.map((b, i) => (b + green[i]) & mask);
    }
    const width = 5 + channels;
    const values = new Float32Array(width * x.length);
    const tables = [set.means, set.means, set.scales, set.shear, set.scales, ...colors.map(() => set.colors)];
    [x, y, l11, l21, l22, ...colors].forEach((codes, column) => {
      for (let i = 0; i < codes.length; i++) values[width * i + column] = tables[column][codes[i]];
    });
    return { counts, labels, values };
  }
}

function readLabels({ layout, classCount }, n, streams, at) {
  if (layout === "none") return new Array(n).fill(null);
  if (layout === "hard") {
    need(
      streams[0].every((label) => label < classCount),
      at,
      "a class at or above K",
    );
    return Array.from(streams[0]);
  }
  let rows;
  if (layout === "dense") {
    rows = Array.from({ length: n }, (_, i) => Array.from(streams[0].subarray(i * classCount, (i + 1) * classCount)));
  } else {
    const [counts, classes, weights] = streams;
    need(counts.reduce((a, b) => a + b, 0) === classes.length, at, "label counts do not add up");
    need(
      classes.every((k) => k < classCount),
      at,
      "a class at or above K",
    );
    need(
      weights.every((w) => w > 0),
      at,
      "a weight of 0",
    );
    let first = 0;
    rows = Array.from(counts, (count) => {
      const row = new Array(classCount).fill(0);
      for (let i = first; i < first + count; i++) {
        need(i === first || classes[i - 1] < classes[i], at, "classes do not ascend");
        row[classes[i]] = weights[i];
      }
      first += count;
      return row;
    });
  }
  need(
    rows.every((row) => row.some((w) => w > 0)),
    at,
    "a label without any weight",
  );
  return rows;
}

export { ChecksumError, FormatError, LimitError, VersionError };
