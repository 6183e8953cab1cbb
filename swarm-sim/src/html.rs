//! The report as one HTML page: no scripts, no other files; plots are inline SVG.

use std::fmt::Write;

use crate::{measure::Second, report::Report};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 220.0;
const MARGIN: f64 = 44.0;
const COLOURS: [&str; 3] = ["#1668b8", "#c2410c", "#15803d"];

/// A line of a plot.
struct Line {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

/// The report as a self-contained page.
pub fn to_html(report: &Report) -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Shoal simulation</title><style>body{font:15px/1.5 system-ui,sans-serif;max-width:760px;margin:2rem auto;\
         padding:0 1rem;color:#1c2733}table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.2rem .6rem;\
         border-bottom:1px solid #dde3ea}h2{margin-top:2rem}svg{width:100%;height:auto}text{font-size:11px;fill:#4a5a6a}\
         .bad{color:#b91c1c;font-weight:600}</style>",
    );
    let options = &report.options;
    let _ = write!(
        page,
        "<h1>{}</h1><p>{} viewers, {} Mbit/s, segments of {} s, {} s behind live, {} minutes; seed {}; events {}.</p>",
        escape(&options.scenario),
        options.viewers,
        options.bitrate_mbps,
        options.segment_s,
        options.latency_s,
        options.minutes,
        options.seed,
        report.event_hash
    );
    figures(&mut page, report);
    plot(
        &mut page,
        "CDN egress, Mbit/s, by second",
        &[
            Line {
                name: "with peers",
                points: rates(&report.metrics.seconds),
            },
            Line {
                name: "CDN only",
                points: rates(&report.seconds_cdn_only),
            },
        ],
    );
    plot(
        &mut page,
        "Offload by second, and its bounds",
        &offload_lines(report),
    );
    plot(
        &mut page,
        "Viewers, by second",
        &[Line {
            name: "viewers",
            points: by_second(&report.metrics.seconds, |s| f64::from(s.audience)),
        }],
    );
    distributions(&mut page, report);
    losses(&mut page, report);
    page.push_str("</html>");
    page
}

// tidy: long-fn: one entry for each figure
fn figures(page: &mut String, report: &Report) {
    let rows = [
        (
            "Offload (1 - CDN / CDN of the twin)",
            format!("{:.4}", report.offload),
        ),
        (
            "Bounds: uplinks; separate groups; delay",
            format!(
                "{:.4}; {:.4}; {:.4}",
                report.offload_bound, report.offload_bound_groups, report.offload_bound_delay
            ),
        ),
        (
            "CDN copies of a segment; per group",
            format!(
                "{:.2}; {:.3}",
                report.cdn_copies_per_segment, report.cdn_copies_per_group
            ),
        ),
        (
            "Stall ratio; twin",
            format!(
                "{:.5}; {:.5}",
                report.stall_ratio, report.stall_ratio_cdn_only
            ),
        ),
        (
            "Start-up, median and 95 %, ms; twin",
            format!(
                "{} / {}; {} / {}",
                report.startup_ms_p50,
                report.startup_ms_p95,
                report.startup_ms_p50_cdn_only,
                report.startup_ms_p95_cdn_only
            ),
        ),
        (
            "Latency, median, s; twin",
            format!(
                "{:.2}; {:.2}",
                report.latency_s_p50, report.latency_s_p50_cdn_only
            ),
        ),
        ("Wasted bytes", format!("{:.4}", report.bytes_wasted_ratio)),
        (
            "Bad pieces dropped; played",
            format!("{}; {}", report.bad_pieces_seen, report.bad_pieces_played),
        ),
        (
            "CDN peak over 5 s, Mbit/s; twin",
            format!(
                "{:.0}; {:.0}",
                report.cdn_peak_mbps.0, report.cdn_peak_mbps.1
            ),
        ),
        (
            "Core state per viewer, bytes",
            format!("{:.0}", report.core_bytes_per_viewer),
        ),
    ];
    page.push_str("<table>");
    for (name, value) in rows {
        let _ = write!(page, "<tr><th>{name}<td>{value}");
    }
    page.push_str("</table>");
    if report.problems > 0 {
        let _ = write!(
            page,
            "<p class=bad>{} broken invariants</p><ul>",
            report.problems
        );
        for problem in &report.problems_first {
            let _ = write!(page, "<li>{}", escape(problem));
        }
        page.push_str("</ul>");
    }
}

fn by_second(seconds: &[Second], value: impl Fn(&Second) -> f64) -> Vec<(f64, f64)> {
    seconds
        .iter()
        .enumerate()
        .map(|(at, second)| (at as f64, value(second)))
        .collect()
}

fn rates(seconds: &[Second]) -> Vec<(f64, f64)> {
    by_second(seconds, |second| second.cdn_bytes as f64 * 8.0 / 1e6)
}

/// Offload over ten seconds each, since segments come in waves.
fn offload_lines(report: &Report) -> [Line; 3] {
    let sum = |seconds: &[Second], at: usize| -> u64 {
        seconds[at.saturating_sub(10)..(at + 1).min(seconds.len())]
            .iter()
            .map(|s| s.cdn_bytes)
            .sum()
    };
    let count = report
        .metrics
        .seconds
        .len()
        .min(report.seconds_cdn_only.len());
    let points = (10..count)
        .map(|at| {
            let only = sum(&report.seconds_cdn_only, at).max(1);
            (
                at as f64,
                (1.0 - sum(&report.metrics.seconds, at) as f64 / only as f64).max(0.0),
            )
        })
        .collect();
    let flat = |value: f64| vec![(0.0, value), (count as f64, value)];
    [
        Line {
            name: "offload",
            points,
        },
        Line {
            name: "bound by uplinks",
            points: flat(report.offload_bound),
        },
        Line {
            name: "bound of separate groups",
            points: flat(report.offload_bound_groups),
        },
    ]
}

fn distributions(page: &mut String, report: &Report) {
    let pair = |values: &[Vec<u64>; 2]| {
        [
            Line {
                name: "with peers",
                points: quantiles(&values[0]),
            },
            Line {
                name: "CDN only",
                points: quantiles(&values[1]),
            },
        ]
    };
    plot(
        page,
        "Start-up in ms, by percentile of viewers",
        &pair(&report.startups),
    );
    plot(
        page,
        "Stall ratio in hundredths of a percent, by percentile",
        &pair(&report.stall_ratios),
    );
    plot(
        page,
        "From publication until a viewer has the segment, ms, by percentile",
        &[Line {
            name: "with peers",
            points: (0..100)
                .map(|p| {
                    (
                        f64::from(p),
                        report.metrics.ready_us.quantile(f64::from(p) / 100.0) as f64 / 1e3,
                    )
                })
                .collect(),
        }],
    );
}

fn quantiles(sorted: &[u64]) -> Vec<(f64, f64)> {
    let last = sorted.len().saturating_sub(1);
    let at = |percent: usize| sorted.get(last * percent / 100).copied().unwrap_or(0) as f64;
    (0..=99)
        .map(|percent| (percent as f64, at(percent)))
        .collect()
}

fn losses(page: &mut String, report: &Report) {
    page.push_str("<h2>Where the offload went</h2><table><tr><th>what the CDN was asked for<th>percent of the twin's bytes");
    for (name, share) in &report.lost {
        let _ = write!(
            page,
            "<tr><td>{}<td>{:.2}",
            name.replace('_', " "),
            share * 100.0
        );
    }
    page.push_str("</table>");
}

fn plot(page: &mut String, title: &str, lines: &[Line]) {
    let points = || lines.iter().flat_map(|line| &line.points);
    let x_max = points().map(|p| p.0).fold(1.0, f64::max);
    let y_max = points().map(|p| p.1).fold(1e-9, f64::max) * 1.05;
    let x = |value: f64| MARGIN + value / x_max * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN + (value / y_max) * (2.0 * MARGIN - HEIGHT) * 0.95;
    let _ = write!(
        page,
        "<h2>{title}</h2><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">"
    );
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        let (at_x, at_y) = (x(share * x_max), y(share * y_max));
        let _ = write!(
            page,
            "<path d=\"M{MARGIN} {at_y:.1}H{:.1}\" stroke=\"#e3e8ee\"/><text x=\"2\" y=\"{at_y:.1}\">{}</text>\
             <text x=\"{at_x:.1}\" y=\"{:.1}\">{:.0}</text>",
            WIDTH - MARGIN,
            short(share * y_max),
            HEIGHT - MARGIN + 16.0,
            share * x_max
        );
    }
    for (line, colour) in lines.iter().zip(COLOURS) {
        let mut path = String::new();
        for (index, (at, value)) in line.points.iter().enumerate() {
            let _ = write!(
                path,
                "{}{:.1} {:.1}",
                if index == 0 { 'M' } else { 'L' },
                x(*at),
                y(*value)
            );
        }
        let _ = write!(
            page,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
        );
    }
    for (index, (line, colour)) in lines.iter().zip(COLOURS).enumerate() {
        let at = MARGIN + 200.0 * index as f64;
        let _ = write!(
            page,
            "<rect x=\"{at}\" y=\"6\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{}\" y=\"15\">{}</text>",
            at + 14.0,
            line.name
        );
    }
    page.push_str("</svg>");
}

fn short(value: f64) -> String {
    match value {
        v if v >= 10_000.0 => format!("{:.0}k", v / 1000.0),
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 2.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
