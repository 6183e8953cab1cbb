// A body that streams in, cut into the pieces of its segment.
import { pieceCount, pieceSize, type Manifest } from "./store";

export class Cutter {
  private piece: Uint8Array | null = null;
  private filled = 0;

  /** The body has `skip` bytes before the segment's byte `at`. */
  constructor(
    private readonly manifest: Manifest,
    private skip: number,
    /** The segment's byte that comes next. */
    public at: number,
  ) {}

  /** The pieces that these bytes complete. */
  push(bytes: Uint8Array): [number, Uint8Array][] {
    const { len, pieceLen } = this.manifest;
    const skipped = Math.min(this.skip, bytes.length);
    this.skip -= skipped;
    let rest = bytes.subarray(skipped);
    const complete: [number, Uint8Array][] = [];
    while (rest.length > 0 && this.at < len) {
      const index = Math.floor(this.at / pieceLen);
      const start = index * pieceLen;
      const size = pieceSize(this.manifest, index);
      const take = Math.min(start + size - this.at, rest.length);
      // A piece whose beginning is not in this answer is of no use.
      if (this.at === start) [this.piece, this.filled] = [new Uint8Array(size), 0];
      if (this.piece) {
        this.piece.set(rest.subarray(0, take), this.filled);
        this.filled += take;
      }
      this.at += take;
      rest = rest.subarray(take);
      if (this.at === start + size && this.piece) {
        complete.push([index, this.piece]);
        this.piece = null;
      }
    }
    return complete;
  }
}

/** The pieces that make up a range (`len` 0: all); null if it does not consist of whole pieces. */
export function wantedPieces(manifest: Manifest, first: number, len: number): number[] | null {
  const end = len === 0 ? manifest.len : Math.min(first + len, manifest.len);
  const aligned = first % manifest.pieceLen === 0 && (end === manifest.len || end % manifest.pieceLen === 0);
  if (!aligned || first >= end) return null;
  const last = Math.min(Math.ceil(end / manifest.pieceLen), pieceCount(manifest));
  const pieces = [];
  for (let piece = first / manifest.pieceLen; piece < last; piece++) pieces.push(piece);
  return pieces;
}
