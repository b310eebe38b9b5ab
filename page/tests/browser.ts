/** The built page in Debian's Chromium, on a server of its own, with no way to any other host. */
import { createReadStream, existsSync, statSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { chromium, type Browser, type Page } from 'playwright-core';

const TYPES: Record<string, string> = {
  '.html': 'text/html', '.js': 'text/javascript', '.mjs': 'text/javascript', '.css': 'text/css', '.wasm': 'application/wasm', '.json': 'application/json',
};
export const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
export const BUILT = process.env.BUILT ?? '../minidetr/page';

export function serve(folder: string): Promise<Server> {
  const server = createServer((request, reply) => {
    const path = join(folder, normalize(decodeURIComponent(new URL(request.url!, 'http://x').pathname)));
    const file = existsSync(path) && statSync(path).isDirectory() ? join(path, 'index.html') : path;
    if (!existsSync(file)) return void reply.writeHead(404).end();
    reply.writeHead(200, { 'content-type': TYPES[extname(file)] ?? 'application/octet-stream' });
    createReadStream(file).pipe(reply);
  });
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)));
}

export const addressOf = (server: Server): string => `http://127.0.0.1:${(server.address() as { port: number }).port}/`;
export const launch = (): Promise<Browser> => chromium.launch({
  executablePath: CHROMIUM, args: ['--no-sandbox', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'],
});

/** A tab that notes errors and requests to other hosts, which are cut off. */
export async function open(browser: Browser, address: string, options: Parameters<Browser['newContext']>[0] = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
  const page = await context.newPage(), errors: string[] = [], strangers: string[] = [];
  page.on('pageerror', (error) => errors.push(error.message));
  await context.route('**', (route) => {
    const url = route.request().url();
    if (url.startsWith(address.split('#')[0].replace(/[^/]*$/, '')) || url.startsWith('blob:') || url.startsWith('data:')) return route.continue();
    strangers.push(url);
    return route.abort();
  });
  await page.goto(address);
  return { page, errors, strangers, context };
}

export const ready = (page: Page) => page.waitForFunction(() => document.documentElement.dataset.state === 'ready' && /pixels/.test(document.querySelector('[data-testid=times]')?.textContent ?? ''), null, { timeout: 110_000 });
export const pixelsOf = (page: Page, testid: string): Promise<number[]> => page.evaluate((id) => {
  const canvas = document.querySelector<HTMLCanvasElement>(`canvas[data-testid=${id}]`)!;
  return Array.from(canvas.getContext('2d')!.getImageData(0, 0, canvas.width, canvas.height).data);
}, testid);
export const times = (page: Page): Promise<string> => page.locator('[data-testid=times]').textContent() as Promise<string>;
/** Wait until the line of times says something else than `before`. */
export const after = (page: Page, before: string) => page.waitForFunction((old) => document.querySelector('[data-testid=times]')!.textContent !== old, before, { timeout: 110_000 });
