/** What the page knows and does: one scene or photo, what the model makes of it, and what a person changed. */
import { apply, changes, read, write } from './address';
import { Remote, type Progress } from './calls';
import { classesOf } from './merge';
import { mistakes } from './colours';
import type { About, Explained, Masked, Prediction, Seen } from './model';
import { readModel, readPhoto, type Photo } from './photo';
import type { Item, Picture, Scene, Stock } from './scene';

export const STILL = 288, MOVING = 192; // pixels: the scene's side when it rests, and while something is dragged
export const STAGES = ['image', 'backbone', 'encoder', 'boxes', 'heatmaps', 'masks', 'argmax'] as const;
export const VIEWS = ['segments', 'boxes', 'mistakes'] as const;
export type Stage = (typeof STAGES)[number];

interface Looked { name: string; pixels: Uint8ClampedArray<ArrayBuffer>; width: number; height: number; seen: Seen; masked: Masked; truth: Uint8Array | null; milliseconds: number }
interface Colours { projected: Tinted | null; memory: Tinted | null }
interface Tinted { size: [number, number]; rgba: Uint8ClampedArray<ArrayBuffer> }
interface Attention { values: Float32Array; layers: number; heads: number }

const nothing = { query: -1, muted: [] as number[], painted: null as Float32Array | null, embedding: null as Float32Array | null };

export class App {
  state = $state<'loading' | 'ready' | 'failed'>('loading');
  progress = $state<Progress>({ loaded: 0, total: 0 });
  failure = $state('');
  notice = $state('');
  about = $state.raw<About | null>(null);
  stock = $state.raw<Stock | null>(null);
  number = $state(0);
  scene = $state.raw<Scene | null>(null);
  photo = $state.raw<Photo | null>(null);
  picture = $state.raw<Picture | null>(null);
  looked = $state.raw<Looked | null>(null);
  explained = $state.raw<Explained | null>(null);
  colours = $state.raw<Colours | null>(null);
  attention = $state.raw<Attention | null>(null);
  threshold = $state(0.7);
  query = $state<number | null>(null);
  selected = $state<number | null>(null);
  stage = $state<Stage>('image');
  change = $state.raw({ ...nothing });
  carried = $state.raw<{ embedding: Float32Array; name: string } | null>(null);
  dragging = $state(false);
  view = $state<(typeof VIEWS)[number]>('segments');
  ownModel = $state('');

  private painter!: Remote;
  private model!: Remote;
  private painting: Promise<void> | null = null;
  private looking: Promise<void> | null = null;
  private paintAgain = false;
  private lookAgain = false;
  private changing: Promise<void> | null = null;
  private changeAgain = false;
  private written = ''; // the address that this page wrote or followed last
  /** Milliseconds of each step while something was dragged, for those who measure. */
  steps: number[] = [];

  names = $derived(new Map((this.about?.categories ?? []).map((category) => [category.id, category.name])));
  byId = $derived(new Map((this.about?.categories ?? []).map((category) => [category.id, category])));
  chosen = $derived<Prediction | null>(this.looked?.masked.kept.find(({ query }) => query === this.query) ?? null);
  /** The chosen query's heatmaps, all heads added, h x w; null where the model has none. */
  added = $derived.by(() => {
    const { heatmaps, grid: [h, w] } = this.explained ?? { heatmaps: null, grid: [0, 0] };
    if (!heatmaps) return null;
    const sum = new Float32Array(h * w);
    heatmaps.forEach((value, i) => { sum[i % (h * w)] += value; });
    return sum;
  });
  /** Its mask as probabilities. */
  mask = $derived(this.explained && { size: this.explained.mask.size, values: this.explained.mask.values.map((logit) => 1 / (1 + Math.exp(-logit))) });
  checked = $derived.by(() => {
    if (!this.looked?.truth || this.ownModel) return null;
    const { pixels, masked, truth } = this.looked;
    return mistakes(pixels, classesOf(masked.owners, masked.kept), truth);
  });

  async begin(): Promise<void> {
    try {
      if (!WebAssembly.validate(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11]))) {
        throw new Error('this browser lacks WebAssembly SIMD, which the model needs: update it, or take a newer one (every large one has had it since 2023)');
      }
      const base = document.baseURI.replace(/[?#].*$/, '');
      this.painter = new Remote(new Worker(new URL('./painter.worker.ts', import.meta.url), { type: 'module' }));
      this.model = new Remote(new Worker(new URL('./model.worker.ts', import.meta.url), { type: 'module' }), (progress) => (this.progress = progress));
      const starting = this.model.call<About>('begin', { base });
      this.stock = (await (await fetch(new URL('model/scenes.json', base))).json()) as Stock;
      await this.painter.call('begin', this.stock);
      const muted = this.follow(location.hash);
      await this.paint();
      this.about = await starting;
      this.threshold = read(location.hash).threshold ?? this.about.preset.threshold;
      this.state = 'ready';
      window.addEventListener('hashchange', () => void this.arrive());
      await this.look();
      await this.muteAll(muted);
    } catch (error) {
      this.state = 'failed';
      this.failure = (error as Error).message;
    }
  }

  /** Show what an address names; the heads that it mutes are muted once there is a result. */
  private follow(hash: string): number[] {
    this.written = location.hash;
    const view = read(hash), stock = this.stock!, named = stock.scenes.findIndex(({ seed }) => seed === view.scene);
    this.show(named >= 0 ? named : this.inviting());
    if (STAGES.includes(view.stage as Stage)) this.stage = view.stage as Stage;
    if (named < 0) {
      if (/scene=|items=/.test(hash)) this.notice = 'this link names no scene that this page has: here is another one';
      return [];
    }
    const scene = this.scene!;
    if (view.light !== null && stock.lights[view.light]) scene.light = view.light;
    if (view.visibility !== null && view.visibility >= 10) scene.visibility = view.visibility;
    if (view.items) apply(scene, view.items, (category) => this.sample(category));
    if (VIEWS.includes(view.view as never)) this.view = view.view as (typeof VIEWS)[number];
    this.query = view.query;
    return (view.muted ?? '').split(',').filter(Boolean).map(Number).filter((head) => head >= 0 && head < 64);
  }

  /** Another address was given while the page is open. */
  private async arrive(): Promise<void> {
    const muted = this.follow(location.hash);
    this.threshold = read(location.hash).threshold ?? this.about!.preset.threshold;
    await this.paint();
    await this.look();
    await this.muteAll(muted);
  }

  private async muteAll(muted: number[]): Promise<void> {
    if (!muted.length || this.query === null) return;
    this.change = { ...this.own(), muted };
    await this.again();
  }

  /** A scene to begin with: a worker stands before a truck. */
  private inviting(): number {
    const found = this.stock!.scenes.findIndex(({ items }) => {
      const truck = items.find(({ category }) => category === 6), worker = items.find(({ category }) => category === 10);
      return truck && worker && worker.depth < truck.depth && truck.depth < 16 && worker.depth < 12;
    });
    return Math.max(0, found);
  }

  /** Any thing of a class, to add one like it. */
  sample(category: number): Item | undefined {
    for (const { items } of this.stock!.scenes) for (const item of items) if (item.category === category) return item;
    return undefined;
  }

  show(number: number): void {
    this.dragging = false;
    this.number = number;
    this.photo = null;
    this.selected = null;
    this.scene = structuredClone(this.stock!.scenes[number]);
    this.unchange();
  }

  async open(number: number): Promise<void> {
    this.show(number);
    await this.changed();
  }

  /** The scene changed: draw it, and look at it; calls while that goes on become one. */
  async changed(): Promise<void> {
    this.unchange();
    await this.paint();
    await this.look();
  }

  private unchange(): void {
    this.change = { ...nothing };
  }

  private paint(): Promise<void> {
    this.paintAgain = true;
    return (this.painting ??= (async () => {
      try {
        while (this.paintAgain && this.scene) {
          this.paintAgain = false;
          const side = this.dragging ? MOVING : STILL;
          this.picture = await this.painter.call<Picture>('paint', { scene: this.scene, side });
        }
      } catch (error) {
        this.notice = `the scene could not be drawn (${(error as Error).message})`;
      } finally {
        this.painting = null;
      }
    })());
  }

  look(): Promise<void> {
    this.lookAgain = true;
    if (this.state !== 'ready') return Promise.resolve();
    return (this.looking ??= (async () => {
      try {
        while (this.lookAgain) {
          this.lookAgain = false;
          const start = performance.now(), moving = this.dragging, given = this.given();
          if (!given) break;
          const { pixels, width, height, truth } = given, name = this.photo?.name ?? `scene ${this.number + 1}`;
          const result = await this.model.call<{ seen: Seen; masked: Masked }>('look', { rgba: pixels, width, height, threshold: this.threshold });
          this.looked = { name, pixels, width, height, truth, ...result, milliseconds: performance.now() - start };
          if (moving) this.steps.push(performance.now() - start);
          this.settle();
          if (!moving && !this.lookAgain) await this.inspect();
        }
      } catch (error) {
        this.notice = (error as Error).message;
      }
      this.looking = null;
    })());
  }

  private given(): { pixels: Uint8ClampedArray<ArrayBuffer>; width: number; height: number; truth: Uint8Array | null } | null {
    if (this.photo) return { ...this.photo, truth: null };
    if (!this.picture) return null;
    const { pixels, side, truth, categories } = this.picture;
    return { pixels, width: side, height: side, truth: truth.map((id) => categories[id]) };
  }

  /** After a look: the chosen query is one that is kept. */
  private settle(): void {
    const kept = this.looked!.masked.kept;
    if (kept.some(({ query }) => query === this.query)) return;
    const things = kept.filter(({ label }) => this.byId.get(label)?.isthing), areas = this.looked!.masked.owners.area;
    const largest = [...(things.length ? things : kept)].sort((a, b) => areas[kept.indexOf(b)] - areas[kept.indexOf(a)])[0];
    this.query = largest?.query ?? null;
  }

  /** What the opened stage shows of the resting image. */
  private async inspect(): Promise<void> {
    this.address();
    this.colours = await this.model.call<Colours>('colours');
    this.attention = this.stage === 'encoder' ? await this.model.call<Attention | null>('attention') : null;
    this.explained = this.query === null ? null : await this.model.call<Explained>('explain', { query: this.query });
  }

  async choose(query: number | null): Promise<void> {
    if (query === this.query) return;
    const changed = this.change.query >= 0;
    this.unchange();
    this.query = query;
    if (changed) await this.again();
    else await this.waited(() => this.inspect());
  }

  async openStage(stage: Stage): Promise<void> {
    this.stage = stage;
    this.address();
    if (stage === 'encoder' && !this.attention) await this.waited(async () => { this.attention = await this.model.call('attention'); });
  }

  /** Threshold or heatmaps changed: masks and argmax once more; calls while that goes on become one. */
  again(): Promise<void> {
    this.changeAgain = true;
    return (this.changing ??= (async () => {
      while (this.changeAgain) {
        this.changeAgain = false;
        await this.segmentAgain();
      }
      this.changing = null;
    })());
  }

  private async segmentAgain(): Promise<void> {
    await this.waited(async () => {
      const start = performance.now(), change = this.change.query >= 0 ? this.change : null;
      const masked = await this.model.call<Masked>('segment', { threshold: this.threshold, change });
      this.looked = { ...this.looked!, masked, milliseconds: performance.now() - start };
      this.settle();
      if (!this.changeAgain) await this.inspect();
    });
  }

  private async waited(work: () => Promise<void>): Promise<void> {
    if (this.state !== 'ready' || !this.looked) return;
    await this.looking;
    try {
      await work();
    } catch (error) {
      this.notice = (error as Error).message;
    }
  }

  mute(head: number): Promise<void> {
    const muted = this.own().muted, next = muted.includes(head) ? muted.filter((one) => one !== head) : [...muted, head];
    this.change = { ...this.own(), muted: next };
    return this.again();
  }

  paintHeatmap(cells: Float32Array | null): Promise<void> {
    this.change = { ...this.own(), painted: cells };
    return this.again();
  }

  async carry(): Promise<void> {
    if (this.query === null || !this.chosen) return;
    const embedding = await this.model.call<Float32Array>('embedding', { query: this.query });
    this.carried = { embedding, name: `${this.names.get(this.chosen.label)} of scene ${this.photo ? 'the photo' : this.number + 1}` };
  }

  /** Put the carried embedding in the place of the chosen query's. */
  drop(): Promise<void> {
    this.change = { ...this.own(), embedding: this.carried!.embedding };
    return this.again();
  }

  reset(): Promise<void> {
    this.unchange();
    return this.again();
  }

  private own() {
    return this.change.query === this.query ? this.change : { ...nothing, query: this.query ?? -1 };
  }

  // --- the scene --------------------------------------------------------------------------------------------------------------

  private edit(change: (items: Item[]) => void): void {
    const items = [...this.scene!.items];
    change(items);
    this.scene = { ...this.scene!, items };
    void this.changed();
  }

  moveItem(index: number, across: number, depth: number): void {
    if (!this.scene?.items[index]) return;
    this.edit((items) => {
      const place = { across: Math.min(1.05, Math.max(-0.05, across)), depth: Math.min(160, Math.max(2.5, depth)) };
      items[index] = { ...items[index], ...place };
    });
  }

  /** No more things fit. */
  get full(): boolean {
    return (this.scene?.items.filter(({ gone }) => !gone).length ?? 0) >= 30;
  }

  add(category: number): void {
    const like = this.sample(category);
    if (!like || this.full) return;
    this.selected = this.scene!.items.length;
    this.edit((items) => items.push({ ...like, across: 0.15 + 0.7 * ((this.scene!.items.length * 0.618) % 1), depth: Math.max(6, Math.min(14, like.depth)), gone: false }));
  }

  remove(index: number): void {
    this.selected = null;
    this.edit((items) => { items[index] = { ...items[index], gone: true }; });
  }

  setLight(light: number): void {
    this.scene = { ...this.scene!, light, visibility: undefined };
    void this.changed();
  }

  setVisibility(metres: number): void {
    this.scene = { ...this.scene!, visibility: metres };
    void this.changed();
  }

  /** "worker 2": the things of the scene by their names. */
  itemName(index: number): string {
    const { items } = this.scene!, { category } = items[index], same = items.filter((item) => item.category === category && !item.gone);
    const name = CLASSES[category] ?? `class ${category}`;
    return same.length > 1 ? `${name} ${same.indexOf(items[index]) + 1}` : name;
  }

  // --- what people bring ------------------------------------------------------------------------------------------------------

  async bring(files: File[]): Promise<void> {
    this.notice = '';
    if (this.state !== 'ready') {
      this.notice = 'one moment: the model is still starting';
      return;
    }
    try {
      if (files.some(({ name }) => name.endsWith('.onnx') || name === 'model.json')) await this.bringModel(files);
      else if (files[0]) {
        await this.bringPhoto(files[0]);
        if (files.length > 1) this.notice = `one photo at a time: this is ${files[0].name}`;
      }
    } catch (error) {
      this.notice = (error as Error).message;
    }
  }

  private async bringPhoto(file: File): Promise<void> {
    const { short_side, long_side } = this.about!.preset;
    this.usePhoto(await readPhoto(file, short_side, long_side));
  }

  usePhoto(photo: Photo): void {
    this.unchange();
    this.dragging = false;
    this.photo = photo;
    void this.look();
  }

  private async bringModel(files: File[]): Promise<void> {
    const given = await readModel(files);
    await this.looking;
    this.about = await this.model.call<About>('replace', given);
    this.ownModel = `${this.about.categories.length} classes, ${this.about.preset.queries} queries, ${this.about.preset.heads} heads`;
    this.threshold = this.about.preset.threshold;
    this.unchange();
    this.query = null;
    await this.look();
  }

  /** The model in the box again. */
  async boxModel(): Promise<void> {
    await this.looking;
    this.about = await this.model.call<About>('back');
    this.ownModel = '';
    this.threshold = this.about.preset.threshold;
    this.unchange();
    await this.look();
  }

  address(): void {
    if (!this.scene || this.state !== 'ready') return;
    const original = this.stock!.scenes[this.number];
    const view = {
      scene: this.scene.seed, stage: this.stage, query: this.query, items: changes(this.scene, original),
      threshold: this.threshold === this.about?.preset.threshold ? null : this.threshold,
      light: this.scene.light === original.light ? null : this.scene.light,
      visibility: this.scene.visibility ? Math.round(this.scene.visibility) : null,
      view: this.view === 'segments' ? null : this.view, muted: this.change.muted.length ? this.change.muted.join(',') : null,
    };
    if (location.hash !== this.written) return; // another one was given, and is about to be followed
    history.replaceState(null, '', this.photo ? '#' : write(view));
    this.written = location.hash;
  }
}

/** The classes of drawn scenes, whatever model looks at them. */
export const CLASSES: Record<number, string> = {
  3: 'building', 4: 'vegetation', 5: 'excavator', 6: 'dump truck', 7: 'tower crane', 8: 'traffic cone', 9: 'brick stack', 10: 'worker',
};

export const app = new App();
