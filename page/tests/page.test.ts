import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import type { Server } from 'node:http';
import { deflateSync } from 'node:zlib';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { addressOf, after, BUILT, CHROMIUM, launch, open, pixelsOf, ready, serve, times } from './browser';
import { bytes, model } from './reference';

const here = existsSync(CHROMIUM) && existsSync(`${BUILT}/index.html`);
let server: Server, browser: Browser, address: string;

/** The share of values that differ by more than a little. */
const differing = (a: number[], b: number[]) => a.filter((value, i) => Math.abs(value - b[i]) > 12).length / a.length;

/** A PNG's bytes that say it has `width` x `height` pixels; its data are one row. */
function pngOf(width: number, height: number): Buffer {
  const crcTable = Array.from({ length: 256 }, (_, n) => { let c = n; for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1; return c >>> 0; });
  const crc = (data: Buffer) => { let c = 0xffffffff; for (const byte of data) c = crcTable[(c ^ byte) & 255] ^ (c >>> 8); return (c ^ 0xffffffff) >>> 0; };
  const chunk = (type: string, data: Buffer) => {
    const body = Buffer.concat([Buffer.from(type), data]), length = Buffer.alloc(4), end = Buffer.alloc(4);
    length.writeUInt32BE(data.length);
    end.writeUInt32BE(crc(body));
    return Buffer.concat([length, body, end]);
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2, 0, 0, 0], 8);
  const row = Buffer.alloc((1 + 3 * width) * Math.min(height, 200), 90);
  for (let y = 0; y < Math.min(height, 200); y++) row[y * (1 + 3 * width)] = 0;
  return Buffer.concat([Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]), chunk('IHDR', header), chunk('IDAT', deflateSync(row)), chunk('IEND', Buffer.alloc(0))]);
}

describe.skipIf(!here)('the page in Chromium', () => {
  beforeAll(async () => {
    server = await serve(BUILT);
    address = addressOf(server);
    browser = await launch();
  });
  afterAll(async () => {
    await browser?.close();
    server?.close();
  });

  test('it loads with this host alone, says what it loads, and shows a right result', async () => {
    const { page, errors, strangers } = await open(browser, address);
    await page.getByText(/loading \d+ of 2\d MB/).waitFor({ timeout: 20_000 });
    await ready(page);
    expect(Number(/([\d.]+) % of the pixels right/.exec(await times(page))![1])).toBeGreaterThan(90);
    await page.getByText(/^Drag the .* behind the/).waitFor();
    expect(errors).toEqual([]);
    expect(strangers).toEqual([]);
    await page.close();
  });

  test('a thing is dragged: scene, result and address follow, and a link to it shows the same', async () => {
    const { page, errors } = await open(browser, `${address}#scene=1000011&stage=image`);
    await ready(page);
    const scene = await pixelsOf(page, 'scene'), result = await pixelsOf(page, 'result'), before = await times(page);
    const box = (await page.locator('canvas[data-testid=scene]').boundingBox())!;
    const at = (x: number, y: number): [number, number] => [box.x + x * box.width, box.y + y * box.height];
    await page.mouse.move(...at(0.77, 0.78));
    await page.mouse.down();
    for (let i = 1; i <= 6; i++) await page.mouse.move(...at(0.77 - i * 0.06, 0.78 - i * 0.005));
    await page.mouse.up();
    await after(page, before);
    await page.waitForFunction(() => /items=/.test(location.hash) && document.querySelector<HTMLCanvasElement>('canvas[data-testid=result]')!.width === 288, null, { timeout: 60_000 });
    const moved = await pixelsOf(page, 'scene');
    expect(differing(moved, scene)).toBeGreaterThan(0.01);
    expect(differing(await pixelsOf(page, 'result'), result)).toBeGreaterThan(0.01);
    const other = await open(browser, page.url());
    await ready(other.page);
    expect(differing(await pixelsOf(other.page, 'scene'), moved)).toBeLessThan(0.01);
    expect([...errors, ...other.errors]).toEqual([]);
    await page.close();
    await other.page.close();
  });

  test('the keyboard moves and removes a thing, and chooses a segment', async () => {
    const { page } = await open(browser, address);
    await ready(page);
    const before = await times(page), scene = await pixelsOf(page, 'scene');
    await page.getByRole('group', { name: 'Things in the scene' }).getByRole('button').first().press('Enter');
    await page.getByRole('application').focus();
    await page.keyboard.press('ArrowRight');
    await after(page, before);
    expect(await pixelsOf(page, 'scene')).not.toEqual(scene);
    const things = page.getByRole('group', { name: 'Things in the scene' }).getByRole('button'), count = await things.count();
    await page.keyboard.press('Delete');
    await expect.poll(() => things.count()).toBe(count - 1);
    const sky = page.getByRole('group', { name: 'What the model found' }).getByRole('button', { name: /^sky/ });
    expect(await sky.getAttribute('aria-pressed')).toBe('false');
    await sky.press('Enter');
    await expect.poll(() => sky.getAttribute('aria-pressed')).toBe('true');
    await page.close();
  });

  test('a head is muted, a heatmap painted, a query carried: the mask follows and comes back', async () => {
    const { page, errors } = await open(browser, `${address}#scene=1000011&stage=heatmaps`);
    await ready(page);
    const heads = page.getByRole('button', { name: /mute head/ });
    await expect.poll(() => heads.count(), { timeout: 60_000 }).toBe(8);
    const own = await pixelsOf(page, 'result');
    const shares = await Promise.all((await heads.all()).map(async (head) => Number(/, (\d+) percent/.exec((await head.getAttribute('aria-label'))!)![1])));
    expect(shares.reduce((a, b) => a + b)).toBeGreaterThan(95);
    const back = page.getByRole('button', { name: 'its own heatmaps again' });
    let before = await times(page);
    await heads.nth(shares.indexOf(Math.max(...shares))).click();
    await after(page, before);
    expect(differing(await pixelsOf(page, 'result'), own)).toBeGreaterThan(0.01);
    before = await times(page);
    await back.click();
    await after(page, before);
    expect(differing(await pixelsOf(page, 'result'), own)).toBeLessThan(0.002);
    const canvas = (await page.getByLabel('Paint cells here: the heatmap by hand').boundingBox())!;
    before = await times(page);
    await page.mouse.move(canvas.x + canvas.width * 0.7, canvas.y + canvas.height * 0.2);
    await page.mouse.down();
    await page.mouse.move(canvas.x + canvas.width * 0.9, canvas.y + canvas.height * 0.2, { steps: 5 });
    await page.mouse.up();
    await after(page, before);
    await expect.poll(async () => differing(await pixelsOf(page, 'result'), own), { timeout: 60_000 }).toBeGreaterThan(0.01);
    await page.getByRole('button', { name: 'take this query along' }).click();
    before = await times(page);
    await page.getByRole('button', { name: '5', exact: true }).click();
    await after(page, before);
    await page.getByRole('button', { name: /put the .* of scene 12 here/ }).click({ timeout: 60_000 });
    await expect.poll(() => back.isEnabled(), { timeout: 60_000 }).toBe(true);
    expect(errors).toEqual([]);
    await page.close();
  });

  test('another scene in the middle of a drag ends it, and the page goes on', async () => {
    const { page, errors } = await open(browser, `${address}#scene=1000011`);
    await ready(page);
    const box = (await page.locator('canvas[data-testid=scene]').boundingBox())!;
    await page.mouse.move(box.x + 0.77 * box.width, box.y + 0.78 * box.height);
    await page.mouse.down();
    await page.mouse.move(box.x + 0.7 * box.width, box.y + 0.78 * box.height);
    await page.evaluate(() => [...document.querySelectorAll('button')].find((button) => button.textContent === '4')!.click());
    await page.mouse.move(box.x + 0.5 * box.width, box.y + 0.7 * box.height, { steps: 4 });
    await page.mouse.up();
    await expect.poll(() => times(page), { timeout: 60_000 }).toMatch(/^scene 4 · 288 x 288/);
    expect(page.url()).not.toContain('items=');
    expect(errors).toEqual([]);
    await page.close();
  });

  test('an address keeps haze, view and muted heads; a pasted one is followed; nonsense is told', async () => {
    const { page, errors } = await open(browser, `${address}#scene=1000011&stage=heatmaps&visibility=30&view=boxes&muted=6&query=4`);
    await ready(page);
    await expect.poll(() => page.getByRole('button', { name: /mute head 7/ }).getAttribute('aria-pressed').catch(() => ''), { timeout: 60_000 }).toBe('true');
    expect(await page.getByRole('button', { name: 'boxes', exact: true }).getAttribute('aria-pressed')).toBe('true');
    await expect.poll(() => page.url()).toMatch(/visibility=30/);
    await page.evaluate(() => { location.hash = '#scene=1000002&stage=argmax'; });
    await expect.poll(() => times(page), { timeout: 60_000 }).toMatch(/^scene 3 /);
    expect(await page.getByRole('tab', { name: 'argmax' }).getAttribute('aria-selected')).toBe('true');
    await page.evaluate(() => { location.hash = '#scene=abc&items=9:9:9,c99:0:1&threshold=7&query=-4'; });
    await expect.poll(() => page.getByRole('alert').textContent({ timeout: 60_000 }), { timeout: 60_000 }).toContain('this link names no scene');
    expect(errors).toEqual([]);
    await page.close();
  });

  test('stages: a cell of the encoder, the threshold, the masks apart', async () => {
    const { page, errors } = await open(browser, `${address}#stage=encoder`);
    await ready(page);
    const cells = page.getByLabel('The encoded image as colours; point at a cell');
    await cells.waitFor({ timeout: 60_000 });
    await cells.hover({ position: { x: 10, y: 10 } });
    await page.getByText('row 0, column 0', { exact: false }).waitFor();
    await page.getByRole('tab', { name: 'boxes' }).click();
    const before = await times(page), kept = page.getByRole('group', { name: 'What the model found' }).getByRole('button'), count = await kept.count();
    await page.locator('#threshold').fill('0.99');
    await page.locator('#threshold').dispatchEvent('change');
    await after(page, before);
    expect(await kept.count()).toBeLessThanOrEqual(count);
    await page.getByRole('tab', { name: 'argmax' }).click();
    expect(await page.locator('.layer').count()).toBe(await kept.count());
    expect(errors).toEqual([]);
    await page.close();
  });

  test('a photo and an export are taken; what cannot be used ends in a sentence and the page goes on', async () => {
    const { page, errors } = await open(browser, address);
    await ready(page);
    const alert = page.getByRole('alert');
    const photo = (name: string, buffer: Buffer) => page.locator('#photo').setInputFiles({ name, mimeType: 'image/png', buffer });
    await photo('huge.png', pngOf(10_000, 10_000));
    await expect.poll(() => alert.textContent()).toContain('huge.png has 100 million pixels: make it smaller');
    await photo('text.png', Buffer.from('no picture'));
    await expect.poll(() => alert.textContent()).toContain('text.png is no photo that this browser can read');
    let before = await times(page);
    await photo('mine.png', pngOf(300, 200));
    await after(page, before);
    expect(await times(page)).toContain('mine.png · 448 x 288 pixels');
    expect(await alert.count()).toBe(0);
    const files = (changed: Record<string, Buffer> = {}) => ['model.json', 'encode.onnx', 'decode.onnx', 'heatmaps.onnx', 'mask_head.onnx']
      .map((name) => ({ name, mimeType: 'application/octet-stream', buffer: changed[name] ?? Buffer.from(bytes(`${model}/${name}`)) }));
    await page.locator('#model').setInputFiles(files().slice(1));
    await expect.poll(() => alert.textContent()).toContain('model.json is missing');
    await page.locator('#model').setInputFiles(files({ 'decode.onnx': Buffer.alloc(50_000, 7) }));
    await expect.poll(() => alert.textContent(), { timeout: 30_000 }).toMatch(/damaged|ONNX|middle/);
    const other = JSON.parse(readFileSync(`${model}/model.json`, 'utf8'));
    other.categories = other.categories.map((category: { name: string }) => ({ ...category, name: `my ${category.name}`, color: null }));
    before = await times(page);
    await page.getByRole('button', { name: '3', exact: true }).click();
    await after(page, before);
    await page.locator('#model').setInputFiles(files({ 'model.json': Buffer.from(JSON.stringify(other)) }));
    await page.getByText('Your model: 10 classes, 20 queries, 8 heads.').waitFor({ timeout: 60_000 });
    await page.getByRole('button', { name: /my sky/ }).waitFor({ timeout: 60_000 });
    expect(errors).toEqual([]);
    await page.close();
  });

  test('a model that cannot be loaded ends in a sentence', async () => {
    const context = await browser.newContext(), page = await context.newPage();
    await page.route('**/decode.onnx', (route) => route.fulfill({ status: 404 }));
    await page.goto(address);
    await expect.poll(() => page.getByRole('alert').textContent({ timeout: 60_000 }), { timeout: 60_000 }).toContain('decode.onnx could not be loaded (404)');
    await page.close();
  });

  test('the tour asks twelve questions before it answers', async () => {
    const { page } = await open(browser, address);
    await ready(page);
    await page.getByRole('button', { name: /Take the tour/ }).click();
    for (let step = 1; step <= 12; step++) {
      await page.getByText(`${step} of 12`).waitFor();
      await page.getByRole('button', { name: 'the answer' }).click();
      await page.getByRole('button', { name: step < 12 ? 'next' : 'end the tour' }).last().click({ timeout: 120_000 });
    }
    await page.getByRole('button', { name: /Take the tour/ }).waitFor();
    await page.close();
  });

  test('axe finds nothing serious, light and dark, in each stage', async () => {
    for (const colorScheme of ['light', 'dark'] as const) {
      const { page } = await open(browser, address, { colorScheme });
      await ready(page);
      await page.addScriptTag({ content: readFileSync('node_modules/axe-core/axe.min.js', 'utf8') });
      for (const stage of ['image', 'encoder', 'boxes', 'heatmaps', 'masks', 'argmax']) {
        await page.locator(`#tab-${stage}`).click();
        await page.waitForTimeout(300);
        const found = await page.evaluate(async () => (await (window as never as { axe: { run: () => Promise<{ violations: { id: string; impact: string; nodes: { html: string }[] }[] }> } }).axe.run())
          .violations.filter(({ impact }) => impact === 'serious' || impact === 'critical').map(({ id, nodes }) => `${id}: ${nodes[0].html.slice(0, 150)}`));
        expect(found, `${colorScheme}, ${stage}`).toEqual([]);
      }
      await page.close();
    }
  });

  test('six states look as they did: screenshots on a coarse grid, compared loosely', async () => {
    const { page } = await open(browser, `${address}#scene=1000011`), file = 'tests/states.json';
    await ready(page);
    const seen: Record<string, number[]> = {};
    for (const stage of ['image', 'encoder', 'boxes', 'heatmaps', 'masks', 'argmax']) {
      await page.locator(`#tab-${stage}`).click();
      await page.mouse.move(0, 0);
      await page.waitForTimeout(1500);
      const picture = (await page.locator('#detail').screenshot()).toString('base64');
      seen[stage] = await page.evaluate(async (data) => {
        const image = new Image();
        image.src = `data:image/png;base64,${data}`;
        await image.decode();
        const context = new OffscreenCanvas(32, 20).getContext('2d')!;
        context.imageSmoothingQuality = 'high';
        context.drawImage(image, 0, 0, 32, 20);
        return Array.from(context.getImageData(0, 0, 32, 20).data).filter((_, i) => i % 4 < 3);
      }, picture);
    }
    await page.close();
    if (process.env.STATES) return writeFileSync(file, JSON.stringify(seen)); // after a change that was looked at
    const known = JSON.parse(readFileSync(file, 'utf8')) as Record<string, number[]>;
    for (const [stage, values] of Object.entries(seen)) {
      const difference = values.reduce((sum, value, i) => sum + Math.abs(value - known[stage][i]), 0) / values.length;
      expect(difference, stage).toBeLessThan(8); // of 255; an empty panel or picture makes more
    }
  });

  test('it fits: nothing sticks out at 390, 900 and 1440 pixels', async () => {
    if (process.env.SHOTS) mkdirSync(process.env.SHOTS, { recursive: true });
    const { page } = await open(browser, `${address}#stage=heatmaps`);
    await ready(page);
    await page.getByRole('button', { name: /mute head 8/ }).waitFor({ timeout: 60_000 });
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme });
      for (const width of [390, 900, 1440]) {
        await page.setViewportSize({ width, height: 900 });
        expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
        if (process.env.SHOTS) writeFileSync(`${process.env.SHOTS}/${width}-${colorScheme}.png`, await page.screenshot({ fullPage: true }));
      }
    }
    await page.close();
  });
});
