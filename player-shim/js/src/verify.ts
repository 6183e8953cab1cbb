// Trust: Ed25519 over records, SHA-256 over pieces, both by WebCrypto.
import type { Module, ParsedRecord } from "./machine";
import { pieceSize, type Manifest } from "./store";

/** Bytes of a piece hash: the first half of SHA-256. */
const HASH_LEN = 16;
/** Headers whose verdict is remembered: ranges of one segment carry the same record. */
const VERDICTS_MAX = 64;

/** Reads a public key: 32 bytes as base64url, base64 or 64 hexadecimal digits. */
export function parseKey(text: string): Uint8Array<ArrayBuffer> {
  const trimmed = text.trim();
  let key: Uint8Array<ArrayBuffer>;
  if (/^[0-9a-f]{64}$/i.test(trimmed)) {
    key = Uint8Array.from(trimmed.match(/../g) ?? [], (digits) => parseInt(digits, 16));
  } else {
    const base64 = trimmed.replace(/-/g, "+").replace(/_/g, "/").replace(/=+$/, "");
    if (!/^[A-Za-z0-9+/]{43}$/.test(base64)) throw new Error("page gave a key that is not 32 bytes");
    key = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  }
  return key;
}

export class Verifier {
  private readonly verdicts = new Map<string, Promise<Manifest | null>>();
  /** The stream whose records count. */
  stream = "";

  private constructor(
    private readonly subtle: SubtleCrypto,
    private readonly keys: CryptoKey[],
    private readonly module: Module,
  ) {}

  /** Fails where the browser cannot verify, or the page gave no usable key. */
  static async create(module: Module, keys: readonly string[]): Promise<Verifier> {
    const subtle = globalThis.crypto?.subtle;
    if (!subtle) throw new Error("environment: no WebCrypto here; serve the page over HTTPS");
    if (keys.length === 0) throw new Error("page gave no key, so nothing could be verified");
    const imported = keys.map((text) =>
      subtle.importKey("raw", parseKey(text), { name: "Ed25519" }, false, ["verify"]),
    );
    return new Verifier(subtle, await Promise.all(imported), module);
  }

  /** Reads and verifies the value of a record header; null if it is not to be trusted. */
  fromHeader(text: string): Promise<Manifest | null> {
    const key = `${this.stream} ${text}`;
    const known = this.verdicts.get(key);
    if (known) return known;
    const oldest = this.verdicts.keys().next();
    if (this.verdicts.size >= VERDICTS_MAX && !oldest.done) this.verdicts.delete(oldest.value);
    const verdict = this.verify(() => this.module.parse_record_header(text));
    this.verdicts.set(key, verdict);
    return verdict;
  }

  /** Reads and verifies a record that a neighbour sent. */
  fromBytes(bytes: Uint8Array): Promise<Manifest | null> {
    return this.verify(() => this.module.parse_record(bytes));
  }

  /** Whether the bytes are this piece of the segment. */
  async isPiece(manifest: Manifest, piece: number, bytes: Uint8Array): Promise<boolean> {
    if (bytes.length === 0 || bytes.length !== pieceSize(manifest, piece)) return false;
    const digest = new Uint8Array(await this.subtle.digest("SHA-256", bytes as BufferSource));
    const expected = manifest.hashes.subarray(piece * HASH_LEN, (piece + 1) * HASH_LEN);
    return expected.length === HASH_LEN && expected.every((byte, at) => byte === digest[at]);
  }

  private async verify(parse: () => ParsedRecord): Promise<Manifest | null> {
    let record: ParsedRecord;
    try {
      record = parse();
    } catch {
      return null;
    }
    const manifest = manifestOf(record);
    const [signed, signature] = [record.signed(), record.signature()];
    record.free();
    if (manifest.stream !== this.stream) return null;
    for (const key of this.keys) {
      const args = [signature as BufferSource, signed as BufferSource] as const;
      if (await this.subtle.verify({ name: "Ed25519" }, key, ...args)) return manifest;
    }
    return null;
  }
}

function manifestOf(record: ParsedRecord): Manifest {
  return {
    id: record.id(),
    name: record.name(),
    stream: record.stream(),
    len: record.len(),
    pieceLen: record.piece_len(),
    hashes: record.hashes(),
    bytes: record.bytes(),
  };
}
