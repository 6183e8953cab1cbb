// Bundles player-shim/dist: shoal.js (ES module), shoal.iife.js (global `Shoal`), shoal_bg.wasm,
// index.d.ts. `cargo xtask wasm` runs it after it has put the WebAssembly module there.
import { build } from "esbuild";
import { copyFile, readFile, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const dist = join(here, "..", "dist");
const glue = join(dist, "player_shim.js");

await stat(glue).catch(() => {
  console.error("player-shim/dist has no WebAssembly module yet: run `cargo xtask wasm`");
  process.exit(1);
});

const common = {
  bundle: true,
  minify: true,
  sourcemap: true,
  target: ["es2022"],
  alias: { "#glue": glue },
  legalComments: "none",
  logLevel: "warning",
};
await build({ ...common, entryPoints: [join(here, "src/esm.ts")], format: "esm", outfile: join(dist, "shoal.js") });
await build({
  ...common,
  entryPoints: [join(here, "src/iife.ts")],
  format: "iife",
  globalName: "Shoal",
  outfile: join(dist, "shoal.iife.js"),
});
await copyFile(join(dist, "player_shim_bg.wasm"), join(dist, "shoal_bg.wasm"));

const api = await readFile(join(here, "src/api.ts"), "utf8");
await writeFile(
  join(dist, "index.d.ts"),
  `${api}
/** Lets an hls.js player share its stream. Call it before \`hls.loadSource\`. */
export declare function attach(hls: unknown, options: ShoalOptions): ShoalHandle;
export declare const version: string;
declare const Shoal: { attach: typeof attach; version: string };
export default Shoal;
export as namespace Shoal;
`,
);
