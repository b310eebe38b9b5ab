import { expect, test } from 'vitest';
import { tiles, uniform } from '../src/lib/noise';
import { render, depthAt, footOf } from '../src/lib/scene';
import { expected, image, stock, truth } from './reference';

test('the random numbers and the noise are NumPy\'s', () => {
  expect(Array.from(uniform(4), (v) => v.toFixed(8))).toEqual(['0.63696169', '0.26978671', '0.04097352', '0.01652764']);
  const { white, cloudy } = tiles();
  [0.28215328, -0.18056704, -0.50902724, -0.2667636].forEach((v, i) => expect(cloudy[i]).toBeCloseTo(v, 4));
  [0.47556072, -0.79698414, -1.5899985, -1.6747224].forEach((v, i) => expect(white[i]).toBeCloseTo(v, 4));
});

test('every scene is Python\'s: mean difference of a colour 1 of 255 or less, and the truth', () => {
  const all = stock(), noise = tiles(), off: number[] = [];
  for (const { seed, side } of expected()) {
    const scene = all.scenes.find((one) => one.seed === seed)!;
    const drawn = render(scene, all, noise, side), rgb = image(seed, side), ids = truth(seed, side);
    let difference = 0, wrong = 0;
    for (let i = 0; i < side * side; i++) {
      for (let c = 0; c < 3; c++) difference += Math.abs(drawn.pixels[4 * i + c] - rgb[3 * i + c]);
      wrong += Number(drawn.categories[drawn.truth[i]] !== ids[i]);
    }
    off.push(difference / side / side / 3);
    expect(wrong / side / side).toBeLessThan(0.01);
  }
  console.log(`mean difference of ${off.length} scenes: ${Math.min(...off).toFixed(2)} to ${Math.max(...off).toFixed(2)} of 255`);
  expect(Math.max(...off)).toBeLessThanOrEqual(1);
});

test('a foot on the ground has the depth it was put at', () => {
  const scene = stock().scenes[0];
  for (const item of scene.items) expect(depthAt(scene, footOf(scene, item)[1])).toBeCloseTo(item.depth, 4);
});
