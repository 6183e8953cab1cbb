//! The report as one HTML page: no scripts, no other files; plots are inline SVG.

mod figures;
mod plot;

use std::fmt::Write;

use crate::{
    bounds,
    cli::COMMIT,
    histogram::Histogram,
    measure::{Second, mean},
    report::{FAN_OUT, Report, hop_s, published_us, whole_segments, window_s},
};
use plot::{Line, Titles, plot};

const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
    <meta name=\"viewport\" content=\"width=device-width\"><title>Shoal simulation</title><style>\
    body{font:15px/1.5 system-ui,sans-serif;max-width:760px;margin:2rem auto;padding:0 1rem;color:#1c2733}\
    table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.2rem .6rem;\
    border-bottom:1px solid #dde3ea;vertical-align:top}h2{margin-top:2rem;font-size:1.1rem}\
    svg{width:100%;height:auto}text{font-size:11px;fill:#4a5a6a}code{font-size:13px}\
    .bad{color:#b91c1c;font-weight:600}</style>";
/// Offload is smoothed over as many seconds: segments come in waves.
const SMOOTH_S: usize = 10;

/// The report as a self-contained page.
pub fn to_html(report: &Report) -> String {
    let mut page = String::from(HEAD);
    let options = &report.options;
    let _ = write!(
        page,
        "<h1>{}</h1><p>{} viewers, {} Mbit/s, segments of {} s, {} s behind live, {} minutes; \
         seed <code>{}</code>, commit <code>{COMMIT}</code>, event hash <code>{}</code>.</p>",
        figures::escape(&options.scenario),
        options.viewers,
        options.bitrate_mbps,
        options.segment_s,
        options.latency_s,
        options.minutes,
        options.seed,
        report.event_hash
    );
    figures::figures(&mut page, report);
    figures::problems(&mut page, report);
    over_time(&mut page, report);
    bounds_and_hops(&mut page, report);
    distributions(&mut page, report);
    figures::losses(&mut page, report);
    figures::options(&mut page, report);
    page.push_str("</html>");
    page
}

fn over_time(page: &mut String, report: &Report) {
    let (ours, theirs) = (&report.metrics.seconds, &report.seconds_cdn_only);
    let egress = [
        Line::new("with peers", rates(ours)),
        Line::new("CDN only", rates(theirs)),
    ];
    let titles = over_seconds("CDN egress, by second", "Mbit/s");
    plot(page, &titles, &egress);
    let count = ours.len().min(theirs.len());
    let flat = |name, value: f64| Line::new(name, vec![(0.0, value), (count as f64, value)]);
    let offload = [
        Line::new("offload", offloads(ours, theirs)),
        flat("bound by uplinks", report.offload_bound),
        flat("separate groups", report.offload_bound_groups),
        flat("bound by NATs", report.offload_bound_reach),
        flat("bound by time", report.offload_bound_delay),
    ];
    let titles = over_seconds("Offload by second, and its bounds", "share (mean of 10 s)");
    plot(page, &titles, &offload);
    let copies = Line::new("copies", copies_by_segment(report));
    let titles = over_seconds(
        "CDN copies of a segment, by the second of its publication",
        "copies",
    );
    plot(page, &titles, &[copies]);
    let audience = [
        Line::new("viewers", by_second(ours, |s| f64::from(s.audience))),
        Line::new("stalled", by_second(ours, |s| f64::from(s.stalled))),
    ];
    plot(
        page,
        &over_seconds("Viewers, by second", "viewers"),
        &audience,
    );
}

const fn over_seconds(plot: &'static str, y: &'static str) -> Titles {
    let x = "seconds from the start";
    Titles { plot, x, y }
}

fn by_second(seconds: &[Second], value: impl Fn(&Second) -> f64) -> Vec<(f64, f64)> {
    let points = seconds.iter().enumerate();
    points
        .map(|(at, second)| (at as f64, value(second)))
        .collect()
}

fn rates(seconds: &[Second]) -> Vec<(f64, f64)> {
    by_second(seconds, |second| second.cdn_bytes as f64 * 8.0 / 1e6)
}

fn offloads(ours: &[Second], theirs: &[Second]) -> Vec<(f64, f64)> {
    let sum = |seconds: &[Second], at: usize| -> u64 {
        let window = &seconds[at.saturating_sub(SMOOTH_S)..(at + 1).min(seconds.len())];
        window.iter().map(|second| second.cdn_bytes).sum()
    };
    let offload = |at: usize| 1.0 - sum(ours, at) as f64 / sum(theirs, at).max(1) as f64;
    (SMOOTH_S..ours.len().min(theirs.len()))
        .map(|at| (at as f64, offload(at).max(0.0)))
        .collect()
}

/// Over all channels and renditions.
fn copies_by_segment(report: &Report) -> Vec<(f64, f64)> {
    let segment_us = report.options.segment_us();
    let mut segments = whole_segments(&report.options, &report.metrics);
    segments.sort_by_key(|(place, _)| (place.seq(), place.channel(), place.rendition()));
    let ladder = report.options.ladder_bps();
    let mut points: Vec<(f64, f64)> = Vec::new();
    for alike in segments.chunk_by(|a, b| a.0.seq() == b.0.seq()) {
        let bytes: u64 = alike.iter().map(|(_, bytes)| bytes).sum();
        let len = |bps: u64| bps as f64 / 8.0 * segment_us as f64 / 1e6;
        let lens: f64 = alike
            .iter()
            .map(|(place, _)| len(ladder[usize::from(place.rendition())]))
            .sum();
        points.push((
            published_us(&report.options, alike[0].0) as f64 / 1e6,
            bytes as f64 / lens,
        ));
    }
    points
}

fn bounds_and_hops(page: &mut String, report: &Report) {
    let options = &report.options;
    let hop_s = hop_s(options, mean(report.metrics.upload_bps));
    let (reached_s, most_s) = (window_s(options), options.latency_s);
    let points = (0..=200).map(|step| {
        let window_s = most_s * f64::from(step) / 200.0;
        (window_s, bounds::frontier(window_s, hop_s, FAN_OUT).1)
    });
    let frontier = [
        Line::new("most that time allows", points.collect()),
        Line::new(
            "this run",
            vec![(reached_s, 0.0), (reached_s, report.offload.max(0.0))],
        ),
        Line::new(
            "bound by uplinks",
            vec![(0.0, report.offload_bound), (most_s, report.offload_bound)],
        ),
    ];
    let titles = Titles {
        plot: "Offload by the seconds that peers have",
        x: "seconds from a segment's appearance until it must be there",
        y: "share",
    };
    plot(page, &titles, &frontier);
    let delay = |share: f64| {
        let hops = report.metrics.hop_us.iter().enumerate();
        let seen = hops.filter(|(_, hop)| hop.total() > 0);
        seen.map(|(at, hop)| (at as f64, hop.quantile(share) as f64 / 1000.0))
            .collect()
    };
    let hops = [
        Line::new("median", delay(0.5)),
        Line::new("95 %", delay(0.95)),
    ];
    let titles = Titles {
        plot: "From publication to arrival, by viewers passed through",
        x: "viewers passed through",
        y: "ms",
    };
    plot(page, &titles, &hops);
}

fn distributions(page: &mut String, report: &Report) {
    let pair = |values: &[Vec<u64>; 2], unit: f64| {
        [
            Line::new("with peers", quantiles(&values[0], unit)),
            Line::new("CDN only", quantiles(&values[1], unit)),
        ]
    };
    let by_percentile = |plot, y| Titles {
        plot,
        x: "percentile",
        y,
    };
    let titles = by_percentile("Start-up, by percentile of visits", "ms");
    plot(page, &titles, &pair(&report.startups, 1.0));
    let titles = by_percentile("Stalled share of the time, by percentile of visits", "%");
    plot(page, &titles, &pair(&report.stall_ratios, 0.01));
    let ready = Line::new("with peers", spread(&report.metrics.ready_us));
    let title = "From publication until a viewer has the segment, by percentile";
    plot(page, &by_percentile(title, "ms"), &[ready]);
}

fn quantiles(sorted: &[u64], unit: f64) -> Vec<(f64, f64)> {
    let last = sorted.len().saturating_sub(1);
    let at = |percent: usize| {
        let value = sorted.get(last * percent / 100).copied().unwrap_or(0);
        value as f64 * unit
    };
    (0..=99)
        .map(|percent| (percent as f64, at(percent)))
        .collect()
}

/// In milliseconds, of values in microseconds.
fn spread(values: &Histogram) -> Vec<(f64, f64)> {
    let at = |percent: u32| values.quantile(f64::from(percent) / 100.0) as f64 / 1000.0;
    (0..=99)
        .map(|percent| (f64::from(percent), at(percent)))
        .collect()
}
