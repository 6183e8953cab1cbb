// Chunks from one neighbour, put together to pieces. Bounded and strict: what does not follow the
// rules is the neighbour's fault.
import { CHUNK_HEADER_LEN, CHUNK_KIND, CHUNK_LEN_MAX } from "./abi.gen";
import { idOf } from "./codec";
import { pieceSize, type Manifest } from "./store";

/** Pieces that one neighbour may have begun and not finished. */
const PARTIAL_MAX = 8;

/** A part of a piece. */
export interface Chunk {
  segment: string;
  piece: number;
  offset: number;
  bytes: Uint8Array;
}

/** Reads a chunk; null if it is malformed. The bytes are a view of the frame. */
export function readChunk(frame: Uint8Array): Chunk | null {
  const len = frame.length - CHUNK_HEADER_LEN;
  if (frame[0] !== CHUNK_KIND || len < 1 || len > CHUNK_LEN_MAX) return null;
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  return {
    segment: idOf(view.getUint32(1), view.getUint32(5)),
    piece: view.getUint8(9),
    offset: view.getUint32(10),
    bytes: frame.subarray(CHUNK_HEADER_LEN),
  };
}

/** Writes a chunk. */
export function writeChunk(chunk: Chunk): Uint8Array<ArrayBuffer> {
  const frame = new Uint8Array(CHUNK_HEADER_LEN + chunk.bytes.length);
  const view = new DataView(frame.buffer);
  view.setUint8(0, CHUNK_KIND);
  view.setUint32(1, parseInt(chunk.segment.slice(0, 8), 16));
  view.setUint32(5, parseInt(chunk.segment.slice(8), 16));
  view.setUint8(9, chunk.piece);
  view.setUint32(10, chunk.offset);
  frame.set(chunk.bytes, CHUNK_HEADER_LEN);
  return frame;
}

/** What a chunk led to: a whole piece, yet to be verified; nothing yet; or a broken rule. */
export type Progress = Uint8Array | "partial" | "broken";

export class Reassembly {
  private readonly partial = new Map<string, { bytes: Uint8Array; filled: number }>();

  /** Takes a chunk of the segment that `manifest` describes. */
  push(manifest: Manifest, chunk: Chunk): Progress {
    const size = pieceSize(manifest, chunk.piece);
    const key = `${chunk.segment}/${chunk.piece}`;
    const begun = this.partial.get(key);
    const filled = begun?.filled ?? 0;
    if (size === 0 || chunk.offset !== filled || filled + chunk.bytes.length > size) return "broken";
    if (!begun && chunk.bytes.length === size) return chunk.bytes;
    if (!begun && this.partial.size >= PARTIAL_MAX) return "broken";
    const piece = begun ?? { bytes: new Uint8Array(size), filled: 0 };
    piece.bytes.set(chunk.bytes, filled);
    piece.filled = filled + chunk.bytes.length;
    if (piece.filled < size) {
      this.partial.set(key, piece);
      return "partial";
    }
    this.partial.delete(key);
    return piece.bytes;
  }

  /** Forgets what was begun of a segment. */
  forget(segment: string): void {
    for (const key of this.partial.keys()) {
      if (key.startsWith(`${segment}/`)) this.partial.delete(key);
    }
  }
}
