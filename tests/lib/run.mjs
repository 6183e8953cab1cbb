// Runs the tests of the folder it is started in, file by file: `node ../lib/run.mjs [file…]`.
//
// They play live video in real time, and a machine that is taken away for a second makes any page stall. So what
// fails is tried again, with servers and browser of its own. A fault of ours may be as rare: what is named as
// flaky is to be looked at.

import { readdirSync } from "node:fs";
import { basename, resolve } from "node:path";
import { run } from "node:test";
import { inspect } from "node:util";

const ATTEMPTS_MAX = 3;
/** So many failures are no accident. */
const AGAIN_MAX = 8;

const literally = (name) => new RegExp(`^${name.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")}$`);
const seconds = ({ duration_ms: ms }) => `${(ms / 1000).toFixed(1)} s`;

/** Runs one file, or of its tests only those of these names; the names of those that passed and failed. */
async function attempt(file, names) {
  const passed = [];
  const failed = [];
  const isOurs = ({ nesting, skip }) => nesting === 0 && skip === undefined;
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
  return { passed, failed };
}

let again = 0;

/** Which tests of a file passed and failed in the end. */
async function runFile(file) {
  console.log(`\n${basename(file)}`);
  let { passed, failed } = await attempt(file);
  for (let count = 2; count <= ATTEMPTS_MAX && failed.length > 0; count += 1) {
    again += failed.length;
    if (again > AGAIN_MAX) break;
    // A file that fails before its tests, as in a hook, has failed under its own name.
    const names = failed.every((name) => resolve(name) !== file) ? failed : undefined;
    console.log(`attempt ${count} of ${ATTEMPTS_MAX}`);
    const next = await attempt(file, names);
    for (const name of next.passed) console.log(`flaky: ${name}`);
    passed = names ? [...passed, ...next.passed] : next.passed;
    failed = next.failed;
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
