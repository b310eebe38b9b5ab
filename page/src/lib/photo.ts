/** Photos and models that a person gives: read here, sent nowhere; what cannot be used ends in a sentence. */
import type { About } from './model';

const MOST_PIXELS = 60e6;

/** Width and height from a PNG's or JPEG's first bytes; null for other formats. */
export function sizeOf(bytes: Uint8Array): [number, number] | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length > 24 && view.getUint32(0) === 0x89504e47) return [view.getUint32(16), view.getUint32(20)];
  if (bytes.length > 4 && view.getUint16(0) === 0xffd8) {
    for (let at = 2; at + 9 < bytes.length && bytes[at] === 0xff; at += 2 + view.getUint16(at + 2)) {
      const marker = bytes[at + 1];
      if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) return [view.getUint16(at + 7), view.getUint16(at + 5)];
    }
  }
  return null;
}

/** The size a model sees a photo at: the short side as asked, unless the long one would be too long; multiples of 32 pixels. */
export function fitted(width: number, height: number, short: number, long: number): [number, number] {
  const scale = Math.min(short / Math.min(width, height), long / Math.max(width, height));
  const whole = (side: number) => 32 * Math.max(1, Math.round((side * scale) / 32));
  return [whole(width), whole(height)];
}

export interface Photo { pixels: Uint8ClampedArray<ArrayBuffer>; width: number; height: number; name: string }

/** A photo at the model's size. Throws an Error with one sentence for what is no photo, or too large a one. */
export async function readPhoto(file: Blob & { name?: string }, short: number, long: number): Promise<Photo> {
  const name = file.name ?? 'the photo';
  const head = new Uint8Array(await file.slice(0, 1 << 18).arrayBuffer()), size = sizeOf(head);
  if (size && size[0] * size[1] > MOST_PIXELS) {
    throw new Error(`${name} has ${Math.round((size[0] * size[1]) / 1e6)} million pixels: make it smaller (at most ${MOST_PIXELS / 1e6} million)`);
  }
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${name} is no photo that this browser can read: give a JPEG, PNG or WebP`);
  }
  return fromBitmap(bitmap, name, short, long);
}

export function fromBitmap(bitmap: CanvasImageSource & { width: number; height: number }, name: string, short: number, long: number): Photo {
  const [width, height] = fitted(bitmap.width, bitmap.height, short, long);
  const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true })!;
  context.imageSmoothingQuality = 'high';
  context.drawImage(bitmap, 0, 0, width, height);
  return { pixels: context.getImageData(0, 0, width, height).data, width, height, name };
}

/** An export's files -> its description and graphs. Throws an Error with one sentence for what is missing. */
export async function readModel(files: File[]): Promise<{ about: About; files: Record<string, Uint8Array> }> {
  const description = files.find(({ name }) => name === 'model.json');
  if (!description) throw new Error('model.json is missing: give all files of the folder that `minidetr export MODEL --to onnx OUT` wrote');
  let about: About;
  try {
    about = JSON.parse(await description.text()) as About;
  } catch {
    throw new Error('model.json is damaged: export the model again');
  }
  const graphs: Record<string, Uint8Array> = {};
  for (const file of files) {
    const name = file.name.replace(/\.onnx$/, '');
    if (file.name.endsWith('.onnx') && name !== 'whole') graphs[name] = new Uint8Array(await file.arrayBuffer());
  }
  return { about, files: graphs };
}
