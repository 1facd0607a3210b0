// node spec/js/check.mjs spec/vectors      this reader against the vectors; exit 0 where all agree

import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";

import { describe } from "./describe.mjs";
import { FormatError } from "./errors.mjs";
import { render, toByte } from "./render.mjs";

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
