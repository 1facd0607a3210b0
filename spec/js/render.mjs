// Rendering (FORMAT.md, "Rendering"), in float64.

const EPSILON = 2 ** -10;
const REACH = Math.sqrt(20 * Math.LN2); // beyond it, in standard deviations, the kernel is 0

/**
 * One image.
 * @param header `GsdFile.header`
 * @param {Float32Array} values rows of its Gaussians, as `GsdFile.chunk` has them
 * @returns {Float64Array} pixels, channel by channel and row by row
 */
export function render({ antialias, background, channels, size: [h0, w0] }, values, height, width) {
  const pixels = new Float64Array(channels * height * width);
  for (let c = 0; c < channels; c++) pixels.fill(background[c], c * height * width, (c + 1) * height * width);
  const v = antialias === "none" ? 1e-4 : 1 / 12;
  for (let row = 0; row < values.length; row += 5 + channels) {
    const [x, y, l11, l21, l22] = values.subarray(row, row + 5);
    const [a, b, c] = [(l11 * width) / w0, (l21 * height) / h0, (l22 * height) / h0]; // S L
    const p = Math.sqrt(a * a + v); // L' = [[p, 0], [q, r]]; the determinant without cancellation
    const determinant = (a * c) ** 2 + v * (a * a + b * b + c * c) + v * v;
    const [q, r] = [(a * b) / p, Math.sqrt(determinant) / p];
    const amplitude = antialias === "box-normalized" ? (a * c) / Math.sqrt(determinant) : 1;
    const [mx, my] = [((x + 1) * width) / 2, ((y + 1) * height) / 2];
    const [rx, ry] = [REACH * p, REACH * Math.sqrt(b * b + c * c + v)];
    const bottom = Math.min(height - 1, Math.ceil(my + ry));
    const right = Math.min(width - 1, Math.ceil(mx + rx));
    for (let i = Math.max(0, Math.floor(my - ry) - 1); i <= bottom; i++) {
      for (let j = Math.max(0, Math.floor(mx - rx) - 1); j <= right; j++) {
        const d = (j + 0.5 - mx) / p;
        const e = (i + 0.5 - my - q * d) / r;
        const w = (Math.exp(-(d * d + e * e) / 2) - EPSILON) / (1 - EPSILON);
        if (w <= 0) continue;
        for (let k = 0; k < channels; k++) pixels[(k * height + i) * width + j] += amplitude * w * values[row + 5 + k];
      }
    }
  }
  return pixels;
}

/** A pixel in 8-bit output: rounded to nearest, ties to even. */
export function toByte(pixel) {
  const scaled = Math.min(Math.max(pixel, 0), 1) * 255;
  const low = Math.floor(scaled);
  return scaled - low === 0.5 ? low + (low % 2) : Math.round(scaled);
}
