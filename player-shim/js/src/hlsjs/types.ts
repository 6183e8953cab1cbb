// What the adapter uses of hls.js, so that Shoal does not depend on a version of it.

export interface LoaderStats {
  aborted: boolean;
  loaded: number;
  total: number;
  retry: number;
  chunkCount: number;
  bwEstimate: number;
  loading: { start: number; first: number; end: number };
  parsing: { start: number; end: number };
  buffering: { start: number; first: number; end: number };
}

export interface Fragment {
  sn: number | "initSegment";
  level: number;
  type: string;
  /** In seconds. */
  duration: number;
}

export interface LoaderContext {
  url: string;
  rangeStart?: number;
  rangeEnd?: number;
  frag?: Fragment;
  part?: unknown;
}

export interface LoaderConfiguration {
  loadPolicy?: { maxLoadTimeMs?: number };
  timeout?: number;
}

export interface LoaderResponse {
  url: string;
  data: unknown;
  code?: number;
}

export interface LoaderCallbacks {
  onSuccess(response: LoaderResponse, stats: LoaderStats, context: LoaderContext, net: unknown): void;
  onError(
    error: { code: number; text: string },
    context: LoaderContext,
    net: unknown,
    stats: LoaderStats,
  ): void;
  onTimeout(stats: LoaderStats, context: LoaderContext, net: unknown): void;
  onAbort?(stats: LoaderStats, context: LoaderContext, net: unknown): void;
  onProgress?(stats: LoaderStats, context: LoaderContext, data: unknown, net: unknown): void;
}

export interface Loader {
  context: LoaderContext | null;
  stats: LoaderStats;
  load(context: LoaderContext, config: LoaderConfiguration, callbacks: LoaderCallbacks): void;
  abort(): void;
  destroy(): void;
  getCacheAge?(): number | null;
  getResponseHeader?(name: string): string | null;
}

export type LoaderClass = new (config: HlsConfig) => Loader;

export interface HlsConfig {
  loader: LoaderClass;
  fLoader?: LoaderClass | undefined;
  lowLatencyMode?: boolean;
}

export interface LevelDetails {
  m3u8: string;
  url: string;
  edge: number;
  live: boolean;
}

/** What LEVEL_LOADED and AUDIO_TRACK_LOADED carry. */
export interface TrackLoaded {
  details: LevelDetails;
  level?: number;
}

export interface HlsLike {
  config: HlsConfig;
  media?: HTMLMediaElement | null;
  latestLevelDetails?: LevelDetails | null;
  loadLevel?: number;
  on(event: string, listener: (event: string, data: never) => void): void;
  off(event: string, listener: (event: string, data: never) => void): void;
}
