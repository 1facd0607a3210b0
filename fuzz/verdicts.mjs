// What the reader in JavaScript makes of many files: standard input is a u32 of the length and the bytes of each, one after another,
// and each gets a line: seconds of a processor, then "read" and a digest of what it holds, "refused" and the error, or "crash" and what was thrown.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

import { describe } from "../spec/js/describe.mjs";
import { FormatError } from "../spec/js/errors.mjs";

function verdict(data) {
  try {
    const { content_id, counts, labels, gaussians_sha256, sections } = describe(data).found;
    const held = JSON.stringify([content_id, counts, labels, gaussians_sha256, sections]);
    return `read ${createHash("sha256").update(held).digest("hex")}`;
  } catch (error) {
    return error instanceof FormatError ? `refused ${error.name}` : `crash ${String(error.stack).replaceAll("\n", " | ")}`;
  }
}

const input = readFileSync(0);
for (let at = 0; at < input.length; ) {
  const end = at + 4 + input.readUInt32LE(at);
  const start = process.cpuUsage();
  const said = verdict(new Uint8Array(input.subarray(at + 4, end)));
  const { user, system } = process.cpuUsage(start);
  console.log(`${((user + system) / 1e6).toFixed(3)} ${said}`);
  at = end;
}
