// Verified pieces of segments, within a bound. Buffers never leave: players get copies.

/** What is known of a segment from its record, whose signature was verified. */
export interface Manifest {
  id: string;
  name: string;
  stream: string;
  len: number;
  pieceLen: number;
  /** 16 bytes for each piece. */
  hashes: Uint8Array;
  /** The record itself, for neighbours. */
  bytes: Uint8Array;
}

interface Stored {
  manifest: Manifest;
  /** Allocated with the first piece. */
  data: Uint8Array<ArrayBuffer> | null;
  have: Uint8Array;
  missing: number;
}

/** What became of a piece. */
export type Put = "stored" | "duplicate" | "unknown" | "full";

/** How many pieces a segment has. */
export function pieceCount(manifest: Manifest): number {
  return Math.ceil(manifest.len / manifest.pieceLen);
}

/** Length of one piece in bytes; 0 past the end. */
export function pieceSize(manifest: Manifest, piece: number): number {
  const left = manifest.len - piece * manifest.pieceLen;
  return Math.max(0, Math.min(left, manifest.pieceLen));
}

export class Store {
  private readonly segments = new Map<string, Stored>();
  private readonly bodies = new Map<number, Uint8Array<ArrayBuffer>>();
  private bytes = 0;

  constructor(private readonly bytesMax: number) {}

  /** Remembers a record; its pieces may follow. */
  add(manifest: Manifest): void {
    if (this.segments.has(manifest.id)) return;
    const count = pieceCount(manifest);
    const have = new Uint8Array(count);
    this.segments.set(manifest.id, { manifest, data: null, have, missing: count });
  }

  /** The record of a segment. */
  manifest(id: string): Manifest | undefined {
    return this.segments.get(id)?.manifest;
  }

  /** The newest record of a name. */
  manifestOf(name: string): Manifest | undefined {
    let found: Manifest | undefined;
    for (const { manifest } of this.segments.values()) if (manifest.name === name) found = manifest;
    return found;
  }

  has(id: string, piece: number): boolean {
    return this.segments.get(id)?.have[piece] === 1;
  }

  /** Keeps a copy of a verified piece. */
  put(id: string, piece: number, bytes: Uint8Array): Put {
    const segment = this.segments.get(id);
    if (!segment || bytes.length !== pieceSize(segment.manifest, piece)) return "unknown";
    if (segment.have[piece] === 1) return "duplicate";
    if (!segment.data) {
      if (this.bytes + segment.manifest.len > this.bytesMax) return "full";
      segment.data = new Uint8Array(segment.manifest.len);
      this.bytes += segment.manifest.len;
    }
    segment.data.set(bytes, piece * segment.manifest.pieceLen);
    segment.have[piece] = 1;
    segment.missing -= 1;
    return "stored";
  }

  /** A stored piece; a view that must not be kept. */
  piece(id: string, piece: number): Uint8Array | null {
    const segment = this.segments.get(id);
    if (!segment?.data || segment.have[piece] !== 1) return null;
    const start = piece * segment.manifest.pieceLen;
    return segment.data.subarray(start, start + pieceSize(segment.manifest, piece));
  }

  /** A copy of a segment from byte `from` to the end of its first `pieces`, if all of those are stored. */
  part(id: string, from: number, pieces: number): ArrayBuffer | null {
    const segment = this.segments.get(id);
    if (!segment?.data || pieces > segment.have.length) return null;
    if (segment.have.subarray(0, pieces).includes(0)) return null;
    return segment.data.slice(from, Math.max(from, pieces * segment.manifest.pieceLen)).buffer;
  }

  /** Keeps the unverified body of a fetch until it is taken or dropped. */
  putBody(fetch: number, body: Uint8Array<ArrayBuffer>): boolean {
    if (this.bytes + body.length > this.bytesMax) return false;
    this.dropBody(fetch);
    this.bodies.set(fetch, body);
    this.bytes += body.length;
    return true;
  }

  /** A copy of a body: several requests may wait for the same one. */
  body(fetch: number): ArrayBuffer | null {
    return this.bodies.get(fetch)?.slice().buffer ?? null;
  }

  dropBody(fetch: number): void {
    this.bytes -= this.bodies.get(fetch)?.length ?? 0;
    this.bodies.delete(fetch);
  }

  /** Forgets a segment. */
  evict(id: string): void {
    const segment = this.segments.get(id);
    if (segment?.data) this.bytes -= segment.data.length;
    this.segments.delete(id);
  }

  clear(): void {
    this.segments.clear();
    this.bodies.clear();
    this.bytes = 0;
  }

  /** Bytes in use. */
  get size(): number {
    return this.bytes;
  }
}
