//! Several seeds: run side by side, and summed up by medians and spreads.

use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering},
};

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::{Meter, SimulateArgs};
use crate::{Options, Report, run};

/// Runs all seeds, one on each thread at a time, and returns them in order.
pub(super) fn run_all(args: &SimulateArgs, first: &Options) -> Result<Vec<Report>> {
    let (next, meter) = (AtomicU32::new(0), Meter::new(args.seeds));
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.threads().min(args.seeds as usize) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= args.seeds {
                        break;
                    }
                    let options = Options {
                        seed: first.seed + u64::from(index),
                        ..first.clone()
                    };
                    let report = run(&options, 1, &|progress| meter.show(index, progress));
                    let mut done = done.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    done.push((index, report));
                }
            });
        }
    });
    meter.clear();
    let mut done = done
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, report)| report).collect()
}

/// The run whose offload is the median (the lower one of two).
pub(super) fn median_run(reports: &[Report]) -> &Report {
    let mut order: Vec<&Report> = reports.iter().collect();
    order.sort_by(|a, b| a.offload.total_cmp(&b.offload));
    order[(order.len() - 1) / 2]
}

/// What must be 0, whatever the seed: their sums are told, for a median would hide them.
const SUMMED: [&str; 2] = ["problems", "bad_pieces_played"];

/// Every number's median under its name, sums of what must be 0; `spread` has the least and the greatest of those at the
/// top level; what is no number is a list where the runs differ.
pub(super) fn summary(runs: &[Value]) -> Value {
    let mut spread = Map::new();
    for (name, value) in runs[0].as_object().into_iter().flatten() {
        if value.is_number() {
            let of = |run: &Value| run[name].as_f64().unwrap_or_default();
            let least = runs.iter().map(of).fold(f64::INFINITY, f64::min);
            let greatest = runs.iter().map(of).fold(f64::NEG_INFINITY, f64::max);
            spread.insert(name.clone(), json!([least, greatest]));
        }
    }
    let seeds: Vec<&Value> = runs.iter().map(|run| &run["options"]["seed"]).collect();
    let mut summary = middle(&runs.iter().collect::<Vec<_>>());
    for name in SUMMED {
        let sum = runs
            .iter()
            .filter_map(|run| run[name].as_u64())
            .sum::<u64>();
        summary[name] = json!(sum);
    }
    summary["options"] = runs[0]["options"].clone();
    summary["seeds"] = json!(seeds);
    summary["spread"] = Value::Object(spread);
    summary
}

fn middle(values: &[&Value]) -> Value {
    match values[0] {
        Value::Number(_) => median(values),
        Value::Object(first) => {
            let keys = first.keys();
            let part = |key: &String| {
                let parts: Vec<&Value> = values.iter().filter_map(|v| v.get(key)).collect();
                (key.clone(), middle(&parts))
            };
            Value::Object(keys.map(part).collect())
        }
        Value::Array(first) if !first.is_empty() && first.iter().all(Value::is_number) => (0
            ..first.len())
            .map(|at| middle(&values.iter().filter_map(|v| v.get(at)).collect::<Vec<_>>()))
            .collect(),
        first if values.iter().all(|value| *value == first) => first.clone(),
        _ => json!(values),
    }
}

/// Of an even number of values, the mean of the two in the middle.
fn median(values: &[&Value]) -> Value {
    let mut numbers: Vec<f64> = values.iter().filter_map(|value| value.as_f64()).collect();
    numbers.sort_by(f64::total_cmp);
    match numbers.len() {
        0 => Value::Null,
        count if count % 2 == 1 => json!(numbers[count / 2]),
        count => json!((numbers[count / 2 - 1] + numbers[count / 2]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads_are_those_of_the_runs() {
        let run = |seed: u64, offload: f64, hash: &str| {
            json!({
                "options": { "seed": seed },
                "offload": offload,
                "ready_ms": [seed, 10 * seed],
                "event_hash": hash,
                "problems": u64::from(seed == 2),
                "commit": "abc",
            })
        };
        let runs = [run(1, 0.5, "a"), run(2, 0.9, "b"), run(3, 0.8, "c")];
        let summary = summary(&runs);
        assert_eq!(summary["offload"], 0.8);
        assert_eq!(summary["spread"]["offload"], json!([0.5, 0.9]));
        assert_eq!(summary["ready_ms"], json!([2.0, 20.0]));
        assert_eq!(summary["seeds"], json!([1, 2, 3]));
        assert_eq!(summary["event_hash"], json!(["a", "b", "c"]));
        assert_eq!(summary["commit"], "abc");
        assert_eq!(
            summary["problems"], 1,
            "one broken run of three is one too many"
        );
    }
}
