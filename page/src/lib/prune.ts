/** Cuts outputs that nobody asks for out of an ONNX file, so that the runtime leaves out what only they need.
 *
 * ModelProto has the graph in field 7, GraphProto its outputs in field 12, ValueInfoProto its name in field 1
 * (onnx/onnx.proto); everything else is copied as it is.
 */

function varint(bytes: Uint8Array, at: number): [number, number] {
  let value = 0, scale = 1;
  for (;;) {
    if (at >= bytes.length) throw new Error('the file ends in the middle');
    const byte = bytes[at++];
    value += (byte & 127) * scale;
    if (byte < 128) return [value, at];
    scale *= 128;
  }
}

function encoded(value: number): number[] {
  const bytes: number[] = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) + 128);
  return [...bytes, value];
}

interface Field { number: number; start: number; body: number; end: number }

function* fieldsOf(bytes: Uint8Array): Generator<Field> {
  for (let at = 0; at < bytes.length; ) {
    const start = at;
    const [key, afterKey] = varint(bytes, at);
    let body = afterKey, end: number;
    if (key % 8 === 0) end = varint(bytes, body)[1];
    else if (key % 8 === 1) end = body + 8;
    else if (key % 8 === 5) end = body + 4;
    else if (key % 8 === 2) {
      const [length, next] = varint(bytes, body);
      body = next;
      end = next + length;
    } else throw new Error('this is no ONNX file');
    if (end > bytes.length) throw new Error('the file ends in the middle');
    yield { number: Math.floor(key / 8), start, body, end };
    at = end;
  }
}

const nameOf = (value: Uint8Array): string => {
  for (const field of fieldsOf(value)) if (field.number === 1) return new TextDecoder().decode(value.subarray(field.body, field.end));
  return '';
};

/** The file's bytes with no other outputs than `wanted`. */
export function withOutputs(model: Uint8Array, wanted: readonly string[]): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [];
  for (const field of fieldsOf(model)) {
    if (field.number !== 7) {
      parts.push(model.subarray(field.start, field.end));
      continue;
    }
    const graph = model.subarray(field.body, field.end), kept: Uint8Array[] = [];
    for (const inner of fieldsOf(graph)) {
      if (inner.number === 12 && !wanted.includes(nameOf(graph.subarray(inner.body, inner.end)))) continue;
      kept.push(graph.subarray(inner.start, inner.end));
    }
    const length = kept.reduce((sum, part) => sum + part.length, 0);
    parts.push(Uint8Array.from([(7 << 3) | 2, ...encoded(length)]), ...kept);
  }
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
