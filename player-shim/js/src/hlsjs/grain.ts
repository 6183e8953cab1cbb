// How finely a segment can be played while it arrives, as those before it show.

/**
 * Media that hls.js takes at a time, in milliseconds, if nothing makes it more: it appends whole frames of
 * MPEG-TS, and chunks of CMAF, which last half a second as a rule. Finer steps would bring many small
 * appends and no more time to share.
 */
export const GRAIN_MS = 500;

/** The packets of MPEG-TS begin with this byte, and are so long. */
const TS_SYNC = 0x47;
const TS_PACKET_LEN = 188;
const BOX_HEADER_LEN = 8;
const MOOF = 0x6d6f6f66;

/** Where the fragments of one segment begin, from its bytes as they come. */
export class Layout {
  private len = 0;
  private isTs = false;
  private isBroken = false;
  /** Where the next box begins, and what is known of its header. */
  private next = 0;
  private header: number[] = [];
  private readonly moofs: number[] = [];

  push(data: ArrayBuffer): void {
    const bytes = new Uint8Array(data);
    if (this.len === 0) this.isTs = bytes[0] === TS_SYNC && bytes[TS_PACKET_LEN] === TS_SYNC;
    while (!this.isTs && !this.isBroken) {
      const from = this.next + this.header.length - this.len;
      if (from >= bytes.length) break;
      this.header.push(...bytes.subarray(from, from + BOX_HEADER_LEN - this.header.length));
      if (this.header.length === BOX_HEADER_LEN) this.onHeader();
    }
    this.len += bytes.length;
  }

  /**
   * The grain of segments like this one, which lasts `durationMs` and came in pieces of `pieceLen` bytes; 0
   * if they have to be whole. hls.js appends a fragment when the next one begins.
   */
  grainMs(durationMs: number, pieceLen: number): number {
    if (this.isTs) return GRAIN_MS < durationMs && pieceLen > 0 ? GRAIN_MS : 0;
    const { moofs, len } = this;
    if (this.isBroken || this.next !== len || pieceLen === 0) return 0;
    // The machine believes that media are spread evenly over the bytes: by how much a fragment, which
    // is needed when the one before has been played, ends later than that.
    const lags = moofs.map((_, at) => ((moofs[at + 1] ?? len) + pieceLen) / len - at / moofs.length);
    const grainMs = Math.max(GRAIN_MS, Math.ceil(durationMs * Math.max(0, ...lags)));
    return moofs.length > 1 && grainMs < durationMs ? grainMs : 0;
  }

  private onHeader(): void {
    const header = new DataView(Uint8Array.from(this.header).buffer);
    this.header = [];
    if (header.getUint32(4) === MOOF) this.moofs.push(this.next);
    const size = header.getUint32(0);
    // Smaller ones mean sizes of 64 bits, boxes without end, or no boxes at all (encrypted segments).
    this.isBroken = size < BOX_HEADER_LEN;
    this.next += size;
  }
}

/** The grains of a player's tracks. */
export class Grains {
  private readonly known = new Map<string, number>();

  /** 0 for tracks of which nothing is known. */
  of(track: string): number {
    return this.known.get(track) ?? 0;
  }

  /** What a segment of the track has shown. Coarser ones are remembered for a while. */
  learn(track: string, grainMs: number): void {
    const remembered = (this.of(track) * 7) >> 3;
    this.known.set(track, grainMs === 0 ? 0 : Math.max(grainMs, remembered));
  }

  clear(): void {
    this.known.clear();
  }
}
