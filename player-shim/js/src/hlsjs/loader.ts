// The fragment loader that hls.js is given: media segments through the engine, all else, and
// whatever the engine has no business with, through the loader that the player had before.
import { now } from "../core";
import type { Engine } from "../engine";
import type { Delivery } from "../requests";
import { type Grains, Layout } from "./grain";
import { Pace } from "./pace";
import { paceOf, restAt, restOf } from "./rest";
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
/** The same for parts of low-latency HLS, whose players are seldom further behind than this. */
const PART_OVERDUE_MS = 3_000;
const LOAD_MS_MAX = 120_000;
/** What the player is told of a load that broke off: with a code of servers' errors it asks again. */
const BROKEN = { code: 503, text: "the load broke off, and what came of it is of no use" };

/** What loaders need of the session. */
export interface LoaderHost {
  /** The engine, if it is ready. */
  engine: Engine | null;
  /** Media ahead of the playhead, in milliseconds. */
  bufferMs: number;
  /** How finely the player's tracks can be played while they arrive. */
  readonly grains: Grains;
  /** Brings what the engine knows of the player up to date. */
  look(): void;
  /** The player asks for a segment, or for a part of one. */
  onAsked(frag: Fragment, isPart: boolean): void;
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
  /** Bytes that the player was handed before the delivery. */
  private handed = 0;
  private readonly layout = new Layout();
  private pace: Pace | null = null;

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
      if (engine && context.frag) this.host.onAsked(context.frag, Boolean(context.part));
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
      this.stopTimers();
      return live;
    };
    // Deadlines follow from the buffer as it is now.
    this.host.look();
    const grainMs = this.startPacing(context);
    const waiting = {
      onReleased: (data: ArrayBuffer, total: number) => this.stream(data, total),
      onDelivered: (delivery: Delivery) => {
        if (finish()) this.deliver(delivery);
      },
      onBypass: (failed: boolean) => {
        if (finish()) this.giveUp(failed);
      },
      onStopped: () => {
        if (finish()) this.goOn(false);
      },
    };
    const request = engine.want(found.name, waiting, grainMs);
    if (answered) return true;
    this.cancel = () => engine.abandon(request);
    const loadMsMax = this.settings.loadPolicy?.maxLoadTimeMs || LOAD_MS_MAX;
    const patienceMs = context.part ? PART_OVERDUE_MS : OVERDUE_MS;
    const overdueMs = Math.min(this.host.bufferMs + patienceMs, loadMsMax);
    this.overdue = setTimeout(() => {
      this.release();
      this.goOn(true);
    }, overdueMs);
    return true;
  }

  /** The grain to ask with: hls.js wants progress only with `progressive: true`, and never of parts. */
  private startPacing(context: LoaderContext): number {
    const { host, callbacks, stats } = this;
    const grainMs = callbacks?.onProgress ? host.grains.of(trackOf(context)) : 0;
    if (grainMs > 0 || context.part) {
      this.pace = new Pace(stats, () => {
        host.look();
        return host.bufferMs;
      });
    }
    return grainMs;
  }

  private stream(data: ArrayBuffer, total: number): void {
    const { callbacks, context, stats } = this;
    if (!callbacks?.onProgress || !context || stats.aborted) return;
    this.layout.push(data);
    this.handed += data.byteLength;
    stats.loaded = this.handed;
    stats.total = total;
    this.pace?.onBytes();
    // hls.js counts the chunks itself.
    callbacks.onProgress(stats, context, data, null);
  }

  private deliver({ data, reportedBps, ttfbMs, pieceLen }: Delivery): void {
    const { callbacks, context, host, layout } = this;
    if (!context) return;
    if (callbacks?.onProgress) {
      layout.push(data);
      const durationMs = (context.frag?.duration ?? 0) * 1000;
      host.grains.learn(trackOf(context), layout.grainMs(durationMs, pieceLen));
    }
    this.succeed(data, reportedBps, ttfbMs);
  }

  /** Hands over the last of it. */
  private succeed(data: ArrayBuffer, reportedBps: number, ttfbMs: number): void {
    const { callbacks, context, stats } = this;
    if (!callbacks || !context) return;
    reportDelivery(stats, this.handed + data.byteLength, reportedBps, ttfbMs, now());
    const response = { url: context.url, data, code: 200 };
    if (callbacks.onProgress) {
      // As hls.js's own loader does: all data come as progress.
      callbacks.onProgress(stats, context, data, null);
      response.data = new ArrayBuffer(0);
    }
    callbacks.onSuccess(response, stats, context, null);
  }

  /** The engine does not get it. What the player has of it may be of other content: it has to ask anew. */
  private giveUp(failed: boolean): void {
    const { callbacks, context, stats } = this;
    if (this.handed === 0 || !callbacks || !context) return this.loadThroughOwn(failed);
    callbacks.onError(BROKEN, context, null, stats);
  }

  /** The engine is not waited for any more. What the player has of it is right. */
  private goOn(failed: boolean): void {
    if (this.handed > 0) this.loadRest(failed);
    else this.loadThroughOwn(failed);
  }

  /** Has the player's own loader bring what the player was not handed yet. */
  private loadRest(failed: boolean): void {
    const { callbacks, context, stats, host, asked } = this;
    if (!callbacks || !context) return;
    this.stopTimers();
    const range = restAt(context, this.handed, stats.total);
    const inner = new this.own(this.hlsConfig);
    this.inner = inner;
    inner.load({ ...context, ...range }, this.settings, {
      onSuccess: (response, own) => {
        const data = restOf(response, range);
        if (!data) return callbacks.onError(BROKEN, context, null, stats);
        host.onOwnLoad(context.frag, data.byteLength, now() - asked, failed);
        const { bps, ttfbMs } = paceOf(own, data.byteLength);
        this.succeed(data, bps, ttfbMs);
      },
      onError: (error, _context, net) => callbacks.onError(error, context, net, stats),
      onTimeout: (_stats, _context, net) => callbacks.onTimeout(stats, context, net),
      onAbort: (_stats, _context, net) => {
        stats.aborted = true;
        callbacks.onAbort?.(stats, context, net);
      },
    });
  }

  /** Hands over to the player's own loader, with the same statistics. */
  private loadThroughOwn(failed: boolean): void {
    const { callbacks, context, stats, host, asked } = this;
    if (!callbacks || !context) return;
    this.stopTimers();
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

  private stopTimers(): void {
    clearTimeout(this.overdue);
    this.pace?.stop();
  }

  private release(): void {
    this.stopTimers();
    const { cancel } = this;
    this.cancel = null;
    cancel?.();
  }
}

/** Init segments, and what is no fragment at all, are never shared. */
function isMedia({ frag }: LoaderContext): boolean {
  return frag !== undefined && frag.sn !== "initSegment";
}

function trackOf({ frag }: LoaderContext): string {
  return `${frag?.type} ${frag?.level}`;
}
