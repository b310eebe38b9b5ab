import { copyFileSync, mkdirSync } from 'node:fs';
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

export default defineConfig({
  base: './',
  plugins: [runtime, svelte()],
  worker: { format: 'es' },
  resolve: { alias: { 'onnxruntime-web': new URL(`${RUNTIME}/ort.wasm.min.mjs`, import.meta.url).pathname } },
  build: { outDir: '../minidetr/page', emptyOutDir: true, chunkSizeWarningLimit: 1000 },
  test: { include: ['tests/**/*.test.ts'], testTimeout: 120_000, hookTimeout: 120_000, fileParallelism: false },
});
