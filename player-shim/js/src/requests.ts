// What the player has asked for and not yet got, and how much of it it was handed already.
import { pieceCount, type Store } from "./store";

/** What a request got. */
export interface Delivery {
  /** The segment, or what follows of it if some was released; the receiver's own copy. */
  data: ArrayBuffer;
  /** The bandwidth that the player should believe, in bit/s. */
  reportedBps: number;
  /** The time to the first byte that the player should believe, in milliseconds. */
  ttfbMs: number;
  /** Length of the pieces that it came in, in bytes; 0 if nothing vouched for it. */
  pieceLen: number;
}

/**
 * Answers to one request: exactly one of `onDelivered`, `onBypass` and `onStopped` is called, unless it is
 * abandoned before.
 */
export interface Waiting {
  /** The next bytes of a segment of `total`, if it was asked for with a grain: the receiver's own copy. */
  onReleased(data: ArrayBuffer, total: number): void;
  onDelivered(delivery: Delivery): void;
  /**
   * The player's own loader is to get it. `failed`: the CDN has failed the engine. What was released
   * before is of no use: it may be of other content.
   */
  onBypass(failed: boolean): void;
  /** The engine stops. The player's own loader is to get what follows on what was released. */
  onStopped(): void;
}

interface Pending {
  waiting: Waiting;
  /** What was released, and of which segment. */
  bytes: number;
  segment: string;
}

export class Requests {
  private readonly pending = new Map<number, Pending>();

  constructor(private readonly store: Store) {}

  get size(): number {
    return this.pending.size;
  }

  add(request: number, waiting: Waiting): void {
    this.pending.set(request, { waiting, bytes: 0, segment: "" });
  }

  /** False if it has got its answer. */
  abandon(request: number): boolean {
    return this.pending.delete(request);
  }

  /** The first `pieces` are there. False if they are not, or of another segment than those before. */
  release(request: number, segment: string, pieces: number): boolean {
    const pending = this.pending.get(request);
    const manifest = this.store.manifest(segment);
    if (!pending) return true;
    if (!manifest || !isOf(pending, segment)) return false;
    const data = this.store.part(segment, pending.bytes, pieces);
    if (!data) return false;
    pending.segment = segment;
    pending.bytes += data.byteLength;
    if (data.byteLength > 0) pending.waiting.onReleased(data, manifest.len);
    return true;
  }

  /** All of a segment is there. False if it is not, or if another one was released. */
  deliver(request: number, segment: string, reportedBps: number, ttfbMs: number): boolean {
    const pending = this.pending.get(request);
    const manifest = this.store.manifest(segment);
    if (!pending) return true;
    if (!manifest || !isOf(pending, segment)) return false;
    const data = this.store.part(segment, pending.bytes, pieceCount(manifest));
    if (!data) return false;
    this.pending.delete(request);
    const { pieceLen } = manifest;
    pending.waiting.onDelivered({ data, reportedBps, ttfbMs, pieceLen });
    return true;
  }

  /** The body of a fetch, which nothing vouches for. False if it is lost, or if a segment was released. */
  deliverBody(request: number, fetch: number, reportedBps: number, ttfbMs: number): boolean {
    const pending = this.pending.get(request);
    if (!pending) return true;
    const data = this.store.body(fetch);
    if (!data || pending.bytes > 0) return false;
    this.pending.delete(request);
    pending.waiting.onDelivered({ data, reportedBps, ttfbMs, pieceLen: 0 });
    return true;
  }

  bypass(request: number, failed: boolean): void {
    const waiting = this.pending.get(request)?.waiting;
    this.pending.delete(request);
    waiting?.onBypass(failed);
  }

  stopAll(): void {
    const stopped = [...this.pending.values()];
    this.pending.clear();
    for (const { waiting } of stopped) waiting.onStopped();
  }
}

function isOf(pending: Pending, segment: string): boolean {
  return pending.bytes === 0 || pending.segment === segment;
}
