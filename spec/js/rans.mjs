// Codec 2 (FORMAT.md, "rANS").

import { LimitError, need } from "./errors.mjs";

/** Bits of the model, from the most significant of a byte on. */
class Bits {
  constructor(data, start, at) {
    Object.assign(this, { data, position: 8 * start, at });
  }

  take(n) {
    let value = 0;
    for (let i = 0; i < n; i++, this.position++) {
      const byte = this.data[this.position >> 3];
      need(byte !== undefined, this.at, "the model ends early");
      value = 2 * value + ((byte >> (7 - (this.position & 7))) & 1);
    }
    return value;
  }

  zeros() {
    let n = 0;
    while (!this.take(1)) n++;
    return n;
  }

  /** What follows the unary part of an Exp-Golomb code: n low bits. */
  low(n, order) {
    return 2 ** n + this.take(n) - 2 ** order;
  }
}

/** Raw bytes of a section of these streams [bits, codes], which begins at byte `at` of the file. */
export function rans(data, streams, at) {
  need(data.length > 0, at, "no bytes");
  need(data[0] <= 8, at, "more than 2^8 lanes", LimitError);
  need(data[0] >= 7 || streams.every(([, n]) => n <= 2048 << data[0]), at, "too few lanes", LimitError);
  const planes = streams.flatMap(([bits], stream) =>
    [0, 8].filter((shift) => bits > shift).map((shift) => ({ stream, shift, bits: Math.min(bits - shift, 8) })),
  );
  const bits = new Bits(data, 1, at);
  for (const plane of planes) readStructure(bits, plane, at);
  readTables(bits, planes, at);
  need(!bits.take(-bits.position & 7), at, "padding that is not 0");

  const start = bits.position / 8;
  const lanes = 1 << data[0];
  need(data.length >= start + 4 * lanes && (data.length - start) % 2 === 0, at, "size of states and words");
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const states = Uint32Array.from({ length: lanes }, (_, lane) => view.getUint32(start + 4 * lane, true));
  need(
    states.every((s) => s >= 65536),
    at,
    "a state below 2^16",
  );
  let next = start + 4 * lanes;
  const codes = streams.map(([, n]) => new Uint16Array(n));
  const raw = new Uint8Array(planes.reduce((sum, plane) => sum + codes[plane.stream].length, 0));
  let out = 0;
  for (const { stream, shift, sources, thresholds, symbols, frequencies, starts } of planes) {
    const own = codes[stream];
    const contexts = new Uint8Array(own.length);
    if (thresholds.length) {
      const sums = new Uint32Array(own.length);
      for (const source of sources) for (let i = 0; i < sums.length; i++) sums[i] += codes[source][i];
      for (const threshold of thresholds) for (let i = 0; i < sums.length; i++) if (threshold <= sums[i]) contexts[i]++;
    }
    for (let i = 0; i < own.length; i++) {
      const lane = i & (lanes - 1);
      const slot = states[lane] & 4095;
      const symbol = symbols[(contexts[i] << 12) | slot];
      const row = (contexts[i] << 8) | symbol;
      let s = frequencies[row] * (states[lane] >>> 12) + slot - starts[row];
      if (s < 65536) {
        need(next < data.length, at, "too few words");
        s = 65536 * s + (data[next] | (data[next + 1] << 8));
        next += 2;
      }
      states[lane] = s;
      raw[out + i] = symbol;
    }
    for (let i = 0; i < own.length; i++) own[i] |= raw[out + i] << shift;
    out += own.length;
  }
  need(next === data.length, at, "words are left");
  need(
    states.every((s) => s === 65536),
    at,
    "a state does not end at 2^16",
  );
  return raw;
}

function readStructure(bits, plane, at) {
  const number = bits.take(4);
  plane.sources = [];
  for (let s = 0; number && s < plane.stream + (plane.shift ? 1 : 0); s++) if (bits.take(1)) plane.sources.push(s);
  need(plane.sources.length || !number, at, "thresholds without a source");
  plane.thresholds = [];
  for (let i = 0; i < number; i++) {
    plane.thresholds.push((plane.thresholds[i - 1] ?? 0) + 1 + bits.low(Math.min(bits.zeros(), 13) + 4, 4));
    need(plane.thresholds[i] <= 65535, at, "a threshold above 65,535");
  }
  plane.orders = [];
  for (let i = 0; i <= number; i++) plane.orders.push(bits.take(1) ? null : bits.take(2));
}

function readTables(bits, planes, at) {
  const wanted = planes.flatMap((plane) =>
    plane.orders.map((order) => ({ order, lengths: new Array(order === null ? 0 : 2 ** plane.bits) })),
  );
  for (const { order, lengths } of wanted) {
    for (let i = 0; i < lengths.length; i++) {
      lengths[i] = bits.zeros() + order;
      need(lengths[i] <= 6, at, "a difference of more than 6 bits");
    }
  }
  const tables = wanted.map(({ order, lengths }) => lengths.map((length) => bits.low(length, order)));
  let number = 0;
  for (const plane of planes) {
    // By context: the symbol of every slot, and the frequency and first slot of every symbol.
    plane.symbols = new Uint8Array(plane.orders.length << 12);
    plane.frequencies = new Uint16Array(plane.orders.length << 8);
    plane.starts = new Uint16Array(plane.orders.length << 8);
    plane.orders.forEach((order, context) => {
      const table = order === null ? flat(plane.bits) : frequencies(tables[number], at);
      let first = 0;
      table.forEach((frequency, symbol) => {
        plane.frequencies[(context << 8) | symbol] = frequency;
        plane.starts[(context << 8) | symbol] = first;
        plane.symbols.fill(symbol, (context << 12) + first, (context << 12) + (first += frequency));
      });
      number++;
    });
  }
}

const flat = (bits) => new Array(2 ** bits).fill(4096 / 2 ** bits);

function frequencies(differences, at) {
  let q = 0;
  const weights = differences.map((u) => {
    q += u % 2 ? -(u + 1) / 2 : u / 2;
    need(q >= 0, at, "a log-weight below 0");
    need(q <= 48, at, "a log-weight above 48", LimitError);
    return q ? (4 + ((q - 1) % 4)) << Math.floor((q - 1) / 4) : 0;
  });
  const sum = weights.reduce((a, b) => a + b, 0);
  need(sum > 0, at, "a table without symbols");
  const room = 4096 - weights.filter((w) => w > 0).length;
  const found = weights.map((w) => (w ? 1 + Math.floor((w * room) / sum) : 0));
  found[found.indexOf(Math.max(...found))] += 4096 - found.reduce((a, b) => a + b, 0);
  return found;
}
