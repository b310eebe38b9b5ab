/** An exported minidetr model, run by onnxruntime: image -> queries -> heatmaps -> masks -> argmax, each step by itself.
 *
 * Letters as in the package: N queries, C classes, M heads, K objects that are asked for, h w the grid, d the width.
 */

import type { InferenceSession, Tensor } from 'onnxruntime-common';
import { merge, type Category, type Kept, type Owners } from './merge';
import { withOutputs } from './prune';

export interface About {
  kind: 'heatmaps' | 'dot' | 'boxes';
  format: string;
  num_classes: number;
  graphs: Record<string, { inputs: string[]; outputs: string[] }>;
  preset: { width: number; heads: number; queries: number; short_side: number; long_side: number; threshold: number };
  categories: Category[];
}
export interface Prediction extends Kept { box: [number, number, number, number]; known: boolean }
export interface Seen {
  width: number; height: number;
  grid: [number, number];
  predictions: Prediction[];
  milliseconds: { encode: number; decode: number };
}
export interface Masked {
  kept: Prediction[];
  owners: Owners;
  /** K x h x w mask logits, and h and w. */
  masks: Float32Array; maskSize: [number, number];
  milliseconds: { masks: number; argmax: number };
}
export interface Explained {
  query: number;
  grid: [number, number];
  /** M x h x w, shares of the whole; null where the model has none. */
  heatmaps: Float32Array | null;
  /** How the mask head sees it, stage by stage; empty where the model does not say. */
  stages: { size: [number, number]; values: Float32Array }[];
  mask: { size: [number, number]; values: Float32Array };
  /** Per decoder layer, h x w: where the query looked. */
  looks: Float32Array[];
}
/** What a person changed of one query's heatmaps. */
export interface Change { query: number; muted: number[]; painted: Float32Array | null; embedding: Float32Array | null }

type Ort = typeof import('onnxruntime-common');
type Outputs = Record<string, Tensor>;
const FEATURES = ['res2', 'res3', 'res4', 'projected'];
const PARTS = { heatmaps: ['encode', 'decode', 'heatmaps', 'mask_head'], dot: ['encode', 'decode', 'dot_products'], boxes: ['encode', 'decode'] };

/** The parts of a model, and a sentence of what is wrong with its description instead. */
export function partsOf(about: About): string[] {
  const parts = PARTS[about?.kind];
  if (!parts || about.format !== 'onnx' || !about.graphs || !about.categories?.length || !about.preset?.width) {
    throw new Error('model.json is not what `minidetr export MODEL --to onnx OUT` writes: export the model again');
  }
  if (about.kind === 'boxes') throw new Error('this is a detection model without masks: export a panoptic one');
  for (const part of parts) {
    if (!about.graphs[part]) throw new Error(`model.json does not name ${part}: export the model again`);
  }
  return parts;
}

export class Model {
  private fast: Record<string, InferenceSession> = {};
  private whole: Record<string, InferenceSession> = {};
  private image: Outputs = {};
  private found: Outputs = {};
  private masks = new Map<number, Float32Array>();
  private maskSize: [number, number] = [0, 0];
  private pixels = new Float32Array(0);
  private source: { rgba: Uint8ClampedArray; width: number; height: number } | null = null;
  seen: Seen | null = null;
  change: Change | null = null;

  private constructor(private ort: Ort, readonly about: About, private files: Record<string, Uint8Array>) {}

  /** Start a model from its files: name of a graph -> bytes. */
  static async start(ort: Ort, about: About, files: Record<string, Uint8Array>): Promise<Model> {
    const model = new Model(ort, about, files);
    for (const part of partsOf(about)) {
      if (!files[part]) throw new Error(`${part}.onnx is missing: give all files of the export's folder`);
      const plain = about.graphs[part].outputs.filter((name) => !/^(attention|looks|stage\d)$/.test(name));
      model.fast[part] = await model.session(part, model.cut(part, plain));
    }
    return model;
  }

  private cut(part: string, outputs: string[]): Uint8Array {
    try {
      return withOutputs(this.files[part], outputs);
    } catch (error) {
      throw new Error(`${part}.onnx is damaged (${(error as Error).message}): export the model again`);
    }
  }

  private async session(part: string, bytes: Uint8Array): Promise<InferenceSession> {
    try {
      return await this.ort.InferenceSession.create(bytes, { executionProviders: ['wasm'], graphOptimizationLevel: 'all', logSeverityLevel: 3 });
    } catch (error) {
      throw new Error(`${part}.onnx is damaged or needs what this page lacks (${String((error as Error).message ?? error).split('\n')[0].slice(0, 120)})`);
    }
  }

  /** The session with everything to look at, started when it is first wanted. */
  private async shown(part: string): Promise<InferenceSession> {
    return (this.whole[part] ??= await this.session(part, this.files[part]));
  }

  /** Whether a graph has an output, such as "attention". */
  has(part: string, output: string): boolean {
    return this.about.graphs[part]?.outputs.includes(output) ?? false;
  }

  private tensor(values: Float32Array, dims: number[]): Tensor {
    return new this.ort.Tensor('float32', values, dims);
  }

  /** Look at an image (RGBA): the encoded image and all queries' classes and boxes. */
  async see(rgba: Uint8ClampedArray, width: number, height: number): Promise<Seen> {
    const area = width * height;
    if (this.pixels.length !== 3 * area) this.pixels = new Float32Array(3 * area);
    for (let i = 0, j = 0; i < area; i++, j += 4) {
      this.pixels[i] = rgba[j];
      this.pixels[area + i] = rgba[j + 1];
      this.pixels[2 * area + i] = rgba[j + 2];
    }
    const start = performance.now();
    this.image = await this.fast.encode.run({ pixels: this.tensor(this.pixels, [1, 3, height, width]) });
    const middle = performance.now();
    this.found = await this.fast.decode.run({ memory: this.image.memory, position: this.image.position });
    this.masks.clear();
    this.source = { rgba, width, height };
    const [, , h, w] = this.image.memory.dims;
    const milliseconds = { encode: middle - start, decode: performance.now() - middle };
    return (this.seen = { width, height, grid: [h, w], predictions: this.predictions(), milliseconds });
  }

  private predictions(): Prediction[] {
    const [N, outputs] = this.found.logits.dims, logits = this.found.logits.data as Float32Array, boxes = this.found.boxes.data as Float32Array;
    const known = new Set(this.about.categories.map((category) => category.id));
    return Array.from({ length: N }, (_, query) => {
      const of = logits.subarray(query * outputs, (query + 1) * outputs);
      let label = 0;
      for (let c = 1; c < outputs; c++) if (of[c] > of[label]) label = c;
      let sum = 0;
      for (const logit of of) sum += Math.exp(logit - of[label]);
      const box = Array.from(boxes.subarray(4 * query, 4 * query + 4)) as Prediction['box'];
      return { query, label, score: 1 / sum, box, known: known.has(label) };
    });
  }

  /** The queries whose class is an object with a score above `threshold`. */
  kept(threshold: number): Prediction[] {
    return (this.seen?.predictions ?? []).filter(({ known, score }) => known && score > threshold);
  }

  /** The embedding of a query in this image, d numbers. */
  embedding(query: number): Float32Array {
    const d = this.found.queries.dims[1];
    return (this.found.queries.data as Float32Array).slice(query * d, (query + 1) * d);
  }

  private embeddings(queries: number[]): Tensor {
    const d = this.found.queries.dims[1], values = new Float32Array(queries.length * d);
    queries.forEach((query, k) => values.set(this.change?.query === query && this.change.embedding ? this.change.embedding : this.embedding(query), k * d));
    return this.tensor(values, [queries.length, d]);
  }

  /** Heatmaps K M h w of some queries, with what was changed. */
  private async heatmaps(queries: number[]): Promise<Tensor> {
    const { heatmaps } = await this.fast.heatmaps.run({ queries: this.embeddings(queries), memory: this.image.memory });
    const k = queries.indexOf(this.change?.query ?? -1);
    if (k < 0 || !this.change) return heatmaps;
    const [, M, h, w] = heatmaps.dims, values = heatmaps.data as Float32Array, area = h * w;
    const { muted, painted } = this.change;
    const strokes = painted?.length === area ? painted.reduce((sum, value) => sum + value, 0) : 0;
    for (let head = 0; head < M; head++) {
      const of = values.subarray((k * M + head) * area, (k * M + head + 1) * area);
      if (painted && strokes) {
        const share = of.reduce((sum, value) => sum + value, 0);
        for (let i = 0; i < area; i++) of[i] = (share * painted[i]) / strokes; // each head keeps its share
      }
      if (muted.includes(head)) of.fill(0);
    }
    return heatmaps;
  }

  private async masksOf(queries: number[], shown = false): Promise<Outputs> {
    if (this.about.kind === 'dot') {
      return this.fast.dot_products.run({ queries: this.embeddings(queries), embeddings: this.image.embeddings });
    }
    const inputs: Outputs = { heatmaps: await this.heatmaps(queries) };
    for (const name of FEATURES) inputs[name] = this.image[name];
    return (shown ? await this.shown('mask_head') : this.fast.mask_head).run(inputs);
  }

  /** Masks and argmax of the queries above `threshold`; masks that are known already are not computed again. */
  async segment(threshold: number): Promise<Masked> {
    const { width, height } = this.seen!, kept = this.kept(threshold), start = performance.now();
    if (this.change) this.masks.delete(this.change.query);
    const asked = kept.map(({ query }) => query).filter((query) => !this.masks.has(query));
    if (asked.length) {
      const { masks } = await this.masksOf(asked);
      const [, h, w] = masks.dims, values = masks.data as Float32Array;
      this.maskSize = [h, w];
      asked.forEach((query, k) => this.masks.set(query, values.slice(k * h * w, (k + 1) * h * w)));
    }
    const [h, w] = this.maskSize, masks = new Float32Array(kept.length * h * w);
    kept.forEach(({ query }, k) => masks.set(this.masks.get(query)!, k * h * w));
    const middle = performance.now();
    const owners = merge(masks, [h, w], kept, this.about.categories, [height, width]);
    return { kept, owners, masks, maskSize: [h, w], milliseconds: { masks: middle - start, argmax: performance.now() - middle } };
  }

  /** Forget a change: the query's mask is its own again. */
  restore(): void {
    if (this.change) this.masks.delete(this.change.query);
    this.change = null;
  }

  /** Everything about one query: where it looked, its heatmaps, the mask head's stages, its mask. */
  async explain(query: number): Promise<Explained> {
    const [h, w] = this.seen!.grid, looks: Float32Array[] = [];
    if (this.has('decode', 'looks')) {
      const outputs = await (await this.shown('decode')).run({ memory: this.image.memory, position: this.image.position });
      const [L, N, cells] = outputs.looks.dims, values = outputs.looks.data as Float32Array;
      for (let l = 0; l < L; l++) looks.push(values.slice((l * N + query) * cells, (l * N + query + 1) * cells));
    }
    const outputs = await this.masksOf([query], this.has('mask_head', 'stage0'));
    const stages = Object.keys(outputs).filter((name) => name.startsWith('stage')).sort()
      .map((name) => ({ size: outputs[name].dims.slice(1) as [number, number], values: outputs[name].data as Float32Array }));
    const heatmaps = this.about.kind === 'dot' ? null : ((await this.heatmaps([query])).data as Float32Array).slice(0, this.about.preset.heads * h * w);
    return { query, grid: [h, w], heatmaps, stages, looks, mask: { size: outputs.masks.dims.slice(1) as [number, number], values: outputs.masks.data as Float32Array } };
  }

  /** What each cell attends to in the encoder, L x M x h*w x h*w; null where the model does not say. */
  async attention(): Promise<{ values: Float32Array; layers: number; heads: number } | null> {
    if (!this.has('encode', 'attention') || !this.source) return null;
    const { width, height } = this.source;
    const outputs = await (await this.shown('encode')).run({ pixels: this.tensor(this.pixels, [1, 3, height, width]) });
    const [layers, heads] = outputs.attention.dims;
    return { values: outputs.attention.data as Float32Array, layers, heads };
  }

  /** The first three principal components of a grid's vectors as RGB, h x w x 4; of Res5's projection or the encoded image. */
  colours(name: 'projected' | 'memory'): { size: [number, number]; rgba: Uint8ClampedArray<ArrayBuffer> } | null {
    const grid = this.image[name];
    if (!grid) return null;
    const [, d, h, w] = grid.dims;
    return { size: [h, w], rgba: principalColours(grid.data as Float32Array, d, h * w) };
  }
}

/** d x cells -> RGBA: principal components by power iteration, each spread from its 2 % to its 98 % quantile. */
export function principalColours(values: Float32Array, d: number, cells: number): Uint8ClampedArray<ArrayBuffer> {
  const centred = new Float32Array(values);
  for (let c = 0; c < d; c++) {
    let mean = 0;
    for (let i = 0; i < cells; i++) mean += centred[c * cells + i] / cells;
    for (let i = 0; i < cells; i++) centred[c * cells + i] -= mean;
  }
  const rgba = new Uint8ClampedArray(cells * 4).fill(255);
  for (let part = 0; part < 3; part++) {
    let direction = Float32Array.from({ length: d }, (_, c) => Math.sin(c + 1 + part));
    let along = new Float32Array(cells);
    for (let step = 0; step < 30; step++) {
      along = new Float32Array(cells);
      for (let c = 0; c < d; c++) for (let i = 0, row = c * cells, v = direction[c]; i < cells; i++) along[i] += v * centred[row + i];
      direction = new Float32Array(d);
      for (let c = 0; c < d; c++) for (let i = 0, row = c * cells; i < cells; i++) direction[c] += along[i] * centred[row + i];
      const length = Math.hypot(...direction) || 1;
      for (let c = 0; c < d; c++) direction[c] /= length;
    }
    along = new Float32Array(cells);
    for (let c = 0; c < d; c++) for (let i = 0, row = c * cells, v = direction[c]; i < cells; i++) along[i] += v * centred[row + i];
    const sorted = Float32Array.from(along).sort(), low = sorted[Math.floor(0.02 * (cells - 1))], high = sorted[Math.ceil(0.98 * (cells - 1))];
    for (let i = 0; i < cells; i++) rgba[4 * i + part] = (255 * (along[i] - low)) / (high - low || 1);
    for (let c = 0; c < d; c++) for (let i = 0, row = c * cells, v = direction[c]; i < cells; i++) centred[row + i] -= v * along[i];
  }
  return rgba;
}
