// One zstd frame, held to the rules of FORMAT.md before fzstd sees it. What fzstd does not check itself (sizes, what follows the
// frame) is checked here.

import { FormatError, LimitError, need } from "./errors.mjs";
import { Decompress } from "./vendor/fzstd.mjs";

/** The content of a frame at byte `at` of the file: `size` bytes where that is known, else at most `limit`. */
export function unzstd(frame, at, limit, size = null) {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const bad = "header of a zstd frame";
  need(frame.length > 4 && view.getUint32(0) === 0x28b52ffd && (frame[4] & 31) === 0, at, bad);
  const single = (frame[4] & 32) !== 0;
  const sizeBytes = frame[4] >> 6 ? 1 << (frame[4] >> 6) : Number(single);
  need(sizeBytes > 0, at, "zstd frame without content size");
  const first = 5 + Number(!single);
  need(frame.length >= first + sizeBytes, at, bad);
  let content = sizeBytes === 2 ? 256 : 0;
  for (let i = 0; i < sizeBytes; i++) content += frame[first + i] * 2 ** (8 * i);
  const base = 2 ** (10 + (frame[5] >> 3));
  const window = single ? content : base + (base / 8) * (frame[5] & 7);
  need(content <= limit && window <= 1 << 24, at, "zstd frame asks for too much", LimitError);
  need(frame.length < content && (size === null || size === content), at, "content size of a zstd frame");
  need(frameEnd(frame, first + sizeBytes) === frame.length, at, "not one whole zstd frame");
  // fzstd believes a declared size, so it gets a header without one: window of a power of two, no smaller than a block.
  const blocks = frame.subarray(first + sizeBytes);
  const plain = new Uint8Array(6 + blocks.length);
  const exponent = Math.max(17, Math.ceil(Math.log2(window)));
  plain.set([0x28, 0xb5, 0x2f, 0xfd, 0, (exponent - 10) << 3]);
  plain.set(blocks, 6);
  const result = new Uint8Array(content);
  let length = 0;
  try {
    const decoder = new Decompress((part) => {
      result.set(part, length); // a RangeError where it is too much
      length += part.length;
    });
    decoder.push(plain, true);
  } catch (error) {
    throw new FormatError(at, `zstd: ${error.message}`);
  }
  need(length === content, at, "zstd content of another size");
  return result;
}

/** Where the last block of a frame ends; -1 where a block is not as it must be. */
function frameEnd(frame, at) {
  for (;;) {
    if (at + 3 > frame.length) return -1;
    const header = frame[at] | (frame[at + 1] << 8) | (frame[at + 2] << 16);
    const [type, size] = [(header >> 1) & 3, header >> 3];
    if (type === 3 || size > 131072) return -1;
    at += 3 + (type === 1 ? 1 : size);
    if (header & 1) return at;
  }
}
