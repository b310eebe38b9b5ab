/** Runs the model beside the page's own thread. */
import * as ort from 'onnxruntime-web';
import { answer, report } from './calls';
import { Model, partsOf, type About, type Change } from './model';

declare const __SIZES__: Record<string, number>;
let model: Model, builtIn: Model;
let runtime: Promise<void> | null = null;

/** Read files, saying how many bytes of all have come. */
async function read(base: string, paths: string[]): Promise<Uint8Array<ArrayBuffer>[]> {
  const total = paths.reduce((sum, path) => sum + (__SIZES__[path] ?? 0), 0);
  let loaded = 0;
  return Promise.all(paths.map(async (path) => {
    const reply = await fetch(new URL(path, base));
    if (!reply.ok || !reply.body) throw new Error(`${path} could not be loaded (${reply.status})`);
    const parts: Uint8Array[] = [];
    for (const reader = reply.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      report({ loaded: (loaded += value.length), total });
    }
    return new Uint8Array(await new Blob(parts as BlobPart[]).arrayBuffer());
  }));
}

const WASM = 'ort/ort-wasm-simd-threaded.wasm';

answer({
  /** Start the model in the box. */
  begin: async ({ base }: { base: string }) => {
    const about = (await (await fetch(new URL('model/model.json', base))).json()) as About;
    const parts = partsOf(about);
    const [wasm, ...graphs] = await read(base, [WASM, ...parts.map((part) => `model/${part}.onnx`)]);
    runtime ??= (async () => {
      ort.env.wasm.numThreads = 1;
      ort.env.wasm.wasmBinary = wasm.buffer;
      ort.env.wasm.wasmPaths = { mjs: new URL('ort/ort-wasm-simd-threaded.mjs', base).href };
    })();
    await runtime;
    model = builtIn = await Model.start(ort, about, Object.fromEntries(parts.map((part, i) => [part, graphs[i]])));
    return model.about;
  },
  /** Start another model, from files that a person gave; the one before stays where that fails. */
  replace: async ({ about, files }: { about: About; files: Record<string, Uint8Array> }) => {
    const other = await Model.start(ort, about, files);
    await other.see(new Uint8ClampedArray(64 * 64 * 4), 64, 64); // whether it runs at all
    model = other;
    return model.about;
  },
  /** The model in the box again. */
  back: () => {
    model = builtIn;
    return model.about;
  },
  look: async ({ rgba, width, height, threshold }: { rgba: Uint8ClampedArray; width: number; height: number; threshold: number }) => {
    model.restore();
    const seen = await model.see(rgba, width, height);
    return { seen, masked: await model.segment(threshold) };
  },
  segment: async ({ threshold, change }: { threshold: number; change: Change | null }) => {
    model.restore();
    model.change = change;
    return model.segment(threshold);
  },
  explain: ({ query }: { query: number }) => model.explain(query),
  attention: () => model.attention(),
  embedding: ({ query }: { query: number }) => model.embedding(query),
  colours: () => ({ projected: model.colours('projected'), memory: model.colours('memory') }),
});
