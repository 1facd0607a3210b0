// Gaussians, before they are drawn: seen through a window, as numbers for the shader, as ellipses. No browser is needed here.
//
// `values` are rows of 5 + C numbers, x, y, l11, l21, l22, colours, as the reader has them. A `view` is { zoom, x, y }: the image
// `zoom` times as large, of which the window begins at x, y, in widths and heights of the image from its left upper corner.

export const WHOLE = { zoom: 1, x: 0, y: 0 };
const REACH = Math.sqrt(20 * Math.LN2); // of the kernel, in standard deviations (FORMAT.md, "Rendering")
export const TEXELS = 3; // for each Gaussian
export const PER_ROW = 512; // Gaussians in a row of the texture

/** Gaussians as a window shows them: scaled before they are drawn, so that no zoom has pixels to enlarge. */
export function seen(values, channels, { zoom, x, y } = WHOLE) {
  if (zoom === 1 && x === 0 && y === 0) return values;
  const result = new Float32Array(values);
  for (let row = 0; row < values.length; row += 5 + channels) {
    result[row] = zoom * (values[row] + 1 - 2 * x) - 1;
    result[row + 1] = zoom * (values[row + 1] + 1 - 2 * y) - 1;
    for (let i = 2; i < 5; i++) result[row + i] = zoom * values[row + i];
  }
  return result;
}

/** Mean, Cholesky factor and reach in pixels, and amplitude, of the Gaussian in a row, as FORMAT.md has them ("Rendering", 1 to 3). */
function placed({ antialias, size: [h0, w0] }, values, row, height, width) {
  const v = antialias === "none" ? 1e-4 : 1 / 12;
  const [a, b, c] = [(values[row + 2] * width) / w0, (values[row + 3] * height) / h0, (values[row + 4] * height) / h0];
  const p = Math.sqrt(a * a + v);
  const root = Math.sqrt((a * c) ** 2 + v * (a * a + b * b + c * c) + v * v); // of the determinant
  return {
    x: ((values[row] + 1) * width) / 2,
    y: ((values[row + 1] + 1) * height) / 2,
    p,
    q: (a * b) / p,
    r: root / p,
    amplitude: antialias === "box-normalized" ? (a * c) / root : 1,
    reach: [REACH * p, REACH * Math.sqrt(b * b + c * c + v)],
    sigma: [a, b, c],
  };
}

/** About how many pixels, over all Gaussians, have to be computed. */
export function reached(header, values, height, width) {
  let sum = height * width;
  for (let row = 0; row < values.length; row += 5 + header.channels) {
    const { x, y, reach } = placed(header, values, row, height, width);
    const side = (middle, half, end) => Math.max(0, Math.min(end, middle + half + 1) - Math.max(0, middle - half - 1));
    sum += side(x, reach[0], width) * side(y, reach[1], height);
  }
  return sum;
}

/** Texels for the shader: (x, y, 1/p, 1/r), (q/r, 0, 0, 0) and the colours times the amplitude. */
export function packed(header, values, height, width) {
  const row = 5 + header.channels;
  const result = new Float32Array(4 * TEXELS * (values.length / row));
  for (let i = 0, at = 0; i < values.length; i += row, at += 4 * TEXELS) {
    const { x, y, p, q, r, amplitude } = placed(header, values, i, height, width);
    result.set([x, y, 1 / p, 1 / r, q / r], at);
    for (let k = 0; k < header.channels; k++) result[at + 8 + k] = amplitude * values[i + 5 + k];
  }
  return result;
}

/** The ellipses of one standard deviation of what is stored (nothing is added for the pixels): centre, two radii, angle. */
export function ellipses(header, values, height, width) {
  const result = [];
  for (let row = 0; row < values.length; row += 5 + header.channels) {
    const { x, y, sigma: [a, b, c] } = placed(header, values, row, height, width);
    // Eigenvalues of L Lᵀ = [[a², ab], [ab, b² + c²]].
    const [xx, xy, yy] = [a * a, a * b, b * b + c * c];
    const [middle, half] = [(xx + yy) / 2, Math.hypot((xx - yy) / 2, xy)];
    const angle = Math.atan2(2 * xy, xx - yy) / 2;
    result.push({ x, y, long: Math.sqrt(middle + half), short: Math.sqrt(Math.max(0, middle - half)), angle });
  }
  return result;
}
