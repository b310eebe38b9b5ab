/** The pixel-wise argmax of minidetr.model.merge: mask logits in, one segment per pixel out, nothing overlaps. */

export interface Category { id: number; name: string; isthing: number; color?: [number, number, number] | null }
export interface Kept { query: number; label: number; score: number }
export interface Owners {
  /** Which of the K masks' groups each pixel belongs to; -1 where none does. */
  owner: Int16Array;
  /** K: each mask's own number, or that of the first mask of the same class of stuff. */
  group: number[];
  /** Pixels of each group. */
  area: Int32Array;
}

const SMALLEST_AREA = 4; // pixels; a segment that small or smaller goes to the next best masks

/** For each of `to` pixels its two neighbours among `from` cells and the share of the second, as torch's bilinear interpolation. */
function between(to: number, from: number) {
  const first = new Int32Array(to), second = new Int32Array(to), share = new Float32Array(to);
  for (let i = 0; i < to; i++) {
    const place = Math.max(0, ((i + 0.5) * from) / to - 0.5);
    first[i] = Math.min(Math.floor(place), from - 1);
    second[i] = Math.min(first[i] + 1, from - 1);
    share[i] = place - first[i];
  }
  return { first, second, share };
}

/** `masks` are K x h x w logits of the `kept` queries; the result has `height` x `width` pixels. */
export function merge(
  masks: Float32Array, [h, w]: [number, number], kept: Kept[], categories: Category[], [height, width]: [number, number],
): Owners {
  const things = new Set(categories.filter((category) => category.isthing).map((category) => category.id));
  const firstOf = new Map<number, number>();
  const group = kept.map(({ label }, k) => {
    if (things.has(label)) return k;
    if (!firstOf.has(label)) firstOf.set(label, k);
    return firstOf.get(label)!;
  });
  const owner = new Int16Array(height * width), highest = new Float32Array(height * width);
  const rows = between(height, h), columns = between(width, w);
  const upper = new Float32Array(width);
  let alive = kept.map((_, k) => k);
  while (alive.length) {
    highest.fill(-Infinity);
    for (const k of alive) {
      const of = group[k], start = k * h * w;
      for (let y = 0, i = 0; y < height; y++) {
        const a = start + rows.first[y] * w, b = start + rows.second[y] * w, down = rows.share[y];
        for (let x = 0; x < w; x++) upper[x] = masks[a + x] + (masks[b + x] - masks[a + x]) * down;
        for (let x = 0; x < width; x++, i++) {
          const l = upper[columns.first[x]], z = l + (upper[columns.second[x]] - l) * columns.share[x];
          if (z > highest[i]) {
            highest[i] = z;
            owner[i] = of;
          }
        }
      }
    }
    const area = new Int32Array(kept.length);
    for (const of of owner) area[of]++;
    const large = alive.filter((k) => area[group[k]] > SMALLEST_AREA);
    if (large.length === alive.length) return { owner, group, area };
    alive = large;
  }
  return { owner: owner.fill(-1), group, area: new Int32Array(kept.length) };
}

/** The class (category id) of each pixel; 0 where no segment is. */
export const classesOf = ({ owner }: Owners, kept: Kept[]): Uint16Array => Uint16Array.from(owner, (k) => (k < 0 ? 0 : kept[k].label));
