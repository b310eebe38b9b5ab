/** What Python made of the same scenes: a folder that tests/page writes, named by REFERENCE. */
import { readFileSync } from 'node:fs';
import type { Stock } from '../src/lib/scene';
import type { About } from '../src/lib/model';

const folder = process.env.REFERENCE ?? '';
export const model = process.env.MODEL ?? 'public/model';

export interface Expected { seed: number; side: number; kept: number[]; classes: number[] }
export const bytes = (path: string): Uint8Array<ArrayBuffer> => new Uint8Array(readFileSync(path));
export const json = <T>(path: string): T => JSON.parse(readFileSync(path, 'utf8')) as T;
export const stock = (): Stock => json(`${model}/scenes.json`);
export const about = (): About => json(`${model}/model.json`);
export const expected = (): Expected[] => json(`${folder}/expected.json`);
/** RGB, side x side. */
export const image = (seed: number, side: number): Uint8Array => bytes(`${folder}/${seed}-${side}.rgb`);
/** Category of each pixel. */
export const truth = (seed: number, side: number): Uint8Array => bytes(`${folder}/${seed}-${side}.truth`);
/** Class that PyTorch gives each pixel. */
export const classes = (seed: number, side: number): Uint8Array => bytes(`${folder}/${seed}-${side}.classes`);
export const files = (): Record<string, Uint8Array> =>
  Object.fromEntries(Object.keys(about().graphs).map((name) => [name, bytes(`${model}/${name}.onnx`)]));
export const rgba = (rgb: Uint8Array): Uint8ClampedArray => {
  const pixels = new Uint8ClampedArray((rgb.length / 3) * 4).fill(255);
  for (let i = 0, j = 0; i < rgb.length; i += 3, j += 4) pixels.set([rgb[i], rgb[i + 1], rgb[i + 2]], j);
  return pixels;
};
