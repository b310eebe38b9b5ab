/** Draws minidetr's construction sites, as minidetr/scenes does in Python: things in metres on a flat ground, from far to near. */

import { noiseAt, type Tiles } from './noise';

type Triple = [number, number, number];
export type Shape = ['polygon' | 'ellipse' | 'bar', number[], number[]];

export interface Light { zenith: Triple; haze: Triple; tint: Triple; shadow: number; visibility: number; clouds: number }
export interface Item { category: number; across: number; depth: number; facing: number; shapes: Shape[]; /** Taken out of the scene. */ gone?: boolean }
export interface Scene {
  seed: number; light: number; ground: Triple; horizon: number; camera_height: number; focal: number; roughness: number;
  sun: number; exposure: number; contrast: number; grain: number; offset: number[]; cast: Triple; items: Item[];
  /** How far one sees, in metres, where it is not the light's own. */
  visibility?: number;
}
export interface Stock { lights: Light[]; footprints: Record<string, number>; scenes: Scene[] }
export interface Picture {
  side: number;
  /** RGBA, side x side. */
  pixels: Uint8ClampedArray<ArrayBuffer>;
  /** Segment of each pixel: 1 to 4 stuff, from 5 on the things, from far to near. */
  truth: Uint8Array;
  /** category[segment] of the truth; 0 where there is no such segment. */
  categories: number[];
  /** Which of the scene's items (their place in `items`) each segment from 5 on is. */
  items: Record<number, number>;
}

const SKY = 1, GROUND = 2, BUILDING = 3, VEGETATION = 4;
const SAMPLES = 2; // of the canvas, per pixel in each direction

export const footOf = (scene: Scene, item: Item): [number, number] =>
  [item.across, scene.horizon + (scene.camera_height * scene.focal) / item.depth];

/** The depth in metres at which the ground is seen at height `y` of the image (0..1). */
export const depthAt = (scene: Scene, y: number): number =>
  (scene.camera_height * scene.focal) / Math.max(y - scene.horizon, 0.012);

const clip = (value: number, low: number, high: number) => Math.min(high, Math.max(low, value));

function background(scene: Scene, light: Light, visibility: number, side: number, tiles: Tiles): Float32Array {
  const colours = new Float32Array(side * side * 3);
  const line = Math.round(side * scene.horizon);
  const { haze, zenith, tint } = light, offset = scene.offset, tile = tiles.cloudy;
  for (let y = 0, i = 0; y < side; y++) {
    const up = (y + 0.5) / side;
    const fade = Math.max(0, 1 - up / scene.horizon) ** 0.7;
    const distance = 0.25 / (scene.horizon - up + 0.12);
    const depth = clip((scene.camera_height * scene.focal) / Math.max(up - scene.horizon, 1e-3), 0, 300);
    const clear = Math.exp(-depth / visibility);
    for (let x = 0; x < side; x++, i += 3) {
      const column = (x + 0.5 - side / 2) / side;
      if (y < line) {
        const cloud = noiseAt(tile, offset[0] + 160 * distance, offset[1] + 120 * column * distance);
        const share = clip(clip(cloud * 0.5 + 0.15, 0, 1) * light.clouds * (0.25 + 0.75 * fade), 0, 1);
        for (let c = 0; c < 3; c++) {
          const sky = haze[c] + (zenith[c] - haze[c]) * fade;
          colours[i + c] = sky + ([244, 242, 240][c] * tint[c] - sky) * share;
        }
        continue;
      }
      const across = (column * depth) / scene.focal;
      const bumps = noiseAt(tile, offset[2] + 22 * depth, offset[3] + 22 * across)
        + 0.6 * noiseAt(tile, offset[4] + 3 * depth, offset[5] + 3 * across);
      const turn = across + 0.06 * depth * scene.sun + 2.2 * scene.sun;
      const track = Math.abs(turn - 9 * Math.floor(turn / 9) - 4.5);
      const worn = Math.abs(track - 0.9) < 0.25 && noiseAt(tile, offset[0] + 9 * depth, offset[1] + 9 * across) > -0.4;
      const relief = 1 + scene.roughness * bumps - (worn ? 0.13 : 0);
      for (let c = 0; c < 3; c++) colours[i + c] = haze[c] + (scene.ground[c] * relief - haze[c]) * clear;
    }
  }
  return colours;
}

/** Pillow's blur: three passes of a box whose rim counts in part. */
function blur(layer: Float32Array, side: number, radius: number): void {
  const variance = (radius * radius) / 3;
  const whole = Math.floor((Math.sqrt(12 * variance + 1) - 1) / 2);
  const part = ((2 * whole + 1) * (whole * (whole + 1) - 3 * variance)) / (6 * (variance - (whole + 1) ** 2));
  const total = 2 * (whole + part) + 1, line = new Float32Array(side);
  for (const step of [1, side]) {
    for (let n = 0; n < side; n++) {
      const start = n * (step === 1 ? side : 1);
      for (let pass = 0; pass < 3; pass++) {
        const at = (i: number) => layer[start + clip(i, 0, side - 1) * step];
        let sum = 0;
        for (let i = -whole; i <= whole; i++) sum += at(i);
        for (let i = 0; i < side; i++) {
          line[i] = (sum + part * (at(i - whole - 1) + at(i + whole + 1))) / total;
          sum += at(i + whole + 1) - at(i - whole);
        }
        for (let i = 0; i < side; i++) layer[start + i * step] = line[i];
      }
    }
  }
}

/** How much light the ground loses, side x side in 0..1: a soft spot under each thing, drawn away from the sun. */
function shadows(scene: Scene, stock: Stock, side: number): Float32Array {
  const layer = new Float32Array(side * side);
  for (const item of scene.items) {
    if (item.gone) continue;
    const [across, down] = footOf(scene, item), metre = (side * scene.focal) / item.depth;
    const half = stock.footprints[item.category] * metre * 1.15, deep = Math.max(1, 0.16 * half);
    const x = across * side + scene.sun * stock.footprints[item.category] * metre, y = down * side;
    span(Math.round(x - half), Math.round(y - deep), Math.round(x + half), Math.round(y + deep), side, (row, from, to) => {
      layer.fill(1, row * side + from, row * side + to + 1);
    });
  }
  blur(layer, side, side / 90);
  return layer;
}

type Row = (row: number, from: number, to: number) => void;

/** The rows of an ellipse in a box of whole pixels, its rim included. */
function span(left: number, top: number, right: number, bottom: number, side: number, fill: Row): void {
  const x = (left + right) / 2, y = (top + bottom) / 2, a = (right - left) / 2 + 0.5, b = (bottom - top) / 2 + 0.5;
  for (let row = Math.max(0, top); row <= Math.min(side - 1, bottom); row++) {
    const inside = 1 - ((row - y) / b) ** 2;
    if (inside <= 0) continue;
    const half = a * Math.sqrt(inside);
    const from = Math.max(0, Math.ceil(x - half)), to = Math.min(side - 1, Math.floor(x + half));
    if (from <= to) fill(row, from, to);
  }
}

/** The rows of a polygon with corners at whole pixels, rim included, as Pillow fills it. */
function rows(corners: Int32Array, side: number, fill: Row): void {
  const count = corners.length / 2;
  let low = Infinity, high = -Infinity;
  for (let i = 0; i < count; i++) {
    low = Math.min(low, corners[2 * i + 1]);
    high = Math.max(high, corners[2 * i + 1]);
  }
  const crossings: number[] = [];
  for (let row = Math.max(0, low); row <= Math.min(side - 1, high); row++) {
    crossings.length = 0;
    for (let i = 0, j = count - 1; i < count; j = i++) {
      let x0 = corners[2 * j], y0 = corners[2 * j + 1], x1 = corners[2 * i], y1 = corners[2 * i + 1];
      if (y0 === y1) {
        if (y0 === row) line(row, Math.min(x0, x1), Math.max(x0, x1));
        continue;
      }
      if (y0 > y1) [x0, y0, x1, y1] = [x1, y1, x0, y0];
      if (row >= y0 && (row < y1 || (row === high && row === y1))) crossings.push(x0 + ((row - y0) * (x1 - x0)) / (y1 - y0));
    }
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) line(row, Math.ceil(crossings[i] - 0.5), Math.floor(crossings[i + 1] + 0.5));
  }
  function line(row: number, from: number, to: number): void {
    const a = Math.max(0, from), b = Math.min(side - 1, to);
    if (a <= b) fill(row, a, b);
  }
}

/** A bar as a polygon, never thinner than one and a half pixels. */
function barCorners([x0, y0, x1, y1, width, tip]: number[], scale: number): number[] {
  const thinnest = (1.5 * SAMPLES) / scale;
  const length = Math.max(Math.hypot(x1 - x0, y1 - y0), 1e-6);
  const across = (y0 - y1) / length / 2, up = (x1 - x0) / length / 2, w = Math.max(width, thinnest), t = Math.max(tip, thinnest);
  return [x0 + across * w, y0 + up * w, x1 + across * t, y1 + up * t, x1 - across * t, y1 - up * t, x0 - across * w, y0 - up * w];
}

/** Draw a scene, `side` x `side` pixels, with its exact truth. Items are painted from far to near, whatever their order is. */
export function render(scene: Scene, stock: Stock, tiles: Tiles, side: number): Picture {
  const light = stock.lights[scene.light], visibility = scene.visibility ?? light.visibility;
  const base = background(scene, light, visibility, side, tiles), dark = shadows(scene, stock, side);
  const line = Math.round(side * scene.horizon), wide = side * SAMPLES;
  const canvas = new Uint8ClampedArray(wide * wide * 3), ids = new Uint8Array(wide * wide);
  for (let y = 0; y < wide; y++) {
    const ground = (y >> 1) >= line;
    for (let x = 0, j = y * wide * 3; x < wide; x++, j += 3) {
      const i = (y >> 1) * side + (x >> 1), gain = ground ? 1 - dark[i] * light.shadow : 1;
      for (let c = 0; c < 3; c++) canvas[j + c] = Math.trunc(clip(base[3 * i + c] * gain, 0, 255));
    }
    ids.fill(ground ? GROUND : SKY, y * wide, (y + 1) * wide);
  }
  const categories = [0, SKY, GROUND, BUILDING, VEGETATION], items: Record<number, number> = {};
  const order = scene.items.map((_, i) => i).filter((i) => !scene.items[i].gone).sort((a, b) => scene.items[b].depth - scene.items[a].depth);
  for (const index of order) {
    const item = scene.items[index];
    let id = item.category;
    if (id > VEGETATION) {
      id = categories.length;
      categories.push(item.category);
      items[id] = index;
    }
    const [across, down] = footOf(scene, item);
    const footX = wide * across, footY = wide * down, scale = (wide * scene.focal) / item.depth, clear = Math.exp(-item.depth / visibility);
    const X = (x: number) => Math.floor(footX + item.facing * scale * x + 0.5), Y = (y: number) => Math.floor(footY - scale * y + 0.5);
    for (const [kind, numbers, colour] of item.shapes) {
      const seen = [0, 1, 2].map((c) => Math.trunc(light.haze[c] + (colour[c] - light.haze[c]) * clear));
      const opacity = colour.length > 3 ? Math.trunc(colour[3]) : 255;
      const fill: Row = (row, from, to) => {
        const start = row * wide;
        ids.fill(id, start + from, start + to + 1);
        for (let j = (start + from) * 3, end = (start + to + 1) * 3; j < end; j += 3) {
          for (let c = 0; c < 3; c++) canvas[j + c] = opacity === 255 ? seen[c] : canvas[j + c] + ((seen[c] - canvas[j + c]) * opacity) / 255;
        }
      };
      if (kind === 'ellipse') {
        const [x, y, a, b] = numbers, left = X(x - a), right = X(x + a);
        span(Math.min(left, right), Y(y + b), Math.max(left, right), Y(y - b), wide, fill);
      } else {
        const points = kind === 'bar' ? barCorners(numbers, scale) : numbers;
        rows(Int32Array.from(points, (value, i) => (i % 2 ? Y(value) : X(value))), wide, fill);
      }
    }
  }
  return { side, ...develop(scene, light, tiles, canvas, ids, side), categories, items };
}

/** Texture, light and camera, from the canvas to the picture. */
function develop(scene: Scene, light: Light, tiles: Tiles, canvas: Uint8ClampedArray, ids: Uint8Array, side: number) {
  const wide = side * SAMPLES, pixels = new Uint8ClampedArray(side * side * 4), truth = new Uint8Array(side * side);
  const white = [0, 1, 2].map((c) => light.tint[c] * scene.cast[c] * scene.exposure);
  const rough = (id: number) => (id === SKY ? 0 : id === GROUND ? 0.02 : id === VEGETATION ? 0.16 : 0.04);
  for (let y = 0, i = 0; y < side; y++) {
    for (let x = 0; x < side; x++, i++) {
      const j = 2 * y * wide + 2 * x, id = ids[j + wide + 1];
      truth[i] = id;
      const texture = noiseAt(tiles.cloudy, scene.offset[3] + (500 / side) * y, scene.offset[2] + (500 / side) * x) * rough(id)
        + tiles.white[(((scene.offset[1] + y) & 511) << 9) + ((scene.offset[0] + x) & 511)] * scene.grain;
      const corner = ((y / side - 0.5) ** 2 + (x / side - 0.5) ** 2) * 0.22;
      for (let c = 0; c < 3; c++) {
        const k = 3 * j + c;
        const mean = Math.floor((canvas[k] + canvas[k + 3] + canvas[k + 3 * wide] + canvas[k + 3 * wide + 3] + 2) / 4);
        pixels[4 * i + c] = Math.trunc(clip(128 + (mean * (1 + texture - corner) * white[c] - 128) * scene.contrast, 0, 255));
      }
      pixels[4 * i + 3] = 255;
    }
  }
  return { pixels, truth };
}
