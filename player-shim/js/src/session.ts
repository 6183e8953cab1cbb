// One player with Shoal: loads the machine in the background, keeps the counts, tells the page.
import type {
  EngineState,
  SegmentStats,
  ShoalEvents,
  ShoalHandle,
  ShoalOptions,
  ShoalStats,
  TrackerState,
} from "./api";
import { Emitter } from "./emitter";
import { Engine, type EngineOptions } from "./engine";
import { Grains } from "./hlsjs/grain";
import type { LoaderHost } from "./hlsjs/loader";
import type { Playback } from "./hlsjs/playback";
import type { Fragment } from "./hlsjs/types";
import type { Module } from "./machine";
import { Verifier } from "./verify";

/** Segments that `getStats` tells of. */
const SEGMENTS_MAX = 60;
const STATS_MS = 1000;
const UPLOAD_BPS_MAX = 10_000_000;
const CONNECTIONS_MAX = 32;
const STORE_BYTES_MAX = 96 * 1024 * 1024;
/** After so many segments in a row that only the player's own loader got, the engine gives up. */
const REFUSALS_MAX = 3;

export class Session implements ShoalHandle, LoaderHost {
  engine: Engine | null = null;
  bufferMs = 0;
  readonly grains = new Grains();
  /** Set by the adapter. */
  onReady: () => void = () => {};
  onStop: () => void = () => {};
  onAsked: (frag: Fragment, isPart: boolean) => void = () => {};
  private state: EngineState = "loading";
  private reason = "";
  private readonly emitter = new Emitter<ShoalEvents>();
  private readonly segments: SegmentStats[] = [];
  private playback: Playback | null = null;
  private ownBytes = 0;
  private refusals = 0;
  private destroyed = false;
  private consent: boolean | null;
  /** The counts of an engine that has stopped. */
  private last = { bytesP2p: 0, bytesCdn: 0, bytesUp: 0, bytesWasted: 0, badPieces: 0, backstops: 0 };
  private readonly timer: ReturnType<typeof setInterval>;
  private readonly onPageHide = ({ persisted }: PageTransitionEvent): void => {
    if (!persisted) this.destroy();
  };

  /** `load` gets the WebAssembly module. */
  constructor(
    private readonly options: ShoalOptions,
    load: () => Promise<Module>,
  ) {
    this.consent = options.consent ?? null;
    this.timer = setInterval(() => {
      if (this.emitter.has("stats")) this.emitter.emit("stats", this.getStats());
    }, STATS_MS);
    globalThis.addEventListener?.("pagehide", this.onPageHide as EventListener);
    const hindrance = hindranceOf(options);
    if (hindrance) this.stop("off", hindrance);
    else this.start(load).catch((error: unknown) => this.destroyed || this.stop("failed", messageOf(error)));
  }

  getStats(): ShoalStats {
    const { engine, playback } = this;
    if (engine) this.last = engine.stats();
    const { bytesP2p, bytesUp, bytesWasted, badPieces, backstops } = this.last;
    const bytesCdn = this.last.bytesCdn + this.ownBytes;
    const sum = bytesCdn + bytesP2p;
    return {
      state: this.state,
      reason: this.reason,
      offload: sum > 0 ? bytesP2p / sum : 0,
      bytesCdn,
      bytesP2p,
      bytesUp,
      bytesWasted,
      badPieces,
      backstops,
      neighbours: engine?.neighbours() ?? [],
      segments: this.segments.slice(),
      bufferMs: this.bufferMs,
      lagMs: Math.round(playback?.lagMs ?? 0),
      stalls: playback?.stalls ?? 0,
      stalledMs: Math.round(playback?.stalledMs ?? 0),
      startupMs: Math.round(playback?.startupMs ?? 0),
      tracker: engine?.trackerState ?? "off",
      peer: engine?.peerId() ?? "",
    };
  }

  on<E extends keyof ShoalEvents>(event: E, listener: (value: ShoalEvents[E]) => void): () => void {
    return this.emitter.on(event, listener);
  }

  setConsent(agreed: boolean): void {
    this.consent = agreed;
    this.engine?.setConsent(agreed);
  }

  destroy(): void {
    if (this.destroyed) return;
    this.destroyed = true;
    this.stop("off", "destroyed");
    clearInterval(this.timer);
    globalThis.removeEventListener?.("pagehide", this.onPageHide as EventListener);
    this.onStop();
  }

  look(): void {
    this.playback?.look();
  }

  onPlayback(playback: Playback, stalled: boolean): void {
    this.playback = playback;
    this.bufferMs = playback.bufferMs;
    this.engine?.player(playback.bufferMs, playback.lagMs, stalled);
  }

  onOwnLoad(frag: Fragment | undefined, bytes: number, waitedMs: number, failed: boolean): void {
    this.ownBytes += bytes;
    if (frag && typeof frag.sn === "number") {
      const level = frag.type === "main" ? frag.level : -1;
      this.onSegment({ seq: frag.sn, level, bytesCdn: bytes, bytesP2p: 0, waitedMs: Math.round(waitedMs) });
    }
    this.refusals = failed ? this.refusals + 1 : 0;
    if (this.refusals >= REFUSALS_MAX) {
      this.engine?.fault("environment: the CDN answers the player, but not Shoal: see `request`");
    }
  }

  private onSegment(segment: SegmentStats): void {
    this.segments.push(segment);
    if (this.segments.length > SEGMENTS_MAX) this.segments.shift();
    this.emitter.emit("segment", segment);
  }

  private async start(load: () => Promise<Module>): Promise<void> {
    const module = await load();
    const keys = this.options.key ?? [];
    const verifier = await Verifier.create(module, typeof keys === "string" ? [keys] : keys);
    if (this.state !== "loading") return;
    this.engine = new Engine(engineOptions(this.options, module, verifier, this.log), {
      onSegment: (segment) => {
        this.refusals = 0;
        this.onSegment(segment);
      },
      onPeer: (peer, up, reason) => this.emitter.emit("peer", { peer, up, reason }),
      onTracker: (state: TrackerState) => this.emitter.emit("tracker", { state }),
      onFault: (reason) => this.stop("failed", reason),
    });
    if (this.consent !== null) this.engine.setConsent(this.consent);
    this.state = "ready";
    this.onReady();
  }

  private stop(state: EngineState, reason: string): void {
    const { engine } = this;
    this.state = state;
    this.reason = reason;
    if (engine) this.last = { ...this.last, ...countsOf(engine) };
    this.engine = null;
    engine?.stop();
    if (reason !== "destroyed") this.log("warn", `${reason}; playing from the CDN alone`);
  }

  private readonly log = (level: "debug" | "warn", message: string): void => {
    if (this.options.log) this.options.log(level, message);
    else if (level === "warn") console.warn(`Shoal: ${message}`);
  };
}

/** Why nothing can be shared here at all; empty if nothing stands in the way. */
function hindranceOf(options: ShoalOptions): string {
  if (options.p2p === false) return "page switched sharing off";
  if (!options.tracker) return "page gave no tracker";
  if (!options.key || options.key.length === 0) return "page gave no key, so nothing could be verified";
  if (typeof WebAssembly === "undefined") return "environment: this browser has no WebAssembly";
  const hasRtc = typeof RTCPeerConnection !== "undefined";
  if (options.rtc !== false && !hasRtc) return "environment: this browser has no WebRTC";
  return "";
}

function engineOptions(
  options: ShoalOptions,
  module: Module,
  verifier: Verifier,
  log: EngineOptions["log"],
): EngineOptions {
  const { token } = options;
  return {
    module,
    verifier,
    log,
    tracker: options.tracker ?? "",
    token: async () => new TextEncoder().encode(typeof token === "function" ? await token() : token),
    rtc: options.rtc !== false,
    uploadBpsMax: options.uploadBpsMax ?? UPLOAD_BPS_MAX,
    connectionsMax: options.connectionsMax ?? CONNECTIONS_MAX,
    storeBytesMax: options.storeBytesMax ?? STORE_BYTES_MAX,
    iceServers: options.iceServers ?? [],
    relayOnly: options.relayOnly === true,
    consent: options.consent ?? null,
    request: options.request ?? ((_url, init) => init),
    policy: Object.entries(options.policy ?? {})
      .map(([name, value]) => `${name}=${value}`)
      .join("\n"),
  };
}

/** An engine whose machine has failed cannot be asked. */
function countsOf(engine: Engine): object {
  try {
    const counts = engine.stats();
    return counts.bytesCdn + counts.bytesP2p > 0 ? counts : {};
  } catch {
    return {};
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
