/** The endless noise tile of minidetr's scenes, made here instead of downloaded: NumPy's PCG64(0), filtered by 1 / f^smoothness. */

const SIDE = 512;
const MASK = (1n << 64n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
// numpy.random.PCG64(0).state["state"]
const START = 35399562948360463058890781895381311971n;
const INCREMENT = 87136372517582989555478159403783844777n;

/** `count` numbers in 0..1, those of numpy.random.Generator(numpy.random.PCG64(0)).random(count). */
export function uniform(count: number): Float64Array {
  const numbers = new Float64Array(count);
  let state = START;
  for (let i = 0; i < count; i++) {
    state = BigInt.asUintN(128, state * MULTIPLIER + INCREMENT);
    const mixed = (state >> 64n) ^ (state & MASK);
    const turn = state >> 122n;
    const word = turn ? ((mixed >> turn) | (mixed << (64n - turn))) & MASK : mixed;
    numbers[i] = Number(word >> 11n) / 2 ** 53;
  }
  return numbers;
}

/** In-place Fourier transform of 512 complex numbers `real + i imaginary` that lie `step` apart from `start`. */
function transform(real: Float64Array, imaginary: Float64Array, start: number, step: number, sign: 1 | -1): void {
  const at = (i: number) => start + i * step;
  for (let i = 1, j = 0; i < SIDE; i++) {
    let bit = SIDE >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      const a = at(i), b = at(j);
      [real[a], real[b]] = [real[b], real[a]];
      [imaginary[a], imaginary[b]] = [imaginary[b], imaginary[a]];
    }
  }
  for (let length = 2; length <= SIDE; length <<= 1) {
    const half = length >> 1;
    for (let k = 0; k < half; k++) {
      const angle = (sign * 2 * Math.PI * k) / length;
      const c = Math.cos(angle), s = Math.sin(angle);
      for (let i = k; i < SIDE; i += length) {
        const a = at(i), b = at(i + half);
        const x = real[b] * c - imaginary[b] * s, y = real[b] * s + imaginary[b] * c;
        real[b] = real[a] - x; imaginary[b] = imaginary[a] - y;
        real[a] += x; imaginary[a] += y;
      }
    }
  }
}

function everyLine(real: Float64Array, imaginary: Float64Array, sign: 1 | -1): void {
  for (let i = 0; i < SIDE; i++) transform(real, imaginary, i * SIDE, 1, sign);
  for (let i = 0; i < SIDE; i++) transform(real, imaginary, i, SIDE, sign);
}

function standardised(values: Float64Array): Float32Array {
  let mean = 0, square = 0;
  for (const value of values) mean += value;
  mean /= values.length;
  for (const value of values) square += (value - mean) ** 2;
  const deviation = Math.sqrt(square / values.length);
  return Float32Array.from(values, (value) => (value - mean) / deviation);
}

export interface Tiles { white: Float32Array; cloudy: Float32Array }

/** 512 x 512 noise without a seam, mean 0, standard deviation 1: white, and cloudy (smoothness 1.2). */
export function tiles(): Tiles {
  const random = uniform(SIDE * SIDE);
  const real = random.slice(), imaginary = new Float64Array(SIDE * SIDE);
  everyLine(real, imaginary, -1);
  const frequency = (i: number) => (i < SIDE / 2 ? i : i - SIDE) / SIDE;
  for (let y = 0; y < SIDE; y++) {
    for (let x = 0; x < SIDE; x++) {
      const gain = x || y ? Math.hypot(frequency(y), frequency(x)) ** -1.2 : 0;
      real[y * SIDE + x] *= gain;
      imaginary[y * SIDE + x] *= gain;
    }
  }
  everyLine(real, imaginary, 1);
  return { white: standardised(random), cloudy: standardised(real) };
}

/** The noise at a place of the endless tile, between four entries bilinear. */
export function noiseAt(tile: Float32Array, row: number, column: number): number {
  const y = Math.floor(row), x = Math.floor(column);
  const down = row - y, right = column - x;
  const top = (y & 511) << 9, bottom = ((y + 1) & 511) << 9, left = x & 511, beside = (x + 1) & 511;
  const upper = tile[top + left] * (1 - right) + tile[top + beside] * right;
  return upper * (1 - down) + (tile[bottom + left] * (1 - right) + tile[bottom + beside] * right) * down;
}
