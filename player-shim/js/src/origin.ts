// Fetches from the CDN for the machine: reads the record in the answer's header, cuts the body into
// pieces while it streams, and has them verified and stored.
import { RECORD_HEADER, SEGMENT_LEN_MAX } from "./abi.gen";
import { now } from "./core";
import { Cutter, wantedPieces } from "./cutter";
import type { Put, Store, Manifest } from "./store";
import type { Verifier } from "./verify";

/** How long an answer may take to begin, in milliseconds: shorter than players wait. */
const FIRST_BYTE_MS_MAX = 8_000;
/** How long a body may stand still, in milliseconds. */
const STALL_MS_MAX = 5_000;
/** Weight of the newest time to the first byte in its average. */
const TTFB_WEIGHT = 0.25;

/** Where an object is. */
export interface Located {
  url: string;
  /** First byte and length, for segments that are a range of a larger object; else both 0. */
  first: number;
  len: number;
}

/** What to fetch. */
export interface Job {
  fetch: number;
  name: string;
  located: Located;
  /** First byte within the segment. */
  first: number;
  /** 0: the whole segment. */
  len: number;
}

/** How a fetch ended, by the machine's numbers. */
export const VERIFIED = 0;
export const UNVERIFIED = 1;
export const FAILED = 2;
export type Outcome = typeof VERIFIED | typeof UNVERIFIED | typeof FAILED;

export interface OriginEvents {
  onRecord(fetch: number, manifest: Manifest): void;
  onPiece(fetch: number, manifest: Manifest, piece: number): void;
  /** Always the last of a fetch. */
  onDone(fetch: number, outcome: Outcome, bytes: number, ttfbMs: number, totalMs: number): void;
}

export interface OriginOptions {
  store: Store;
  verifier: Verifier;
  request: (url: string, init: RequestInit) => RequestInit;
  log: (message: string) => void;
}

/** Where a body lies within the segment. */
interface Extent {
  /** Bytes of the body before the segment begins. */
  skip: number;
  /** The segment's byte that comes first after those. */
  at: number;
  /** The segment's first byte that is not wanted any more. */
  end: number;
  /** Whether the body is the whole segment. */
  whole: boolean;
}

export class Origin {
  private readonly running = new Map<number, Running>();
  /** Average time to the first byte, in milliseconds. */
  ttfbMs = 50;

  constructor(
    private readonly options: OriginOptions,
    private readonly events: OriginEvents,
  ) {}

  start(job: Job): void {
    const running = new Running(job, this.options, this.events);
    this.running.set(job.fetch, running);
    void running.run().then((outcome) => {
      this.running.delete(job.fetch);
      const { bytes, ttfbMs, totalMs } = running.timing();
      if (outcome !== FAILED) this.ttfbMs += (ttfbMs - this.ttfbMs) * TTFB_WEIGHT;
      this.events.onDone(job.fetch, outcome, bytes, ttfbMs, totalMs);
    });
  }

  cancel(fetch: number): void {
    this.running.get(fetch)?.abort.abort();
  }

  stop(): void {
    for (const { abort } of this.running.values()) abort.abort();
  }
}

class Running {
  readonly abort = new AbortController();
  private readonly started = now();
  private firstByte = 0;
  private bytes = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private bad = false;
  /** Bit `i` of the list: piece `i` is verified. */
  private readonly verified = new Set<number>();

  constructor(
    private readonly job: Job,
    private readonly options: OriginOptions,
    private readonly events: OriginEvents,
  ) {}

  async run(): Promise<Outcome> {
    try {
      return await this.fetch();
    } catch (error) {
      this.options.log(`CDN did not deliver ${this.job.located.url}: ${String(error)}`);
      return FAILED;
    } finally {
      clearTimeout(this.timer);
      this.abort.abort();
    }
  }

  timing(): { bytes: number; ttfbMs: number; totalMs: number } {
    const totalMs = Math.round(now() - this.started);
    const ttfbMs = this.firstByte ? Math.round(this.firstByte - this.started) : totalMs;
    return { bytes: this.bytes, ttfbMs, totalMs };
  }

  private async fetch(): Promise<Outcome> {
    const { job } = this;
    const headers: Record<string, string> = {};
    const asked = absoluteRange(job);
    if (asked) headers.Range = `bytes=${asked.first}-${asked.first + asked.len - 1}`;
    this.watch(FIRST_BYTE_MS_MAX);
    const init = this.options.request(job.located.url, { headers });
    const response = await fetch(job.located.url, { ...init, signal: this.abort.signal });
    const extent = extentOf(job, response);
    if (!extent || !response.body) return FAILED;
    const manifest = await this.manifestFor(response, extent);
    return this.read(response.body, extent, manifest);
  }

  /** The record that vouches for the answer, reported. */
  private async manifestFor(response: Response, extent: Extent): Promise<Manifest | null> {
    const { store, verifier } = this.options;
    const header = response.headers.get(RECORD_HEADER);
    const own = header ? await verifier.fromHeader(header) : null;
    const manifest = own?.name === this.job.name ? own : store.manifestOf(this.job.name);
    if (!manifest) return null;
    const len = Number(response.headers.get("Content-Length") ?? NaN);
    const encoded = response.headers.has("Content-Encoding");
    if (extent.whole && !encoded && len >= 0 && len !== manifest.len) return null;
    store.add(manifest);
    this.events.onRecord(this.job.fetch, manifest);
    return manifest;
  }

  private async read(
    body: ReadableStream<Uint8Array>,
    extent: Extent,
    manifest: Manifest | null,
  ): Promise<Outcome> {
    const cutter = manifest && new Cutter(manifest, extent.skip, extent.at);
    const raw: Uint8Array[] = [];
    const checks: Promise<void>[] = [];
    const reader = body.getReader();
    const end = Math.min(extent.end, manifest?.len ?? Infinity);
    for (;;) {
      this.watch(STALL_MS_MAX);
      const { done, value } = await reader.read();
      if (done) break;
      this.firstByte ||= now();
      this.bytes += value.length;
      if (this.bytes > SEGMENT_LEN_MAX + extent.skip) throw new Error("CDN sent more than a segment");
      if (extent.whole) raw.push(value);
      for (const [piece, bytes] of cutter?.push(value) ?? []) {
        checks.push(this.check(manifest as Manifest, piece, bytes));
      }
      if (cutter && cutter.at >= end && !extent.whole) break;
    }
    clearTimeout(this.timer);
    await Promise.all(checks);
    if (manifest && cutter && !this.bad) {
      if (cutter.at < end) return FAILED;
      const wanted = wantedPieces(manifest, this.job.first, this.job.len);
      if (wanted?.every((piece) => this.verified.has(piece))) return VERIFIED;
    }
    if (extent.whole && !this.options.store.putBody(this.job.fetch, concat(raw))) return FAILED;
    return UNVERIFIED;
  }

  private async check(manifest: Manifest, piece: number, bytes: Uint8Array): Promise<void> {
    if (!(await this.options.verifier.isPiece(manifest, piece, bytes))) {
      this.bad = true;
      return;
    }
    this.verified.add(piece);
    const put: Put = this.options.store.put(manifest.id, piece, bytes);
    if (put === "stored") this.events.onPiece(this.job.fetch, manifest, piece);
    if (put === "full") throw new Error("local store is full");
  }

  /** Ends the fetch if nothing happens for so long. */
  private watch(ms: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.abort.abort(new Error("it stands still")), ms);
  }
}

function absoluteRange(job: Job): { first: number; len: number } | null {
  if (job.len === 0) return job.located.len === 0 ? null : job.located;
  return { first: job.located.first + job.first, len: job.len };
}

/** Null if the answer is not what was asked for. */
function extentOf(job: Job, response: Response): Extent | null {
  const wholeLen = job.located.len || Infinity;
  const end = job.len === 0 ? wholeLen : job.first + job.len;
  if (response.status === 200) {
    const whole = job.len === 0 && job.located.len === 0;
    return { skip: job.located.first, at: 0, end, whole };
  }
  if (response.status !== 206) return null;
  // The header is not readable across origins unless the CDN exposes it; hashes tell in any case.
  const range = /^bytes (\d+)-/.exec(response.headers.get("Content-Range") ?? "");
  if (range && Number(range[1]) !== job.located.first + job.first) return null;
  return { skip: 0, at: job.first, end, whole: job.len === 0 };
}

function concat(chunks: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}
