/** What the page shows, in its address: a teacher can link to a moment. */
import type { Item, Scene } from './scene';

export interface View { scene: number; stage: string; query: number | null; threshold: number | null; light: number | null; items: string | null; visibility: number | null; view: string | null; muted: string | null }

export function read(hash: string): View {
  const given = new URLSearchParams(hash.replace(/^#/, '')), number = (name: string) => {
    const text = given.get(name), value = Number(text);
    return text === null || text === '' || !Number.isFinite(value) ? null : value;
  };
  const threshold = number('threshold');
  return {
    scene: number('scene') ?? -1, stage: given.get('stage') ?? '', query: number('query'), light: number('light'), items: given.get('items'),
    visibility: number('visibility'), view: given.get('view'), muted: given.get('muted'),
    threshold: threshold === null ? null : Math.min(0.99, Math.max(0.05, threshold)),
  };
}

export function write({ scene, ...rest }: View): string {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries({ scene, ...rest })) {
    if (value !== null && value !== '') parts.set(name, String(value));
  }
  return `#${parts.toString().replaceAll('%3A', ':').replaceAll('%2C', ',')}`;
}

/** What was done to the items: "3:0.52:7.1" moved (place in the list, across, metres), "3:x" removed, "c6:0.5:9" added. Null if nothing. */
export function changes(scene: Scene, original: Scene): string | null {
  const parts = scene.items.flatMap((item, i) => {
    const before = original.items[i], place = `${item.across.toFixed(3)}:${item.depth.toFixed(2)}`;
    if (item.gone) return before ? [`${i}:x`] : [];
    if (!before) return [`c${item.category}:${place}`];
    return item.across === before.across && item.depth === before.depth ? [] : [`${i}:${place}`];
  });
  return parts.length ? parts.join(',') : null;
}

/** Do to a scene what `changes` wrote; what is not understood is left out. */
export function apply(scene: Scene, text: string, sample: (category: number) => Item | undefined): void {
  for (const part of text.split(',')) {
    const [which, across, depth] = part.split(':'), place = { across: Number(across), depth: Number(depth) };
    const known = place.across >= -0.05 && place.across <= 1.05 && place.depth >= 2.5 && place.depth <= 400;
    const item = scene.items[Number(which)];
    if (which.startsWith('c')) {
      const like = sample(Number(which.slice(1)));
      if (like && known && scene.items.length < 40) scene.items.push({ ...structuredClone(like), ...place });
    } else if (item && across === 'x') item.gone = true;
    else if (item && known) Object.assign(item, place);
  }
}
