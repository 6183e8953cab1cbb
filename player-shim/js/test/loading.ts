// The fragment loader, with a player and an engine that do what the test says.
import type { Engine } from "../src/engine";
import { Grains } from "../src/hlsjs/grain";
import { loaderClass, type LoaderHost } from "../src/hlsjs/loader";
import { freshStats } from "../src/hlsjs/timings";
import type { HlsConfig, Loader, LoaderCallbacks, LoaderContext, LoaderStats } from "../src/hlsjs/types";
import type { Delivery, Waiting } from "../src/requests";

/** The player's own loader: records what is done to it. */
export class Own implements Loader {
  static made: Own[] = [];
  context: LoaderContext | null = null;
  stats: LoaderStats = freshStats();
  calls: string[] = [];
  callbacks: LoaderCallbacks | null = null;
  startAtLoad = -1;

  constructor() {
    Own.made.push(this);
  }

  load(context: LoaderContext, _settings: object, callbacks: LoaderCallbacks): void {
    if (this.stats.loading.start) throw new Error("Loader can only be used once.");
    this.calls.push("load");
    this.startAtLoad = this.stats.loading.start = performance.now();
    this.context = context;
    this.callbacks = callbacks;
  }

  abort(): void {
    this.calls.push("abort");
    if (this.context) this.callbacks?.onAbort?.(this.stats, this.context, null);
  }

  destroy(): void {
    this.calls.push("destroy");
  }
}

/** An engine that knows one segment and answers when the test says so. */
export class FakeEngine {
  waiting: Waiting | null = null;
  grainMs = -1;
  abandoned = 0;
  atOnce = false;
  faults: unknown[] = [];
  looks = 0;
  looksBeforeWant = 0;
  entry = { url: "" };

  lookup(url: string): { name: string; entry: { url: string } } | null {
    return url.includes("seg") ? { name: "00000000000000aa", entry: this.entry } : null;
  }

  want(_name: string, waiting: Waiting, grainMs: number): number {
    this.waiting = waiting;
    this.grainMs = grainMs;
    this.looksBeforeWant = this.looks;
    if (this.atOnce) waiting.onBypass(false);
    return 1;
  }

  abandon(): void {
    this.abandoned += 1;
  }

  fault(error: unknown): void {
    this.faults.push(error);
  }
}

export function setUp(context: Partial<LoaderContext> = {}, engine: FakeEngine | null = new FakeEngine()) {
  Own.made = [];
  const owned: [number, boolean][] = [];
  const asked: [number | string, boolean][] = [];
  const host: LoaderHost = {
    engine: engine as unknown as Engine | null,
    bufferMs: 0,
    grains: new Grains(),
    look: () => {
      if (engine) engine.looks += 1;
    },
    onAsked: (frag, isPart) => asked.push([frag.sn, isPart]),
    onOwnLoad: (_frag, bytes, _ms, failed) => owned.push([bytes, failed]),
  };
  const config = { loader: Own } as unknown as HlsConfig;
  const loader = new (loaderClass(host, Own))(config);
  const log: string[] = [];
  let success: unknown = null;
  const full: LoaderContext = {
    url: "https://cdn.example/v/seg-1.m4s?token=1",
    rangeStart: 0,
    rangeEnd: 0,
    frag: { sn: 1, level: 0, type: "main", duration: 4 },
    part: null,
    ...context,
  };
  const callbacks: LoaderCallbacks = {
    onSuccess: (response) => {
      success = response.data;
      log.push("success");
    },
    onError: () => log.push("error"),
    onTimeout: () => log.push("timeout"),
    onAbort: () => log.push("abort"),
  };
  const load = async (): Promise<void> => {
    loader.load(full, { loadPolicy: { maxLoadTimeMs: 60_000 } }, callbacks);
    await Promise.resolve();
  };
  return { engine, host, loader, log, load, owned, asked, full, callbacks, data: () => success };
}

/** What the engine delivers. */
export function delivery(data: ArrayBuffer, reportedBps = 1_000_000, ttfbMs = 40, pieceLen = 16_384): Delivery {
  return { data, reportedBps, ttfbMs, pieceLen };
}
