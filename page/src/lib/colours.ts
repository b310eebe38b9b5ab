/** Colours of maps and of segments. */
import type { Category, Owners } from './merge';
import type { Prediction } from './model';

// matplotlib's magma at nine places
const MAGMA = [[0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100], [251, 135, 97], [254, 194, 135], [252, 253, 191]];

export function magma(share: number): [number, number, number] {
  const place = Math.min(1, Math.max(0, share)) * 8, i = Math.min(7, Math.floor(place)), part = place - i;
  return [0, 1, 2].map((c) => MAGMA[i][c] + (MAGMA[i + 1][c] - MAGMA[i][c]) * part) as [number, number, number];
}

const FALLBACK = [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]];

/** The colour of a class: its own, or one of Okabe and Ito's by its id. */
export const colourOf = (category: Category | undefined): [number, number, number] =>
  (category?.color ?? FALLBACK[(category?.id ?? 0) % FALLBACK.length]) as [number, number, number];

export const css = ([r, g, b]: [number, number, number] | number[]): string => `rgb(${r} ${g} ${b})`;

export interface Overlay { categories: Category[]; kept: Prediction[]; owners: Owners; chosen: number | null }

/** The picture with each segment tinted in its class's colour and white lines between segments; RGBA, in place of a new one. */
export function overlay(pixels: Uint8ClampedArray, width: number, { categories, kept, owners, chosen }: Overlay): Uint8ClampedArray<ArrayBuffer> {
  const result = new Uint8ClampedArray(pixels), byId = new Map(categories.map((category) => [category.id, category]));
  const colours = kept.map(({ label }) => colourOf(byId.get(label)));
  const { owner } = owners, k = kept.findIndex(({ query }) => query === chosen), of = k < 0 ? -2 : owners.group[k];
  for (let i = 0; i < owner.length; i++) {
    const own = owner[i];
    if (own < 0) continue;
    const edge = (i % width > 0 && owner[i - 1] !== own) || (i >= width && owner[i - width] !== own);
    const colour = edge ? [255, 255, 255] : colours[own], share = edge ? 0.9 : own === of ? 0.75 : 0.5;
    for (let c = 0; c < 3; c++) result[4 * i + c] += (colour[c] - result[4 * i + c]) * share;
  }
  return result;
}

/** The picture in grey, and in red where the class is not the true one. Returns the share that is right, too. */
export function mistakes(pixels: Uint8ClampedArray, classes: Uint16Array, truth: ArrayLike<number>): { rgba: Uint8ClampedArray<ArrayBuffer>; right: number } {
  const rgba = new Uint8ClampedArray(pixels);
  let right = 0;
  for (let i = 0; i < classes.length; i++) {
    const grey = 110 + 0.45 * (0.3 * pixels[4 * i] + 0.6 * pixels[4 * i + 1] + 0.1 * pixels[4 * i + 2]);
    const wrong = classes[i] !== truth[i];
    rgba.set(wrong ? [200, 20, 20] : [grey, grey, grey], 4 * i);
    right += Number(!wrong);
  }
  return { rgba, right: right / classes.length };
}
