// Who draws when: chunks are decoded and images drawn a few milliseconds per frame, the wanted ones first, and what is no longer
// wanted not at all. With WebGL2 many small images are drawn side by side and then copied; without it the worker draws.

import { packed, seen } from "./gaussians.mjs";
import { Gl } from "./gl.mjs";

const SIDE = 1024; // of the canvas for WebGL2: no image is drawn larger
const [SHORT, LONG] = [8, 16]; // milliseconds of drawing in a frame, between which the work stays as it is
const [LEAST, MOST] = [1e6, 4e8]; // work of a frame: pixels times Gaussians
const HEAVY = 1e9; // work of an image that the worker, which knows what no Gaussian reaches, draws in any case
const PIXELS = 1 << 16; // that the worker draws at a time
const KEPT = 96 * 2 ** 20; // bytes of decoded chunks
export const LARGEST = SIDE;

export class Painter {
  /**
   * @param {function} ask of the worker: (what, value) to a promise
   * @param {object} header what the worker says of the file
   * @param {Promise} first the first chunk, which was asked for already; null where there is none
   * @param {string} choice "canvas": not with WebGL2; "webgl": also where no GPU computes it, which the worker does faster
   * @param {function} failed what to do with an error
   */
  constructor(ask, header, first, choice, failed) {
    Object.assign(this, { ask, header, failed, gl: null, budget: 2 * LEAST, jobs: [], first: 0, chunks: new Map(), asked: true, scheduled: false });
    first.then((chunk) => {
      this.asked = false;
      if (chunk) this.keep(0, chunk);
      else this.schedule();
    });
    this.firsts = [0];
    for (const images of header.images) this.firsts.push(this.firsts.at(-1) + images);
    if (choice !== "canvas") this.start(choice === "webgl");
  }

  start(software) {
    try {
      this.gl = new Gl(SIDE, software);
      this.gl.canvas.addEventListener("webglcontextlost", () => this.lost());
    } catch {
      this.gl = null;
    }
  }

  /** A driver may take WebGL2 away, from who worked it too hard, for one: the worker goes on. */
  lost() {
    this.gl = null;
    for (const job of this.jobs) job.line = 0;
    this.schedule();
  }

  /**
   * Draws an image onto the 2D canvas of a `job` { context, left, top, width, height, image, view, wanted }; `wanted` says whether it
   * still is, `done`, where given, is called at the end with the height and width that were computed, fewer where it is too much.
   */
  add(job) {
    this.jobs.push({ line: 0, ...job });
    this.schedule();
  }

  schedule() {
    if (this.scheduled || !this.jobs.length) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.jobs = this.jobs.filter((job) => job.wanted());
      if (this.gl) this.drawSome();
      else this.drawElsewhere();
    });
  }

  /** The Gaussians of an image; null while its chunk is not there, which is then asked for. */
  values(image) {
    const number = this.chunkOf(image);
    const chunk = this.chunks.get(number);
    if (!chunk) {
      this.want(number);
      return null;
    }
    this.chunks.delete(number); // to the end of the line of those that go
    this.chunks.set(number, chunk);
    const at = image - this.firsts[number];
    const row = 5 + this.header.channels;
    return chunk.values.subarray(row * chunk.starts[at], row * chunk.starts[at + 1]);
  }

  /** Of an image with a soft label whose chunk is there, [class, share] of the largest weights; else nothing. */
  leading(image) {
    const number = this.chunkOf(image);
    const { classes, shares } = this.chunks.get(number)?.leading ?? { classes: [], shares: [] };
    const each = shares.length / this.header.images[number];
    const from = each * (image - this.firsts[number]);
    return Array.from(shares.slice(from, from + each), (share, i) => [classes[from + i], share]).filter(([, share]) => share > 0);
  }

  chunkOf(image) {
    let [low, high] = [0, this.firsts.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.firsts[middle] <= image) low = middle;
      else high = middle;
    }
    return low;
  }

  async want(number) {
    if (this.asked) return;
    this.asked = true;
    try {
      this.keep(number, await this.ask("chunk", number));
    } catch (error) {
      this.failed(error);
    } finally {
      this.asked = false;
    }
  }

  /** Keeps a decoded chunk, and those before it that were used last, as many as there is room for. */
  keep(number, { starts, values, leading }) {
    const size = values.byteLength + starts.byteLength + (leading ? leading.classes.byteLength + leading.shares.byteLength : 0);
    this.chunks.set(number, { starts, values, leading, size });
    let kept = 0;
    for (const chunk of this.chunks.values()) kept += chunk.size;
    for (const [old, chunk] of this.chunks) {
      if (kept <= KEPT || old === number) break;
      kept -= chunk.size;
      this.chunks.delete(old);
    }
    this.schedule();
  }

  /** One frame of WebGL2: parts of images, placed on its canvas like words on lines, until time is up. */
  drawSome() {
    const started = performance.now();
    const placed = [];
    let [left, top, high, work] = [0, 0, 0, 0];
    const { budget } = this;
    let waiting = 0;
    for (const job of this.jobs) {
      const values = this.values(job.image);
      if (!values) {
        if (++waiting > 256) break;
        continue;
      }
      const gaussians = values.length / (5 + this.header.channels) + 2;
      job.heavy = gaussians * job.height * job.width > HEAVY;
      if (job.heavy) continue;
      job.texels ??= packed(this.header, seen(values, this.header.channels, job.view), job.height, job.width);
      while (job.line < job.height) {
        const lines = Math.min(job.height - job.line, Math.max(1, Math.floor((budget - work) / (gaussians * job.width))));
        if (placed.length && work + lines * job.width * gaussians > budget) break;
        if (left + job.width > SIDE) [left, top, high] = [0, top + high, 0];
        if (top + lines > SIDE) break;
        this.gl.draw(this.header, job.texels, left, top, job.width, job.line, lines);
        placed.push([job, left, top, job.line, lines]);
        job.line += lines;
        left += job.width;
        high = Math.max(high, lines);
        work += lines * job.width * gaussians;
      }
      if (job.line < job.height) break;
    }
    if (placed.length) {
      this.gl.read(0, 0, 1, 1);
      if (this.gl.gl.isContextLost()) return this.lost(); // before any job of this frame counts as done
      const took = performance.now() - started;
      if (took > LONG) this.budget = Math.max(LEAST, budget / 2);
      else if (took < SHORT && work > budget / 2) this.budget = Math.min(MOST, 2 * budget);
      for (const [job, x, y, line, lines] of placed) {
        job.context.clearRect(job.left, job.top + line, job.width, lines);
        job.context.drawImage(this.gl.canvas, x, y, job.width, lines, job.left, job.top + line, job.width, lines);
        if (job.line >= job.height) this.finish(job);
      }
      this.jobs = this.jobs.filter((job) => job.line < job.height);
    }
    if (this.jobs.some(({ heavy }) => heavy)) this.drawElsewhere();
    if (placed.length) this.schedule();
  }

  /** Without WebGL2, or too heavy for it: as many images at a time as make about one large one, drawn by the worker. */
  async drawElsewhere() {
    if (this.drawing) return;
    this.drawing = true;
    try {
      for (;;) {
        this.jobs = this.jobs.filter((job) => job.wanted());
        const [some, questions] = [[], []];
        let pixels = 0;
        for (const job of this.jobs) {
          const values = this.gl && !job.heavy ? null : this.values(job.image);
          if (!values) continue;
          some.push(job);
          questions.push({ values: values.slice(), height: job.height, width: job.width, view: job.view });
          if ((pixels += job.height * job.width + values.length) >= PIXELS) break;
        }
        if (!some.length) return;
        const pictures = await this.ask("draw", questions);
        const done = some.slice(0, pictures.length);
        done.forEach((job, i) => job.wanted() && this.put(job, pictures[i]));
        this.jobs = this.jobs.filter((job) => !done.includes(job));
      }
    } catch (error) {
      this.failed(error);
    } finally {
      this.drawing = false;
    }
  }

  put(job, { rgba, height, width }) {
    const scratch = document.createElement("canvas");
    [scratch.width, scratch.height] = [width, height];
    scratch.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
    job.context.clearRect(job.left, job.top, job.width, job.height);
    job.context.drawImage(scratch, job.left, job.top, job.width, job.height);
    this.finish(job, [height, width]);
  }

  finish(job, computed = [job.height, job.width]) {
    if (!this.first) this.first = performance.now(); // milliseconds after the page began to load
    job.done?.(computed);
  }

  /** RGBA bytes of an image, drawn at once: for tests. */
  async pixels(image, height, width) {
    while (!this.values(image)) await new Promise((resolve) => setTimeout(resolve, 5));
    const values = this.values(image);
    if (!this.gl) return Array.from((await this.ask("draw", [{ values: values.slice(), height, width }]))[0].rgba);
    this.gl.draw(this.header, packed(this.header, values, height, width), 0, 0, width, 0, height);
    return Array.from(this.gl.read(0, 0, width, height));
  }
}
