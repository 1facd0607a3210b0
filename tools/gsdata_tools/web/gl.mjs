// Drawing with WebGL2: every pixel adds up all Gaussians of its image, so there is nothing to blend and nothing but 32-bit floats.

import { PER_ROW, TEXELS } from "./gaussians.mjs";

const VERTICES = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0); }`;

const PIXELS = `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
uniform sampler2D gaussians;
uniform int count, channels;
uniform vec4 background;
uniform vec2 corner;
out vec4 color;
void main() {
  vec2 at = vec2(gl_FragCoord.x - corner.x, corner.y - gl_FragCoord.y);
  vec4 sum = background;
  for (int i = 0; i < count; i++) {
    ivec2 place = ivec2(${TEXELS} * (i % ${PER_ROW}), i / ${PER_ROW});
    vec4 a = texelFetch(gaussians, place, 0);
    float d = (at.x - a.x) * a.z;
    float e = (at.y - a.y) * a.w - texelFetch(gaussians, place + ivec2(1, 0), 0).x * d;
    float q = d * d + e * e;
    if (q < ${(20 * Math.LN2).toFixed(7)}) {
      float w = (exp(-0.5 * q) - ${2 ** -10}) / ${1 - 2 ** -10};
      sum += max(w, 0.0) * texelFetch(gaussians, place + ivec2(2, 0), 0);
    }
  }
  sum = roundEven(clamp(sum, 0.0, 1.0) * 255.0) / 255.0;
  if (channels == 1) color = vec4(sum.rrr, 1.0);
  else if (channels == 2) color = vec4(sum.rrr, sum.g);
  else color = vec4(sum.rgb, channels == 3 ? 1.0 : sum.a);
}`;

export class Gl {
  /**
   * Throws where there is no WebGL2.
   * @param {number} side of the canvas, the largest width and height of a drawing
   * @param {boolean} software whether a CPU may do it
   */
  constructor(side, software) {
    this.canvas = document.createElement("canvas");
    this.canvas.width = this.canvas.height = side;
    const options = { antialias: false, depth: false, premultipliedAlpha: false };
    const gl = this.canvas.getContext("webgl2", options);
    if (!gl) throw new Error("no WebGL2");
    const named = gl.getExtension("WEBGL_debug_renderer_info");
    const renderer = named ? gl.getParameter(named.UNMASKED_RENDERER_WEBGL) : "";
    if (!software && /swiftshader|llvmpipe|softpipe|basic render/i.test(renderer)) throw new Error("no GPU");
    this.gl = gl;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTICES], [gl.FRAGMENT_SHADER, PIXELS]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error("the shader does not compile");
    gl.useProgram(program);
    this.uniform = Object.fromEntries(["count", "channels", "background", "corner"].map((name) => [name, gl.getUniformLocation(program, name)]));
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    this.rows = 0; // of the texture
    gl.enable(gl.SCISSOR_TEST);
  }

  /**
   * Draws `lines` lines of an image from `line` on, with the left upper corner at `left`, `top` of the canvas.
   * @param {Float32Array} texels as `packed` makes them
   */
  draw(header, texels, left, top, width, line, lines) {
    const { gl, uniform } = this;
    this.upload(texels);
    const side = this.canvas.height;
    gl.viewport(left, side - top - lines, width, lines);
    gl.scissor(left, side - top - lines, width, lines);
    gl.uniform1i(uniform.count, texels.length / (4 * TEXELS));
    gl.uniform1i(uniform.channels, header.channels);
    gl.uniform4fv(uniform.background, [...header.background, 0, 0, 0].slice(0, 4));
    gl.uniform2f(uniform.corner, left, side - top + line);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  upload(texels) {
    if (texels === this.uploaded) return; // the next lines of the same image
    this.uploaded = texels;
    const { gl } = this;
    const count = texels.length / (4 * TEXELS);
    const rows = Math.max(1, Math.ceil(count / PER_ROW));
    if (rows > this.rows) {
      this.rows = rows;
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, TEXELS * PER_ROW, rows, 0, gl.RGBA, gl.FLOAT, null);
    }
    for (let row = 0; row * PER_ROW < count; row++) {
      const here = Math.min(PER_ROW, count - row * PER_ROW);
      const part = texels.subarray(4 * TEXELS * PER_ROW * row, 4 * TEXELS * (PER_ROW * row + here));
      gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, row, TEXELS * here, 1, gl.RGBA, gl.FLOAT, part);
    }
  }

  /** RGBA bytes of a part of the canvas, from its left upper corner on. Waits until everything is drawn. */
  read(left, top, width, height) {
    const { gl } = this;
    const [bottomUp, result] = [new Uint8Array(4 * width * height), new Uint8ClampedArray(4 * width * height)];
    gl.readPixels(left, this.canvas.height - top - height, width, height, gl.RGBA, gl.UNSIGNED_BYTE, bottomUp);
    for (let i = 0; i < height; i++) result.set(bottomUp.subarray(4 * width * i, 4 * width * (i + 1)), 4 * width * (height - 1 - i));
    return result;
  }
}
