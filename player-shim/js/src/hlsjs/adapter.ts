// Shoal on an existing hls.js player: its fragment loader, its playlists, its media element.
import type { Session } from "../session";
import { loaderClass } from "./loader";
import { Playback } from "./playback";
import type { Fragment, HlsLike, LevelDetails, TrackLoaded } from "./types";

type Kind = "main" | "audio";

/**
 * What the player loads in low-latency HLS, parts or whole segments, is what is shared. It goes from one to the other
 * by itself, for instance when the viewer seeks: after so many of the other sort in a row, the engine follows.
 */
const OTHERS_MAX = 3;

/** Of one kind of track: whether parts are followed, and how many of the other sort were asked for since. */
interface Taste {
  parts: boolean;
  others: number;
}

export class HlsAdapter {
  private readonly playback: Playback;
  private readonly ownLoader: HlsLike["config"]["fLoader"];
  private readonly loader: NonNullable<HlsLike["config"]["fLoader"]>;
  /** The playlist of each kind that was loaded last: also for an engine that comes later. */
  private readonly last = new Map<Kind, { details: LevelDetails; level: number }>();
  private readonly tracks = new Map<Kind, number>();
  private readonly tastes = new Map<Kind, Taste>();

  /** Hooks in at once; the session may become ready at any time later. */
  constructor(
    private readonly hls: HlsLike,
    private readonly session: Session,
  ) {
    const { config } = hls;
    this.ownLoader = config.fLoader;
    this.loader = loaderClass(session, this.ownLoader ?? config.loader);
    config.fLoader = this.loader;
    hls.on("hlsLevelLoaded", this.onLevel);
    hls.on("hlsAudioTrackLoaded", this.onAudio);
    hls.on("hlsManifestLoading", this.onManifest);
    hls.on("hlsDestroying", this.onDestroying);
    this.playback = new Playback(hls, (stalled) => session.onPlayback(this.playback, stalled));
    session.onReady = () => {
      for (const [kind, { details, level }] of this.last) this.take(kind, details, level);
    };
    session.onStop = () => this.detach();
    session.onAsked = (frag, isPart) => this.onAsked(frag, isPart);
    const details = hls.latestLevelDetails;
    if (details) this.take("main", details, hls.loadLevel ?? -1);
  }

  private detach(): void {
    const { hls } = this;
    this.playback.stop();
    hls.off("hlsLevelLoaded", this.onLevel);
    hls.off("hlsAudioTrackLoaded", this.onAudio);
    hls.off("hlsManifestLoading", this.onManifest);
    hls.off("hlsDestroying", this.onDestroying);
    if (hls.config?.fLoader === this.loader) hls.config.fLoader = this.ownLoader;
  }

  private readonly onLevel = (_: string, data: TrackLoaded): void => {
    this.take("main", data.details, data.level ?? -1);
  };

  private readonly onAudio = (_: string, data: TrackLoaded): void => {
    this.take("audio", data.details, -1);
  };

  private readonly onManifest = (): void => {
    for (const track of this.tracks.values()) this.session.engine?.endTrack(track);
    this.tracks.clear();
    this.last.clear();
    this.tastes.clear();
    this.session.grains.clear();
  };

  private readonly onDestroying = (): void => this.session.destroy();

  private take(kind: Kind, details: LevelDetails | undefined, level: number): void {
    if (!details?.m3u8) return;
    this.last.set(kind, { details, level });
    const { engine } = this.session;
    const track = engine?.playlist(details.m3u8, details.url, level, this.tasteOf(kind).parts) ?? null;
    if (!engine || track === null) return;
    const before = this.tracks.get(kind);
    this.tracks.set(kind, track);
    if (before !== undefined && before !== track) engine.endTrack(before);
  }

  private tasteOf(kind: Kind): Taste {
    let taste = this.tastes.get(kind);
    if (!taste) {
      taste = { parts: this.hls.config.lowLatencyMode === true, others: 0 };
      this.tastes.set(kind, taste);
    }
    return taste;
  }

  private onAsked({ type }: Fragment, isPart: boolean): void {
    const kind = type === "audio" ? "audio" : "main";
    const taste = this.tasteOf(kind);
    taste.others = isPart === taste.parts ? 0 : taste.others + 1;
    if (taste.others < OTHERS_MAX) return;
    this.tastes.set(kind, { parts: isPart, others: 0 });
    const last = this.last.get(kind);
    if (last) this.take(kind, last.details, last.level);
  }
}
