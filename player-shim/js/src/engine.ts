// The driver of the machine: carries out its actions and tells it what came of them.
import { NEIGHBOUR, REQUESTS_MAX, STATS, type Action } from "./abi.gen";
import type { NeighbourStats, SegmentStats, TrackerState } from "./api";
import { Catalog, type Entry } from "./catalog";
import { idOf } from "./codec";
import { Core } from "./core";
import type { Module } from "./machine";
import { Origin, FAILED } from "./origin";
import { Requests, type Waiting } from "./requests";
import { Signalling } from "./signalling";
import { Store } from "./store";
import { Transport } from "./transport";
import type { Verifier } from "./verify";

/** The machine's flags for viewers that give nothing, and for those who have agreed to peers. */
const LEECH = 2;
const CONSENT = 16;

export interface EngineOptions {
  module: Module;
  /** Null where nothing can be verified: playlists are read, but nothing is shared. */
  verifier: Verifier | null;
  tracker: string;
  token: () => Promise<Uint8Array>;
  rtc: boolean;
  uploadBpsMax: number;
  connectionsMax: number;
  storeBytesMax: number;
  iceServers: RTCIceServer[];
  relayOnly: boolean;
  consent: boolean | null;
  request: (url: string, init: RequestInit) => RequestInit;
  policy: string;
  log: (level: "debug" | "warn", message: string) => void;
}

export interface EngineEvents {
  onSegment(segment: SegmentStats): void;
  onPeer(peer: string, up: boolean, reason: string): void;
  onTracker(state: TrackerState): void;
  /** The machine has stopped for good, and all who wait for an answer know it. */
  onFault(reason: string): void;
}

export class Engine {
  readonly catalog = new Catalog();
  trackerState: TrackerState = "off";
  private readonly core: Core;
  private readonly store: Store;
  private readonly transport: Transport | null;
  private readonly origin: Origin | null;
  private readonly signalling: Signalling;
  private readonly requests: Requests;
  private requestCount = 0;
  private stream = "";
  private joining = "";
  private stopped = false;
  private leech = false;
  private consent: boolean | null;
  /** The stream that was played last, joined or not. */
  private seen = "";

  constructor(
    private readonly options: EngineOptions,
    private readonly events: EngineEvents,
  ) {
    const { module, verifier } = options;
    this.consent = options.consent;
    const [low, high] = crypto.getRandomValues(new Uint32Array(2));
    const shim = new module.Shim(options.policy, low ?? 0, high ?? 0, performance.now());
    this.core = new Core(shim, (action) => this.act(action), (error) => this.fault(error));
    this.store = new Store(options.storeBytesMax);
    this.requests = new Requests(this.store);
    this.signalling = new Signalling(options.tracker, {
      onUp: () => this.core.run((shim, now) => shim.tracker_up(now)),
      onDown: (reason) => {
        options.log("debug", reason);
        this.core.run((shim, now) => shim.tracker_down(now));
      },
      onFrame: (frame) => this.core.run((shim, now) => shim.tracker_frame(now, frame)),
    });
    this.origin = verifier && this.createOrigin(verifier);
    this.transport = verifier && this.createTransport(verifier);
    this.watchDevice();
  }

  /**
   * The player plays a track whose playlist was loaded: its parts, if it wants them and they can be shared. The track
   * that the machine follows; null if it is no media playlist.
   */
  playlist(text: string, url: string, level: number, wantsParts: boolean): number | null {
    const whole = this.readPlaylist(text, url);
    if (!whole) return null;
    const parts = wantsParts ? whole.parts() : undefined;
    if (parts) whole.free();
    const window = parts ?? whole;
    const [track, stream] = [window.track(), window.stream()];
    this.catalog.add(window, level);
    window.free();
    if (stream) void this.join(stream);
    // Segments of a stream that was not joined are the CDN's alone.
    if (!stream || stream === this.joining) this.core.run((shim, now) => shim.timeline(now, track));
    return track;
  }

  /**
   * The person agrees to peers: a tracker that refused for want of it is asked again. Or does not:
   * everybody is told goodbye.
   */
  setConsent(agreed: boolean): void {
    if (this.stopped || this.consent === agreed) return;
    this.consent = agreed;
    this.onDevice();
    if (!agreed) {
      this.stream = this.joining = "";
      this.core.run((shim, now) => shim.leave(now));
      this.setTracker("off");
    } else if (this.stream) void this.renewToken();
    else if (this.seen) void this.join(this.seen);
  }

  /** The player no longer plays it. */
  endTrack(track: number): void {
    this.core.run((shim, now) => shim.track_ended(now, track));
  }

  /** The segment at `url`, if a playlist listed it (`len` 0: the whole object). */
  lookup(url: string, first: number, len: number): { name: string; entry: Entry } | null {
    if (this.stopped) return null;
    const name = this.catalog.nameOf(url, first, len);
    const entry = name === undefined ? undefined : this.catalog.find(name);
    return name !== undefined && entry ? { name, entry } : null;
  }

  /**
   * Asks for a segment; the number of the request. With a grain (media that is taken at a time, in
   * milliseconds; 0 for whole segments) it is released piece by piece before it is delivered.
   */
  want(name: string, waiting: Waiting, grainMs: number): number {
    this.requestCount = (this.requestCount + 1) >>> 0;
    const request = this.requestCount;
    if (this.stopped || this.requests.size >= REQUESTS_MAX) {
      waiting.onBypass(false);
      return request;
    }
    this.requests.add(request, waiting);
    this.core.run((shim, now) => shim.wanted(now, request, name, grainMs >>> 0));
    return request;
  }

  abandon(request: number): void {
    if (!this.requests.abandon(request)) return;
    this.core.run((shim, now) => shim.abandoned(now, request));
  }

  player(bufferMs: number, lagMs: number, stalled: boolean): void {
    this.core.run((shim, now) => shim.player(now, bufferMs >>> 0, lagMs >>> 0, stalled));
  }

  /** The machine's own counts. */
  stats(): Record<(typeof STATS)[number], number> {
    const numbers = this.stopped ? [] : this.core.shim.stats();
    const entries = STATS.map((name, at) => [name, numbers[at] ?? 0]);
    return Object.fromEntries(entries) as Record<(typeof STATS)[number], number>;
  }

  neighbours(): NeighbourStats[] {
    const numbers = this.stopped ? [] : [...this.core.shim.neighbours()];
    const found: NeighbourStats[] = [];
    for (let at = 0; at < numbers.length; at += NEIGHBOUR.length) {
      const [, high = 0, low = 0, native, ready, rtt = 0, down = 0, up = 0] = numbers.slice(at);
      if (ready) found.push({ peer: idOf(high, low), native: native === 1, down, up, rtt });
    }
    return found;
  }

  peerId(): string {
    return this.stopped ? "" : this.core.shim.peer_id();
  }

  /** Leaves the swarm; what is asked for is the player's own loader's. */
  stop(): void {
    if (this.stopped) return;
    this.stopped = true;
    this.core.run((shim, now) => shim.leave(now));
    this.release();
  }

  /** Stops for good because of something that cannot be mended here. */
  fault(error: unknown): void {
    if (this.stopped) return;
    this.release();
    this.events.onFault(error instanceof Error ? error.message : String(error));
  }

  private release(): void {
    this.stopped = true;
    this.core.stop();
    this.signalling.close();
    this.transport?.closeAll();
    this.origin?.stop();
    this.store.clear();
    this.catalog.clear();
    this.setTracker("off");
    navigatorConnection()?.removeEventListener?.("change", this.onDevice);
    this.requests.stopAll();
  }

  private readPlaylist(text: string, url: string): ReturnType<Core["shim"]["read_playlist"]> {
    if (this.stopped) return undefined;
    try {
      return this.core.shim.read_playlist(text, url);
    } catch (error) {
      if (typeof error !== "string") this.fault(error);
      else this.options.log("debug", error);
      return undefined;
    }
  }

  /** Joins the stream's swarm, with a fresh token. */
  private async join(stream: string): Promise<void> {
    const { verifier, token } = this.options;
    this.seen = stream;
    if (!verifier || this.consent === false || stream === this.joining) return;
    this.joining = stream;
    try {
      const bytes = await token();
      if (this.stopped || this.joining !== stream) return;
      this.stream = stream;
      verifier.stream = stream;
      this.core.run((shim, now) => shim.join(now, stream, bytes));
    } catch (error) {
      this.joining = "";
      this.options.log("warn", `page gave no token: ${String(error)}`);
    }
  }

  /** The tracker turned this viewer away, or is lost: the next attempt may need a new token. */
  private async renewToken(): Promise<void> {
    const { stream } = this;
    const bytes = await this.options.token().catch(() => null);
    if (bytes && !this.stopped && stream === this.stream) {
      this.core.run((shim, now) => shim.join(now, stream, bytes));
    }
  }

  private act(action: Action): void {
    // A machine that leaves goes on for the player from the CDN alone, but that is its own loader's task now.
    if (this.stopped) return this.actOnLinks(action);
    switch (action.kind) {
      case "fetchCdn":
        return this.startFetch(action.fetch, action.name, action.first, action.length);
      case "cancelFetch":
        this.store.dropBody(action.fetch);
        return this.origin?.cancel(action.fetch);
      case "deliverSegment":
        return this.deliver(action.request, action.segment, action.reportedBps);
      case "deliverFetch":
        return this.deliverBody(action.request, action.fetch, action.reportedBps);
      case "release":
        return this.handOver(action.request, action.segment, action.pieces);
      case "bypass":
        return this.requests.bypass(action.request, false);
      case "fail":
        return this.requests.bypass(action.request, true);
      case "evict":
        this.store.evict(action.segment);
        return this.transport?.forget(action.segment);
      default:
        return this.actOnLinks(action);
    }
  }

  private actOnLinks(action: Action): void {
    const { transport } = this;
    switch (action.kind) {
      case "connect":
        return transport?.connect(action.slot, action.offer);
      case "close":
        return transport?.close(action.slot);
      case "signal":
        return transport?.signal(action.slot, action.payload);
      case "sendFrame":
        return transport?.sendControl(action.slot, action.frame);
      case "sendRecord":
        return transport?.sendRecord(action.slot, action.segment);
      case "sendPiece":
        return transport?.sendPiece(action.slot, action.segment, action.piece);
      case "useStun": {
        const servers = new TextDecoder().decode(action.servers).split(" ");
        return transport?.useStun(servers.filter((server) => server !== ""));
      }
      case "useRelays":
        return transport?.useRelays(new TextDecoder().decode(action.servers), action.only);
      case "useTracker":
        return this.signalling.useTracker(new TextDecoder().decode(action.place));
      case "trackerConnect":
        this.setTracker("connecting");
        return this.signalling.open();
      case "trackerClose":
        return this.signalling.close();
      case "sendTracker":
        return this.signalling.send(action.frame);
      default:
        return this.onFact(action);
    }
  }

  private onFact(action: Action): void {
    switch (action.kind) {
      case "delivered": {
        const { name, seq, bytesCdn, bytesP2p, waitedMs } = action;
        const entry = this.catalog.find(name);
        const [at, level] = entry ? [entry.seq, entry.level] : [seq, -1];
        return this.events.onSegment({ seq: at, level, bytesCdn, bytesP2p, waitedMs });
      }
      case "joined":
        return this.setTracker("joined");
      case "trackerLost":
        this.setTracker("down");
        return void this.renewToken();
      case "refused":
        return this.setTracker("refused");
      case "peerUp":
        return this.events.onPeer(action.peer, true, "");
      case "peerDown":
        return this.events.onPeer(action.peer, false, action.reason);
      default:
    }
  }

  private startFetch(fetch: number, name: string, first: number, len: number): void {
    const located = this.catalog.find(name);
    if (this.origin && located) this.origin.start({ fetch, name, located, first, len });
    else this.core.run((shim, now) => shim.fetch_done(now, fetch, FAILED, 0, 0, 0));
  }

  private handOver(request: number, segment: string, pieces: number): void {
    if (this.requests.release(request, segment, pieces)) return;
    this.onLost(request);
    this.core.run((shim, now) => shim.abandoned(now, request));
  }

  private deliver(request: number, segment: string, reportedBps: number): void {
    const { requests, ttfbMs } = this;
    if (!requests.deliver(request, segment, reportedBps, ttfbMs)) this.onLost(request);
  }

  private deliverBody(request: number, fetch: number, reportedBps: number): void {
    const { requests, ttfbMs } = this;
    if (!requests.deliverBody(request, fetch, reportedBps, ttfbMs)) this.onLost(request);
    // Other requests for the same body are answered in the same turn.
    queueMicrotask(() => this.store.dropBody(fetch));
  }

  private get ttfbMs(): number {
    return this.origin?.ttfbMs ?? 0;
  }

  /** What the machine wants to be given away is not there, or does not follow what was given before. */
  private onLost(request: number): void {
    this.options.log("warn", "local store lost what was to be delivered");
    this.requests.bypass(request, false);
  }

  private setTracker(state: TrackerState): void {
    if (state === this.trackerState) return;
    this.trackerState = state;
    this.events.onTracker(state);
  }

  private createOrigin(verifier: Verifier): Origin {
    const { request, log } = this.options;
    const say = (message: string): void => log("debug", message);
    return new Origin({ store: this.store, verifier, request, log: say }, {
      onRecord: (fetch, { bytes }) =>
        this.core.run((shim, now) => shim.record(now, false, fetch, bytes)),
      onPiece: (fetch, { id }, piece) => this.onPiece(false, fetch, id, piece),
      onDone: (fetch, outcome, bytes, ttfbMs, totalMs) =>
        this.core.run((shim, now) => shim.fetch_done(now, fetch, outcome, bytes, ttfbMs, totalMs)),
    });
  }

  private createTransport(verifier: Verifier): Transport {
    const { core, store } = this;
    const { module, iceServers, relayOnly, connectionsMax, rtc, log } = this.options;
    const options = { module, store, verifier, iceServers, relayOnly, connectionsMax, enabled: rtc };
    return new Transport(options, {
      onSignal: (slot, payload) => core.run((shim, now) => shim.signal(now, slot, payload)),
      onUp: (slot) => core.run((shim, now) => shim.link_up(now, slot)),
      onDown: (slot) => core.run((shim, now) => shim.link_down(now, slot)),
      onControl: (slot, frame) => core.run((shim, now) => shim.frame(now, slot, frame)),
      onRecord: (slot, { bytes }) => core.run((shim, now) => shim.record(now, true, slot, bytes)),
      onPiece: (slot, { id }, piece) => this.onPiece(true, slot, id, piece),
      onSurplus: (slot, len) => core.run((shim, now) => shim.surplus(now, slot, len)),
      onMisbehaved: (slot, what) => {
        log("debug", `peer sent ${what}`);
        core.run((shim, now) => shim.misbehaved(now, slot));
      },
      onSent: (slot, buffered) => core.run((shim, now) => shim.sent(now, slot, buffered)),
    });
  }

  private onPiece(fromPeer: boolean, source: number, id: string, piece: number): void {
    const low = piece < 32 ? (1 << piece) >>> 0 : 0;
    const high = piece < 32 ? 0 : (1 << (piece - 32)) >>> 0;
    this.core.run((shim, now) => shim.pieces(now, fromPeer, source, id, low, high));
  }

  /** Nothing is uploaded on links that cost the viewer money. */
  private watchDevice(): void {
    this.onDevice();
    navigatorConnection()?.addEventListener?.("change", this.onDevice);
  }

  private readonly onDevice = (): void => {
    const link = navigatorConnection();
    this.leech = link?.saveData === true || link?.type === "cellular";
    const { uploadBpsMax } = this.options;
    const leech = this.leech || uploadBpsMax <= 0;
    const flags = (leech ? LEECH : 0) | (this.consent ? CONSENT : 0);
    this.core.run((shim, now) => shim.environment(now, flags, leech ? 0 : uploadBpsMax));
  };
}

interface NetworkInformation extends EventTarget {
  saveData?: boolean;
  type?: string;
}

function navigatorConnection(): NetworkInformation | undefined {
  const own = globalThis.navigator as { connection?: NetworkInformation } | undefined;
  return own?.connection;
}
