/** Calls to a worker and its answers: `answer` in the worker, `Remote` in the page. */

type Handlers = Record<string, (payload: never) => unknown>;

export interface Progress { loaded: number; total: number }

/** Answer calls one after the other; whatever is thrown goes back as a sentence. */
export function answer(handlers: Handlers): void {
  let last: Promise<unknown> = Promise.resolve();
  self.onmessage = ({ data: { id, name, payload } }: MessageEvent) => {
    last = last.then(async () => {
      try {
        self.postMessage({ id, result: await handlers[name](payload as never) });
      } catch (error) {
        self.postMessage({ id, error: String((error as Error)?.message ?? error) });
      }
    });
  };
}

export const report = (progress: Progress): void => self.postMessage({ progress });

export class Remote {
  private waiting = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>();
  private count = 0;

  constructor(private worker: Worker, onProgress: (progress: Progress) => void = () => {}) {
    worker.onmessage = ({ data }) => {
      if (data.progress) return onProgress(data.progress as Progress);
      const { resolve, reject } = this.waiting.get(data.id)!;
      this.waiting.delete(data.id);
      if (data.error === undefined) resolve(data.result as never);
      else reject(new Error(data.error));
    };
    worker.onerror = (event) => {
      for (const { reject } of this.waiting.values()) reject(new Error(event.message || 'a worker could not start'));
      this.waiting.clear();
    };
  }

  call<T>(name: string, payload?: unknown): Promise<T> {
    const id = this.count++;
    return new Promise<T>((resolve, reject) => {
      this.waiting.set(id, { resolve: resolve as (value: never) => void, reject });
      this.worker.postMessage({ id, name, payload });
    });
  }
}
