import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

const RUNTIME = 'node_modules/onnxruntime-web/dist';

/** The WebAssembly runtime as files beside the page: one build, SIMD, nothing from other hosts. */
const runtime = {
  name: 'runtime',
  buildStart() {
    mkdirSync('public/ort', { recursive: true });
    for (const file of ['ort-wasm-simd-threaded.wasm', 'ort-wasm-simd-threaded.mjs']) copyFileSync(`${RUNTIME}/${file}`, `public/ort/${file}`);
  },
};

/** Bytes of what the page loads, for its progress: compressed replies do not say. */
function sizes(): Record<string, number> {
  const graphs = existsSync('public/model') ? readdirSync('public/model').filter((name) => name.endsWith('.onnx')) : [];
  const paths: [string, string][] = graphs.map((name) => [`model/${name}`, `public/model/${name}`]);
  paths.push(['ort/ort-wasm-simd-threaded.wasm', `${RUNTIME}/ort-wasm-simd-threaded.wasm`]);
  return Object.fromEntries(paths.map(([path, file]) => [path, statSync(file).size]));
}

/** The lessons' addresses: LESSONS is where the site has them; else they are in the repository that pyproject.toml names. */
function lessons() {
  const names = Object.fromEntries(readdirSync('../notebooks').filter((name) => name.endsWith('.ipynb')).map((name) => [name.slice(0, 2), name.replace(/\.ipynb$/, '')]));
  if (process.env.LESSONS) return { base: process.env.LESSONS, suffix: '.html', names };
  const repository = /Repository = "(.*?)"/.exec(readFileSync('../pyproject.toml', 'utf8'))![1];
  return { base: `${repository}/blob/main/notebooks/`, suffix: '.ipynb', names };
}

export default defineConfig({
  base: './',
  define: { __SIZES__: JSON.stringify(sizes()), __LESSONS__: JSON.stringify(lessons()) },
  plugins: [runtime, svelte()],
  worker: { format: 'es' },
  resolve: { alias: { 'onnxruntime-web': new URL(`${RUNTIME}/ort.wasm.min.mjs`, import.meta.url).pathname } },
  build: { outDir: '../minidetr/page', emptyOutDir: true, chunkSizeWarningLimit: 1000 },
  test: { include: ['tests/**/*.test.ts'], testTimeout: 300_000, hookTimeout: 300_000, fileParallelism: false },
});
