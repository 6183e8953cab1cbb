// All connections of this viewer, and the data frames on them.
import { NEIGHBOURS_MAX, RECORD_KIND } from "./abi.gen";
import { Link } from "./link";
import type { Module } from "./machine";
import { Reassembly, readChunk, writeChunk } from "./reassembly";
import type { Manifest, Store } from "./store";
import type { Verifier } from "./verify";

/** Bytes of data frames that may wait for a record to be verified. */
const WAITING_BYTES_MAX = 8 * 1024 * 1024;

export interface TransportEvents {
  onSignal(slot: number, payload: Uint8Array): void;
  onUp(slot: number): void;
  onDown(slot: number): void;
  onControl(slot: number, frame: Uint8Array): void;
  onRecord(slot: number, manifest: Manifest): void;
  onPiece(slot: number, manifest: Manifest, piece: number): void;
  onSurplus(slot: number, len: number): void;
  onMisbehaved(slot: number, what: string): void;
  onSent(slot: number, buffered: number): void;
}

export interface TransportOptions {
  module: Module;
  store: Store;
  verifier: Verifier;
  iceServers: RTCIceServer[];
  relayOnly: boolean;
  /** `false`: every connection fails at once. */
  enabled: boolean;
  connectionsMax: number;
}

interface Neighbour {
  link: Link;
  reassembly: Reassembly;
  /** Data frames that wait for the record before them; null while none is being verified. */
  waiting: Uint8Array[] | null;
  waitingBytes: number;
}

export class Transport {
  private readonly neighbours = new Map<number, Neighbour>();
  private stun: RTCIceServer[] = [];
  private relays: RTCIceServer[] = [];
  private relayOnly: boolean;

  constructor(
    private readonly options: TransportOptions,
    private readonly events: TransportEvents,
  ) {
    this.relayOnly = options.relayOnly;
  }

  /** Uses these STUN servers (`host:port`) for links set up from now on. */
  useStun(servers: string[]): void {
    this.stun = servers.map((server) => ({ urls: `stun:${server}` }));
  }

  /**
   * Uses these TURN servers (lines with user name, credential and addresses) for links set up from
   * now on. `only`: and nothing else.
   */
  useRelays(lines: string, only: boolean): void {
    const [username = "", credential = "", ...urls] = lines.split("\n");
    this.relays = urls.length > 0 ? [{ urls, username, credential }] : [];
    this.relayOnly = only || this.options.relayOnly;
  }

  connect(slot: number, offer: boolean): void {
    this.close(slot);
    const max = Math.min(this.options.connectionsMax, NEIGHBOURS_MAX);
    if (!this.options.enabled || this.neighbours.size >= max) return this.events.onDown(slot);
    const iceServers = [...this.options.iceServers, ...this.stun, ...this.relays];
    const iceTransportPolicy = this.relayOnly ? "relay" : "all";
    try {
      const link: Link = new Link(
        { iceServers, iceTransportPolicy, bundlePolicy: "max-bundle" },
        this.options.module,
        this.linkEvents(slot, () => link),
        offer,
      );
      const reassembly = new Reassembly();
      this.neighbours.set(slot, { link, reassembly, waiting: null, waitingBytes: 0 });
    } catch {
      this.events.onDown(slot);
    }
  }

  signal(slot: number, payload: Uint8Array): void {
    this.neighbours.get(slot)?.link.signal(payload);
  }

  close(slot: number): void {
    const neighbour = this.neighbours.get(slot);
    this.neighbours.delete(slot);
    neighbour?.link.close();
  }

  closeAll(): void {
    for (const slot of [...this.neighbours.keys()]) this.close(slot);
  }

  sendControl(slot: number, frame: Uint8Array): void {
    this.send(slot, frame);
  }

  sendRecord(slot: number, segment: string): void {
    const manifest = this.options.store.manifest(segment);
    if (!manifest) return;
    const frame = new Uint8Array(1 + manifest.bytes.length);
    frame[0] = RECORD_KIND;
    frame.set(manifest.bytes, 1);
    this.send(slot, frame);
  }

  /** Sends a piece in chunks; without its bytes, says that it cannot. */
  sendPiece(slot: number, segment: string, piece: number): void {
    const bytes = this.options.store.piece(segment, piece);
    const { module } = this.options;
    if (!bytes) this.send(slot, module.frame_of_reject(segment, piece));
    else {
      const chunkLen = module.chunk_len_of(bytes.length);
      for (let offset = 0; offset < bytes.length; offset += chunkLen) {
        const part = bytes.subarray(offset, offset + chunkLen);
        if (!this.send(slot, writeChunk({ segment, piece, offset, bytes: part }))) return;
      }
    }
    this.neighbours.get(slot)?.link.reportRoom();
  }

  /** Forgets pieces of the segment that were begun. */
  forget(segment: string): void {
    for (const { reassembly } of this.neighbours.values()) reassembly.forget(segment);
  }

  private send(slot: number, frame: Uint8Array): boolean {
    const neighbour = this.neighbours.get(slot);
    if (!neighbour) return false;
    if (neighbour.link.send(frame)) return true;
    this.close(slot);
    this.events.onDown(slot);
    return false;
  }

  private linkEvents(slot: number, own: () => Link): ConstructorParameters<typeof Link>[2] {
    const current = (): boolean => this.neighbours.get(slot)?.link === own();
    const { events } = this;
    return {
      onSignal: (payload) => current() && events.onSignal(slot, payload),
      onUp: () => current() && events.onUp(slot),
      onDown: () => {
        if (!current()) return;
        this.neighbours.delete(slot);
        events.onDown(slot);
      },
      onMessage: (bytes) => current() && this.handleMessage(slot, bytes),
      onViolation: () => current() && events.onMisbehaved(slot, "a message that is no frame"),
      onSent: (buffered) => current() && events.onSent(slot, buffered),
    };
  }

  private handleMessage(slot: number, frame: Uint8Array): void {
    const neighbour = this.neighbours.get(slot);
    const kind = frame[0];
    if (!neighbour) return;
    if (kind === undefined) return this.events.onMisbehaved(slot, "an empty message");
    if (kind < RECORD_KIND) return this.events.onControl(slot, frame);
    if (!neighbour.waiting) return this.handleData(slot, neighbour, frame);
    neighbour.waiting.push(frame);
    neighbour.waitingBytes += frame.length;
    if (neighbour.waitingBytes > WAITING_BYTES_MAX) {
      this.events.onMisbehaved(slot, "more than can be verified");
    }
  }

  private handleData(slot: number, neighbour: Neighbour, frame: Uint8Array): void {
    if (frame[0] === RECORD_KIND) {
      neighbour.waiting = [];
      void this.handleRecord(slot, neighbour, frame.slice(1));
      return;
    }
    const chunk = readChunk(frame);
    if (!chunk) return this.events.onMisbehaved(slot, "a malformed message");
    const manifest = this.options.store.manifest(chunk.segment);
    // It was evicted while the chunk was on its way.
    if (!manifest) return this.events.onSurplus(slot, chunk.bytes.length);
    const piece = neighbour.reassembly.push(manifest, chunk);
    if (piece === "broken") return this.events.onMisbehaved(slot, "a chunk out of order");
    if (piece !== "partial") void this.handlePiece(slot, neighbour, manifest, chunk.piece, piece);
  }

  private async handleRecord(slot: number, neighbour: Neighbour, bytes: Uint8Array): Promise<void> {
    const manifest = await this.options.verifier.fromBytes(bytes).catch(() => null);
    if (this.neighbours.get(slot) !== neighbour) return;
    if (!manifest) return this.events.onMisbehaved(slot, "a record that nobody trusts");
    this.options.store.add(manifest);
    this.events.onRecord(slot, manifest);
    const frames = neighbour.waiting ?? [];
    neighbour.waiting = null;
    neighbour.waitingBytes = 0;
    // A record among them makes the frames after it wait again.
    for (const frame of frames) {
      if (this.neighbours.get(slot) === neighbour) this.handleMessage(slot, frame);
    }
  }

  private async handlePiece(
    slot: number,
    neighbour: Neighbour,
    manifest: Manifest,
    piece: number,
    bytes: Uint8Array,
  ): Promise<void> {
    const { store, verifier } = this.options;
    if (store.has(manifest.id, piece)) return this.events.onSurplus(slot, bytes.length);
    const good = await verifier.isPiece(manifest, piece, bytes).catch(() => false);
    if (!good) {
      if (this.neighbours.get(slot) === neighbour) {
        this.events.onMisbehaved(slot, "bytes that differ from the record");
      }
      return;
    }
    const put = store.put(manifest.id, piece, bytes);
    // Bytes that outlive their neighbour are good all the same, but its slot may be another's.
    if (put === "stored") this.events.onPiece(slot, manifest, piece);
    else if (this.neighbours.get(slot) === neighbour) this.events.onSurplus(slot, bytes.length);
  }
}
