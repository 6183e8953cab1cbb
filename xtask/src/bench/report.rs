//! Figures of a benchmark: ours, the others', and the ratio.

use std::fmt::Write;

use serde_json::{Map, Value, json};

/// Which way a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
}

/// One thing that was measured.
#[derive(Debug)]
struct Figure {
    name: String,
    unit: &'static str,
    better: Better,
    ours: f64,
    /// Who else was measured in the same run, and what they reach.
    others: Vec<(String, f64)>,
}

impl Figure {
    /// How many times better ours is: above 1 is better, whichever way the figure goes.
    fn ratio(&self, other: f64) -> f64 {
        match self.better {
            Better::More => self.ours / other,
            Better::Less => other / self.ours,
        }
    }
}

/// All figures of one benchmark, in the order in which they were measured.
#[derive(Debug)]
pub(crate) struct Report {
    bench: &'static str,
    figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn new(bench: &'static str) -> Self {
        Self {
            bench,
            figures: Vec::new(),
        }
    }

    /// Adds a figure; `others` are those measured in the same run, by name.
    pub(crate) fn add(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        better: Better,
        ours: f64,
        others: &[(&str, f64)],
    ) {
        let others = others
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value));
        self.figures.push(Figure {
            name: name.into(),
            unit,
            better,
            ours,
            others: others.collect(),
        });
    }

    /// One line for each figure, and one below it for each of the others.
    pub(crate) fn to_table(&self) -> String {
        let mut table = format!("bench {}\n", self.bench);
        for figure in &self.figures {
            let (name, unit) = (&figure.name, figure.unit);
            let _ = writeln!(table, "  {name:<44} {:>14} {unit}", short(figure.ours));
            for (other, value) in &figure.others {
                let ratio = figure.ratio(*value);
                let _ = writeln!(
                    table,
                    "    {other:<42} {:>14} {unit}   ratio {}",
                    short(*value),
                    short(ratio)
                );
            }
        }
        table
    }

    /// `{"bench": .., "figures": [{"name", "unit", "better", "ours", "others": {name: {"value",
    /// "ratio"}}}]}`; a ratio above 1 means that ours is better.
    pub(crate) fn to_json(&self) -> Value {
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|figure| {
                let others: Map<String, Value> = figure
                    .others
                    .iter()
                    .map(|(name, value)| {
                        let ratio = figure.ratio(*value);
                        (name.clone(), json!({ "value": value, "ratio": ratio }))
                    })
                    .collect();
                let better = match figure.better {
                    Better::More => "more",
                    Better::Less => "less",
                };
                json!({
                    "name": figure.name,
                    "unit": figure.unit,
                    "better": better,
                    "ours": figure.ours,
                    "others": others,
                })
            })
            .collect();
        json!({ "bench": self.bench, "figures": figures })
    }
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_one_is_better_both_ways() {
        let mut report = Report::new("x");
        report.add("rate", "1/s", Better::More, 300.0, &[("rival", 100.0)]);
        report.add("time", "ms", Better::Less, 2.0, &[("rival", 8.0)]);
        let json = report.to_json();
        assert_eq!(json["figures"][0]["others"]["rival"]["ratio"], 3.0);
        assert_eq!(json["figures"][1]["others"]["rival"]["ratio"], 4.0);
        assert!(report.to_table().contains("ratio 3.000"));
    }
}
