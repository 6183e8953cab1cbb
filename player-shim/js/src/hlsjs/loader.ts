// The fragment loader that hls.js is given: media segments through the engine, all else, and
// whatever the engine has no business with, through the loader that the player had before.
import { now } from "../core";
import type { Engine } from "../engine";
import { freshStats, reportDelivery, resetStats } from "./timings";
import type {
  Fragment,
  HlsConfig,
  Loader,
  LoaderCallbacks,
  LoaderClass,
  LoaderConfiguration,
  LoaderContext,
  LoaderStats,
} from "./types";

/** How long after the buffer ran dry the player's own loader takes over, in milliseconds. */
const OVERDUE_MS = 15_000;
const LOAD_MS_MAX = 120_000;

/** What loaders need of the session. */
export interface LoaderHost {
  /** The engine, if it is ready. */
  engine: Engine | null;
  /** Media ahead of the playhead, in milliseconds. */
  bufferMs: number;
  /** Brings what the engine knows of the player up to date. */
  look(): void;
  /** The player's own loader has got something. `failed`: after the engine could not. */
  onOwnLoad(frag: Fragment | undefined, bytes: number, waitedMs: number, failed: boolean): void;
}

/** Makes the class to be set as `fLoader`; `own` is what the player would use otherwise. */
export function loaderClass(host: LoaderHost, own: LoaderClass): LoaderClass {
  return class extends ShoalLoader {
    constructor(config: HlsConfig) {
      super(host, own, config);
    }
  };
}

class ShoalLoader implements Loader {
  context: LoaderContext | null = null;
  stats: LoaderStats = freshStats();
  private inner: Loader | null = null;
  private settings: LoaderConfiguration = {};
  private callbacks: LoaderCallbacks | null = null;
  private cancel: (() => void) | null = null;
  private overdue: ReturnType<typeof setTimeout> | undefined;
  private asked = 0;

  constructor(
    private readonly host: LoaderHost,
    private readonly own: LoaderClass,
    private readonly hlsConfig: HlsConfig,
  ) {}

  load(context: LoaderContext, settings: LoaderConfiguration, callbacks: LoaderCallbacks): void {
    if (this.callbacks) throw new Error("Loader can only be used once.");
    this.context = context;
    this.settings = settings;
    this.callbacks = callbacks;
    this.asked = now();
    if (!this.host.engine || !isMedia(context)) return this.loadThroughOwn(false);
    this.stats.loading.start = this.asked;
    let cancelled = false;
    this.cancel = () => (cancelled = true);
    // hls.js asks for a new segment before others hear of the playlist that lists it.
    queueMicrotask(() => {
      if (cancelled) return;
      this.cancel = null;
      this.begin(context);
    });
  }

  abort(): void {
    if (this.inner) return this.inner.abort();
    if (!this.cancel) return;
    this.release();
    this.stats.aborted = true;
    if (this.context) this.callbacks?.onAbort?.(this.stats, this.context, null);
  }

  destroy(): void {
    this.release();
    this.callbacks = null;
    this.context = null;
    this.inner?.destroy();
    this.inner = null;
  }

  getCacheAge(): number | null {
    return this.inner?.getCacheAge?.() ?? null;
  }

  getResponseHeader(name: string): string | null {
    return this.inner?.getResponseHeader?.(name) ?? null;
  }

  private begin(context: LoaderContext): void {
    const { engine } = this.host;
    let routed = false;
    try {
      routed = engine !== null && this.loadThroughEngine(engine, context);
    } catch (error) {
      engine?.fault(error);
    }
    if (!routed && !this.inner) this.loadThroughOwn(false);
  }

  /** False if it is not the engine's business. */
  private loadThroughEngine(engine: Engine, context: LoaderContext): boolean {
    const first = context.rangeStart ?? 0;
    const len = context.rangeEnd ? context.rangeEnd - first : 0;
    const found = engine.lookup(context.url, first, len);
    if (!found) return false;
    // The player's URL may carry arguments that the playlist's does not.
    found.entry.url = context.url;
    let answered = false;
    const finish = (): boolean => {
      answered = true;
      const live = this.callbacks !== null && !this.stats.aborted && !this.inner;
      this.cancel = null;
      clearTimeout(this.overdue);
      return live;
    };
    // Deadlines follow from the buffer as it is now.
    this.host.look();
    const request = engine.want(found.name, {
      onDelivered: ({ data, reportedBps, ttfbMs }) => {
        if (finish()) this.deliver(data, reportedBps, ttfbMs);
      },
      onBypass: (failed) => {
        if (finish()) this.loadThroughOwn(failed);
      },
    });
    if (answered) return true;
    this.cancel = () => engine.abandon(request);
    const loadMsMax = this.settings.loadPolicy?.maxLoadTimeMs || LOAD_MS_MAX;
    const overdueMs = Math.min(this.host.bufferMs + OVERDUE_MS, loadMsMax);
    this.overdue = setTimeout(() => {
      this.release();
      this.loadThroughOwn(true);
    }, overdueMs);
    return true;
  }

  private deliver(data: ArrayBuffer, reportedBps: number, ttfbMs: number): void {
    const { callbacks, context, stats } = this;
    if (!callbacks || !context) return;
    reportDelivery(stats, data.byteLength, reportedBps, ttfbMs, now());
    callbacks.onProgress?.(stats, context, data, null);
    callbacks.onSuccess({ url: context.url, data, code: 200 }, stats, context, null);
  }

  /** Hands over to the player's own loader, with the same statistics. */
  private loadThroughOwn(failed: boolean): void {
    const { callbacks, context, stats, host, asked } = this;
    if (!callbacks || !context) return;
    resetStats(stats);
    const inner = new this.own(this.hlsConfig);
    inner.stats = stats;
    this.inner = inner;
    const { frag } = context;
    inner.load(context, this.settings, {
      ...callbacks,
      onSuccess(response, stats, context, net) {
        host.onOwnLoad(frag, stats.loaded, now() - asked, failed);
        callbacks.onSuccess(response, stats, context, net);
      },
    });
  }

  private release(): void {
    clearTimeout(this.overdue);
    const { cancel } = this;
    this.cancel = null;
    cancel?.();
  }
}

/** Parts, init segments, and what is no fragment at all, are never shared. */
function isMedia({ frag, part }: LoaderContext): boolean {
  return frag !== undefined && frag.sn !== "initSegment" && !part;
}
