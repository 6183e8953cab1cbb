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
  /** As the playlist has it; the player may ask with other arguments. */
  listedUrl: string;
}

export class Catalog {
  private readonly entries = new Map<string, Entry>();
  /** Names by where their segments are: they leave out a viewer's token in the path. */
  private readonly names = new Map<string, string>();

  /** Remembers what a playlist lists. */
  add(window: Window, level: number): void {
    const track = window.track();
    for (const line of window.segments().split("\n")) {
      const [name, seq, durationMs, first, len] = line.split(" ", 5);
      if (!name || !len) continue;
      const url = line.split(" ").slice(5).join(" ");
      this.forget(name);
      this.names.set(placeOf(url, Number(first), Number(len)), name);
      this.entries.set(name, {
        track,
        level,
        url,
        listedUrl: url,
        seq: Number(seq),
        durationMs: Number(durationMs),
        first: Number(first),
        len: Number(len),
      });
    }
    for (const name of this.entries.keys()) {
      if (this.entries.size <= ENTRIES_MAX) break;
      this.forget(name);
    }
  }

  /** The name of the segment at `url`, if a playlist listed it (`len` 0: the whole object). */
  nameOf(url: string, first: number, len: number): string | undefined {
    return this.names.get(placeOf(url, first, len));
  }

  find(name: string): Entry | undefined {
    return this.entries.get(name);
  }

  clear(): void {
    this.entries.clear();
    this.names.clear();
  }

  private forget(name: string): void {
    const entry = this.entries.get(name);
    if (!entry) return;
    this.entries.delete(name);
    this.names.delete(placeOf(entry.listedUrl, entry.first, entry.len));
  }
}

/** What stands for a segment: its path and range. Hosts and queries do not count. */
function placeOf(url: string, first: number, len: number): string {
  const path = url.replace(/[?#].*$/s, "").replace(/^[^/]*:\/\/[^/]*/, "");
  return `${path}#${len > 0 ? first : 0}+${len}`;
}
