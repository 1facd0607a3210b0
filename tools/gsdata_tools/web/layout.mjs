// Where the images of a grid lie. Rows of images are all as high as another; a group begins with its title. No browser is needed here.

export const TITLE = 44;
const HIGHEST = 8e6; // pixels; browsers cannot scroll much further than twice that

/** Images by class: [{ name, images }], those without a class last. `classes` is the class of every image, -1 where there is none. */
export function byClass(classes, names) {
  let count = 1;
  for (let image = 0; image < classes.length; image++) count = Math.max(count, classes[image] + 2);
  const place = (k) => (k < 0 ? count - 1 : k);
  const starts = new Uint32Array(count + 1);
  for (let image = 0; image < classes.length; image++) starts[place(classes[image]) + 1]++;
  for (let i = 0; i < count; i++) starts[i + 1] += starts[i];
  const [order, next] = [new Uint32Array(classes.length), starts.slice()];
  for (let image = 0; image < classes.length; image++) order[next[place(classes[image])]++] = image;
  const groups = [];
  for (let i = 0; i < count; i++) {
    const images = order.subarray(starts[i], starts[i + 1]);
    if (images.length) groups.push({ name: i === count - 1 ? "without a class" : (names[i] ?? `class ${i}`), images });
  }
  return groups;
}

/** Groups whose name has all words of the text in it, in any case. */
export function found(groups, text) {
  const words = text.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  return groups.filter(({ name }) => words.every((word) => name.toLocaleLowerCase().includes(word)));
}

/**
 * Rows of images for a grid that is `width` pixels wide.
 * @param {[number, number]} cell width and height of an image
 * @returns `rows` with y, images and the number of images before them, `titles` with y, name and count, `columns`, `height`, and
 *   how many images found room and how many did not
 */
export function layOut(groups, width, [cellWidth, cellHeight], gap) {
  const columns = Math.max(1, Math.floor((width + gap) / (cellWidth + gap)));
  const [rows, titles] = [[], []];
  let [y, shown] = [0, 0];
  for (const { name, images } of groups) {
    if (y > HIGHEST) break;
    titles.push({ y, name, count: images.length });
    y += TITLE;
    for (let i = 0; i < images.length && y <= HIGHEST; i += columns, y += cellHeight + gap) {
      rows.push({ y, images: images.subarray(i, i + columns), first: shown });
      shown += rows.at(-1).images.length;
    }
    y += 20;
  }
  const all = groups.reduce((sum, { images }) => sum + images.length, 0);
  return { rows, titles, columns, height: y, shown, left: all - shown };
}

/** The part of a list with ascending y that reaches into [top, bottom); no item is higher than `tall`. */
export function between(items, top, bottom, tall) {
  const first = (y) => {
    let [low, high] = [0, items.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (items[middle].y < y) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  return [first(top - tall), first(bottom)];
}

/** Where a key leads from { row, column }: another place of the same grid; null where the key means nothing. */
export function moved(rows, { row, column }, key, page) {
  const at = (r, c) => {
    const kept = Math.min(Math.max(r, 0), rows.length - 1);
    return { row: kept, column: Math.min(c, rows[kept].images.length - 1) };
  };
  if (!rows.length) return null;
  if (key === "ArrowDown") return at(row + 1, column);
  if (key === "ArrowUp") return at(row - 1, column);
  if (key === "PageDown") return at(row + page, column);
  if (key === "PageUp") return at(row - page, column);
  if (key === "Home") return at(0, 0);
  if (key === "End") return at(rows.length - 1, Infinity);
  if (key === "ArrowRight") return column + 1 < rows[row].images.length ? at(row, column + 1) : row + 1 < rows.length ? at(row + 1, 0) : at(row, column);
  if (key === "ArrowLeft") return column > 0 ? at(row, column - 1) : row > 0 ? at(row - 1, Infinity) : at(row, column);
  return null;
}

/** Height and width of an image whose longer side has `side` pixels. */
export function fitted([h0, w0], side) {
  const scale = side / Math.max(h0, w0);
  return [Math.max(1, Math.round(h0 * scale)), Math.max(1, Math.round(w0 * scale))];
}
