import { createHash } from "node:crypto";
import type { Manifest } from "../src/store";

/** Bytes with a pattern, so that shifted ones differ. */
export function body(len: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length: len }, (_, at) => (at * 7 + (at >> 8)) & 255);
}

/** A record of `bytes`, hashed but not signed. */
export function manifestOf(bytes: Uint8Array, pieceLen = 16_384): Manifest {
  const hashes = [];
  for (let at = 0; at < bytes.length; at += pieceLen) {
    const digest = createHash("sha256").update(bytes.subarray(at, at + pieceLen)).digest();
    hashes.push(digest.subarray(0, 16));
  }
  return {
    id: "0123456789abcdef",
    name: "00000000000000aa",
    stream: "00".repeat(16),
    len: bytes.length,
    pieceLen,
    hashes: Uint8Array.from(Buffer.concat(hashes)),
    bytes: new Uint8Array(113),
  };
}
