// Runs the tests of the folder it is started in, file by file: `node ../lib/run.mjs [file…]`.
//
// They play live video in real time, and a machine that is taken away for a second makes any page stall. So what
// fails is tried again, with servers and browser of its own, and once the machine is there; an attempt that the
// host has taken a good part of does not count. A fault of ours may be as rare: what is named as flaky is to be
// looked at.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, resolve } from "node:path";
import { run } from "node:test";
import { inspect } from "node:util";

const ATTEMPTS_MAX = 3;
/** So many failures are no accident. */
const AGAIN_MAX = 8;
/** Of the time that programs wanted to run, what the host may take. */
const TAKEN_MAX = 0.1;
/** How long it is looked at, and how long a better time is waited for. */
const LOOK_MS = 1000;
const PATIENCE_MS = 120_000;
/** From then on everything counts. */
const UNTIL = Date.now() + 1_800_000;

const STAT = "/proc/stat";

const literally = (name) => new RegExp(`^${name.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")}$`);
const seconds = ({ duration_ms: ms }) => `${(ms / 1000).toFixed(1)} s`;

/** What programs have had of the machine, and what the host has taken meanwhile, in ticks since it started; only Linux says. */
function ticks() {
  if (!existsSync(STAT)) return { had: 0, taken: 0 };
  // man 5 proc_stat: user, nice, system, idle, iowait, irq, softirq, steal.
  const [user, nice, system, , , irq, softirq, taken] = readFileSync(STAT, "utf8").split(/\s+/).slice(1, 9).map(Number);
  return { had: user + nice + system + irq + softirq, taken };
}

/** The share that the host has taken between two readings. */
function takenShare(before, after) {
  const taken = after.taken - before.taken;
  return taken / Math.max(1, taken + after.had - before.had);
}

/** Waits until the host leaves the machine to whoever wants to run, or no longer. */
async function quiet() {
  for (const until = Date.now() + PATIENCE_MS; Date.now() < until; ) {
    const before = ticks();
    // What is not wanted cannot be taken.
    for (const end = Date.now() + LOOK_MS; Date.now() < end; );
    if (takenShare(before, ticks()) < TAKEN_MAX) return;
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

/** Runs one file, or of its tests only those of these names; the names of those that passed and failed. */
async function attempt(file, names) {
  const passed = [];
  const failed = [];
  const isOurs = ({ nesting, skip }) => nesting === 0 && skip === undefined;
  const before = ticks();
  const events = run({ files: [file], concurrency: 1, testNamePatterns: names?.map(literally) });
  for await (const { type, data } of events) {
    if (type === "test:stdout" || type === "test:stderr") process.stdout.write(data.message);
    else if (type === "test:pass" && isOurs(data)) {
      passed.push(data.name);
      console.log(`✔ ${data.name} (${seconds(data.details)})`);
    } else if (type === "test:fail" && isOurs(data)) {
      failed.push(data.name);
      const { error } = data.details;
      console.log(`✖ ${data.name} (${seconds(data.details)})\n${inspect(error.cause ?? error)}`);
    }
  }
  const taken = takenShare(before, ticks());
  if (failed.length > 0) console.log(`the host took ${(taken * 100).toFixed(0)} % of the time`);
  return { passed, failed, counts: taken < TAKEN_MAX || Date.now() > UNTIL };
}

let again = 0;

/** Which tests of a file passed and failed in the end. */
async function runFile(file) {
  console.log(`\n${basename(file)}`);
  let { passed, failed, counts } = await attempt(file);
  for (let attempts = Number(counts); failed.length > 0 && attempts < ATTEMPTS_MAX; attempts += Number(counts)) {
    if (counts) again += failed.length;
    if (again > AGAIN_MAX) break;
    // A file that fails before its tests, as in a hook, has failed under its own name.
    const names = failed.every((name) => resolve(name) !== file) ? failed : undefined;
    await quiet();
    console.log("once more");
    const next = await attempt(file, names);
    for (const name of next.passed) console.log(`flaky: ${name}`);
    passed = names ? [...passed, ...next.passed] : next.passed;
    ({ failed, counts } = next);
  }
  return { passed, failed };
}

const given = process.argv.slice(2);
const files = given.length > 0 ? given : readdirSync(".").filter((name) => name.endsWith(".test.mjs")).sort();
let passes = 0;
const failures = [];
for (const file of files) {
  const { passed, failed } = await runFile(resolve(file));
  passes += passed.length;
  failures.push(...failed);
}
console.log();
failures.forEach((name, index) => console.log(`not ok ${index + 1} - ${name}`));
console.log(`# pass ${passes}\n# fail ${failures.length}`);
process.exitCode = failures.length > 0 ? 1 : 0;
