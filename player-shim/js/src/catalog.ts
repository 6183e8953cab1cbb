// Where the segments that playlists listed are.
import type { Window } from "./machine";
import type { Located } from "./origin";

/** Segments remembered at most, over all tracks; the oldest go first. */
const ENTRIES_MAX = 8192;

/** One listed segment. */
export interface Entry extends Located {
  track: number;
  seq: number;
  durationMs: number;
  /** The player's index of the quality, -1 for audio. */
  level: number;
}

export class Catalog {
  private readonly entries = new Map<string, Entry>();

  /** Remembers what a playlist lists. */
  add(window: Window, level: number): void {
    const track = window.track();
    for (const line of window.segments().split("\n")) {
      const [name, seq, durationMs, first, len] = line.split(" ", 5);
      if (!name || !len) continue;
      const url = line.split(" ").slice(5).join(" ");
      this.entries.delete(name);
      this.entries.set(name, {
        track,
        level,
        url,
        seq: Number(seq),
        durationMs: Number(durationMs),
        first: Number(first),
        len: Number(len),
      });
    }
    for (const name of this.entries.keys()) {
      if (this.entries.size <= ENTRIES_MAX) break;
      this.entries.delete(name);
    }
  }

  find(name: string): Entry | undefined {
    return this.entries.get(name);
  }

  clear(): void {
    this.entries.clear();
  }
}
