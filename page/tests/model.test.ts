import * as ort from 'onnxruntime-web';
import { beforeAll, expect, test } from 'vitest';
import { classesOf, merge } from '../src/lib/merge';
import { Model } from '../src/lib/model';
import { withOutputs } from '../src/lib/prune';
import { about, classes, expected, files, image, rgba } from './reference';

let model: Model;
beforeAll(async () => {
  ort.env.wasm.numThreads = 1;
  model = await Model.start(ort, about(), files());
});

test('99.99 % of the pixels have the class that PyTorch gives them', async () => {
  let same = 0, all = 0;
  for (const { seed, side, kept } of expected()) {
    await model.see(rgba(image(seed, side)), side, side);
    const result = await model.segment(model.about.preset.threshold);
    expect(result.kept.map(({ query }) => query)).toEqual(kept);
    const theirs = classes(seed, side), ours = classesOf(result.owners, result.kept);
    ours.forEach((label, i) => { same += Number(label === theirs[i]); });
    all += ours.length;
  }
  console.log(`${all - same} of ${all} pixels differ`);
  expect(same / all).toBeGreaterThanOrEqual(0.9999);
});

test('muting every head, painting and carrying change the mask of that query alone; restoring brings it back', async () => {
  const { seed, side } = expected()[0];
  await model.see(rgba(image(seed, side)), side, side);
  const before = await model.segment(0.7), [h, w] = before.maskSize, of = (masks: Float32Array, k: number) => masks.slice(k * h * w, (k + 1) * h * w);
  const { query } = before.kept[1];
  const cells = model.seen!.grid[0] * model.seen!.grid[1];
  for (const change of [
    { muted: [0, 1, 2, 3, 4, 5, 6, 7], painted: null, embedding: null },
    { muted: [], painted: new Float32Array(cells).fill(1), embedding: null },
    { muted: [], painted: null, embedding: model.embedding(before.kept[0].query) },
  ]) {
    model.change = { query, ...change };
    const after = await model.segment(0.7);
    expect(of(after.masks, 1)).not.toEqual(of(before.masks, 1));
    before.kept.forEach((_, k) => { if (k !== 1) expect(of(after.masks, k)).toEqual(of(before.masks, k)); });
    model.restore();
    const restored = of((await model.segment(0.7)).masks, 1), own = of(before.masks, 1);
    restored.forEach((value, i) => expect(Math.abs(value - own[i])).toBeLessThan(1e-3));
  }
});

test('what is explained belongs together: shares sum to one, five stages, the mask is the mask', async () => {
  const { seed, side } = expected()[1];
  await model.see(rgba(image(seed, side)), side, side);
  const { kept, masks, maskSize: [h, w] } = await model.segment(0.7);
  const shown = await model.explain(kept[0].query);
  expect(shown.heatmaps!.reduce((sum, value) => sum + value, 0)).toBeCloseTo(1, 4);
  expect(shown.stages.map(({ size }) => size[0])).toEqual([18, 18, 18, 36, 72]);
  expect(shown.looks.map((look) => look.reduce((sum, value) => sum + value, 0).toFixed(3))).toEqual(['1.000', '1.000', '1.000']);
  shown.mask.values.forEach((value, i) => expect(Math.abs(value - masks[i])).toBeLessThan(1e-3));
  expect(shown.mask.size).toEqual([h, w]);
  const { values, layers, heads } = (await model.attention())!;
  expect([layers, heads, values.length]).toEqual([2, 8, 2 * 8 * 324 * 324]);
  let row = 0;
  for (let i = 0; i < 324; i++) row += values[5 * 324 + i];
  expect(row).toBeCloseTo(1, 4);
});

test('no query above the threshold: nothing owns anything', async () => {
  const { kept, owners } = await model.segment(1);
  expect(kept).toEqual([]);
  expect(owners.owner.every((k) => k === -1)).toBe(true);
});

test('duplicates of stuff are one, crumbs go to the next best, things stay apart', () => {
  const categories = [{ id: 1, name: 'sky', isthing: 0 }, { id: 5, name: 'truck', isthing: 1 }];
  const mask = (...values: number[]) => values;
  const masks = Float32Array.from([...mask(5, 5, -5, -5), ...mask(-5, -5, 3, 3), ...mask(-9, -9, -9, -9)]);
  const kept = [{ query: 3, label: 1, score: 0.9 }, { query: 4, label: 1, score: 0.8 }, { query: 9, label: 5, score: 0.9 }];
  const { owner, group, area } = merge(masks, [2, 2], kept, categories, [8, 8]);
  expect(group).toEqual([0, 0, 2]);
  expect(new Set(owner)).toEqual(new Set([0]));
  expect(Array.from(area)).toEqual([64, 0, 0]);
  const two = merge(masks, [2, 2], kept.map((one) => ({ ...one, label: 5 })), categories, [8, 8]);
  expect(Array.from(two.area)).toEqual([32, 32, 0]);
});

test('a file without its other outputs is smaller and says the same', () => {
  const whole = files().mask_head, cut = withOutputs(whole, ['masks']);
  expect(cut.length).toBeLessThan(whole.length);
  expect(withOutputs(whole, about().graphs.mask_head.outputs)).toEqual(whole);
  expect(() => withOutputs(whole.slice(0, whole.length - 9), ['masks'])).toThrow('ends in the middle');
});

test('damaged or missing files end in a sentence', async () => {
  const good = files();
  await expect(Model.start(ort, about(), { ...good, decode: undefined as never })).rejects.toThrow('decode.onnx is missing');
  await expect(Model.start(ort, { ...about(), kind: 'boxes' }, good)).rejects.toThrow('without masks');
  await expect(Model.start(ort, {} as never, good)).rejects.toThrow('minidetr export');
  const damaged = good.decode.slice();
  damaged.fill(255, 2000, 4000);
  await expect(Model.start(ort, about(), { ...good, decode: damaged })).rejects.toThrow(/damaged|ends in the middle|no ONNX file/);
});
