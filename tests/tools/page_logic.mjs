// node tests/tools/page_logic.mjs FILE.gsd...    what the page computes without a browser; prints the byte table of each file

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { render } from "../../spec/js/render.mjs";
import { WHOLE, ellipses, packed, reached, seen } from "../../tools/gsdata_tools/web/gaussians.mjs";
import { between, byClass, fitted, found, layOut, moved } from "../../tools/gsdata_tools/web/layout.mjs";
import { visible } from "../../tools/gsdata_tools/web/texts.mjs";
import { Store, serve } from "../../tools/gsdata_tools/web/store.mjs";

const header = { antialias: "box-normalized", background: [0.25], channels: 1, size: [8, 12] };
// x, y, l11, l21, l22, colour
const values = Float32Array.from([-0.5, 0.25, 2, 1, 0.5, 0.75, 0.3, -0.8, 0.7, -0.6, 1.5, -0.5, 0.9, 0.9, 4, 0, 3, 0.25]);
const near = (a, b, far = 1e-5) => assert.ok(Math.abs(a - b) <= far * (1 + Math.abs(b)), `${a} is not ${b}`);

// A window of an enlarged image is a part of the whole image drawn at that size.
assert.equal(seen(values, 1, WHOLE), values);
const large = render(header, values, 8 * 8, 12 * 8);
const window = render(header, seen(values, 1, { zoom: 4, x: 0.25, y: 0.5 }), 8 * 2, 12 * 2);
for (let i = 0; i < 16; i++) for (let j = 0; j < 24; j++) near(window[24 * i + j], large[96 * (i + 32) + j + 24]);

// The shader's numbers give the reference's pixels.
const texels = packed(header, values, 16, 24);
const expected = render(header, values, 16, 24);
for (let i = 0; i < 16; i++) {
  for (let j = 0; j < 24; j++) {
    let sum = header.background[0];
    for (let g = 0; g < texels.length; g += 12) {
      const d = (j + 0.5 - texels[g]) * texels[g + 2];
      const e = (i + 0.5 - texels[g + 1]) * texels[g + 3] - texels[g + 4] * d;
      sum += Math.max(0, (Math.exp(-(d * d + e * e) / 2) - 2 ** -10) / (1 - 2 ** -10)) * texels[g + 8];
    }
    near(sum, expected[24 * i + j]);
  }
}

// An ellipse is the square root of L Lᵀ: its axes give the matrix back.
ellipses(header, values, 16, 24).forEach(({ x, y, long, short, angle }, g) => {
  const [mx, my, ...l] = values.subarray(6 * g);
  const [a, b, c] = [2 * l[0], 2 * l[1], 2 * l[2]];
  const [s, t] = [Math.sin(angle), Math.cos(angle)];
  near(x, 12 * (mx + 1));
  near(y, 8 * (my + 1));
  near(long ** 2 * t * t + short ** 2 * s * s, a * a);
  near((long ** 2 - short ** 2) * s * t, a * b);
  near(long ** 2 * s * s + short ** 2 * t * t, b * b + c * c);
  assert.ok(long >= short);
});
assert.ok(reached(header, values, 16, 24) <= 16 * 24 * 4);
assert.equal(reached(header, values.subarray(0, 0), 16, 24), 16 * 24);

// Classes: in order, those without one last; searched in any case, word by word.
const groups = byClass(Int32Array.from([2, 0, -1, 2, 0]), ["red ant", "bee", "Ant lion"]);
const listed = (found) => found.map(({ name, images }) => [name, ...images]);
assert.deepEqual(listed(groups), [["red ant", 1, 4], ["Ant lion", 0, 3], ["without a class", 2]]);
assert.deepEqual(byClass(new Int32Array(0), ["a"]), []);
assert.deepEqual(listed(byClass(new Int32Array(2).fill(-1), ["a"])), [["without a class", 0, 1]]);
assert.deepEqual(listed(byClass([7, 65534, 7], [])), [["class 7", 0, 2], ["class 65534", 1]]);
assert.deepEqual(found(groups, " ANT ").map(({ name }) => name), ["red ant", "Ant lion"]);
assert.deepEqual(found(groups, "lion ant").map(({ name }) => name), ["Ant lion"]);
assert.equal(found(groups, "").length, 3);
assert.deepEqual(found(groups, "<b>"), []);

// Layout: every image once, in rows that do not overlap; what is on the screen is found.
const upTo = (end) => Uint32Array.from({ length: end }, (_, i) => i);
const many = [{ name: "a", images: upTo(25) }, { name: "b", images: upTo(28).subarray(25) }];
const { rows, titles, columns, height, shown, left } = layOut(many, 100, [18, 10], 2);
assert.deepEqual([columns, rows.length, titles.length, shown, left], [5, 6, 2, 28, 0]);
assert.deepEqual(rows.flatMap(({ images }) => [...images]), [...upTo(28)]);
assert.deepEqual(rows.map(({ first }) => first), [0, 5, 10, 15, 20, 25]);
for (let i = 1; i < rows.length; i++) assert.ok(rows[i].y >= rows[i - 1].y + 10);
assert.ok(rows.at(-1).y + 10 <= height && titles[1].y > rows[4].y);
assert.deepEqual(between(rows, rows[1].y + 9, rows[3].y + 1, 10), [1, 4]);
assert.deepEqual(between(rows, -500, -100, 10), [0, 0]);
assert.equal(layOut([{ name: "", images: upTo(1) }], 5, [18, 10], 2).columns, 1);
const endless = layOut([{ name: "", images: upTo(100000) }], 500, [500, 500], 2);
assert.ok(endless.height < 9e6 && endless.left > 0 && endless.rows.length + endless.left === 100000);

// Keys: the last row of a group is shorter than others.
const at = (row, column) => ({ row, column });
assert.deepEqual(moved(rows, at(4, 4), "ArrowDown", 3), at(5, 2));
assert.deepEqual(moved(rows, at(4, 4), "ArrowRight", 3), at(5, 0));
assert.deepEqual(moved(rows, at(5, 0), "ArrowLeft", 3), at(4, 4));
assert.deepEqual(moved(rows, at(0, 0), "ArrowLeft", 3), at(0, 0));
assert.deepEqual(moved(rows, at(0, 0), "ArrowUp", 3), at(0, 0));
assert.deepEqual(moved(rows, at(5, 2), "ArrowRight", 3), at(5, 2));
assert.deepEqual(moved(rows, at(1, 2), "PageDown", 3), at(4, 2));
assert.deepEqual(moved(rows, at(1, 2), "End", 3), at(5, 2));
assert.deepEqual(moved(rows, at(1, 2), "Home", 3), at(0, 0));
assert.equal(moved(rows, at(1, 2), "x", 3), null);
assert.equal(moved([], at(0, 0), "End", 3), null);
assert.deepEqual(fitted([8, 12], 24), [16, 24]);
assert.deepEqual(fitted([2, 160], 16), [1, 16]);

// Texts: what cannot be seen is, and what is too long is cut; scripts that are not Latin, their marks and emoji stay as they are.
assert.equal(visible("a\u0000\x1b[2J\x7f\x85\n\t\u2028\u202e\u2066\ufeff\u{e0041}\ud800", 99), "a\\x00\\x1b[2J\\x7f\\x85\\n\\t\\u2028\\u202e\\u2066\\ufeff\\U000e0041\\ud800");
for (const plain of ["", "<b>&'\"`${x}\\", "é e\u0301 大 עברית می\u200cخواهم 👩\u200d🔬", "x".repeat(20)]) assert.equal(visible(plain, 20), plain.slice(0, 20) + (plain.length > 20 ? "…" : ""));
assert.equal(visible("x".repeat(21), 20), `${"x".repeat(20)}…`);

// Files: the byte table, classes and a drawing of each; what a worker answers.
let soft = 0;
const tables = process.argv.slice(2).map((path) => {
  const data = readFileSync(path);
  const answers = [];
  const scope = { postMessage: (message) => answers.push(message) };
  serve(scope);
  scope.onmessage({ data: { id: 1, what: "open", value: data.toString("base64") } });
  scope.onmessage({ data: { id: 2, what: "chunk", value: 10 ** 6 } });
  assert.deepEqual(Object.keys(answers[0]), ["id"]);
  assert.match(answers[2].error, /Error: /);
  const summary = answers[1].answer;
  const store = new Store(data.toString("base64"));
  const images = summary.images.reduce((a, b) => a + b, 0);
  if (images) {
    const { starts, values, leading } = store.chunk(0);
    assert.deepEqual([starts.length, starts[0], starts.at(-1) * (5 + summary.channels)], [summary.images[0] + 1, 0, values.length]);
    store.file.chunk(0).labels.forEach((weights, i) => {
      if (!Array.isArray(weights)) return assert.equal(leading, null);
      const sum = weights.reduce((a, b) => a + b);
      const best = [...weights.keys()].filter((k) => weights[k]).sort((a, b) => weights[b] - weights[a]).slice(0, 5);
      const shares = leading.shares.subarray(5 * i, 5 * i + 5);
      assert.deepEqual([...leading.classes.subarray(5 * i, 5 * i + best.length)], best);
      best.forEach((k, place) => near(shares[place], weights[k] / sum));
      assert.ok(shares.subarray(best.length).every((share) => share === 0));
      soft++;
    });
    const drawn = { values: values.subarray(0, starts[1] * (5 + summary.channels)), height: 5, width: 4 };
    const [{ rgba, height, width }] = store.draw([drawn]);
    assert.deepEqual([rgba.length, height, width], [80, 5, 4]);
    assert.equal(store.draw([drawn, drawn]).length, 2);
    if (summary.channels % 2) assert.ok(rgba.every((byte, i) => i % 4 < 3 || byte === 255));
  }
  // Someone's huge picture is drawn smaller, and not with others.
  if (path.endsWith("large.gsd")) {
    const width = 5 + summary.channels;
    const rows = new Float32Array(20000 * width);
    for (let i = 0; i < rows.length; i += width) rows.set([0, 0, 1e4, 0, 1e4], i);
    const question = { values: rows, height: 512, width: 512 };
    const found = store.draw([question, question]);
    assert.equal(found.length, 1);
    assert.ok(found[0].width < 128 && found[0].rgba.length === 4 * found[0].width * found[0].height);
  }
  return [summary.parts, Array.from(summary.classes), summary.tables];
});
assert.ok(soft > 4);

// Hostile headers: long texts are cut, and what is left out of a table is told.
const hostile = Object.create(Store.prototype);
const raw = new Map([["recipe", new Map()], ["provenance", new Map([["\u202e".repeat(300), "y".repeat(5000)]])]]);
raw.set("metadata", new Map([["a", new Map(Array.from({ length: 500 }, (_, i) => [`${i}`, i]))], ["b", 1]]));
const chunks = { images: [], gaussians: [] };
hostile.file = { header: { chunks, raw, classes: ["z".repeat(1e6)], sections: [], layout: "hard" }, data: [], table: [] };
const said = hostile.summary();
assert.ok(said.names[0].length < 300);
assert.deepEqual(said.tables[1][1][0].map((text) => text.length), [6 * 200 + 1, 401]);
assert.equal(said.tables[2][1].length, 201);
assert.deepEqual(said.tables[2][1].slice(-2).map(([name]) => name), ["a.199", "…"]);
console.log(JSON.stringify(tables));
