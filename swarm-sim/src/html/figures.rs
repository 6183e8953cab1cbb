//! The tables of the page.

use std::fmt::Write;

use crate::report::Report;

/// What a figure is called, and how it is written.
type Figure = (&'static str, fn(&Report) -> String);

const FIGURES: &[Figure] = &[
    ("Offload (1 - CDN / CDN of the twin)", |r| {
        format!("{:.4}", r.offload)
    }),
    ("Offload per second played", |r| {
        format!("{:.4}", r.offload_per_played_s)
    }),
    ("Offload of honest viewers", |r| {
        format!("{:.4}", r.offload_honest)
    }),
    ("Bounds: uplinks; separate groups; NATs; time", |r| {
        format!(
            "{:.4}; {:.4}; {:.4}; {:.4}",
            r.offload_bound, r.offload_bound_groups, r.offload_bound_reach, r.offload_bound_delay
        )
    }),
    ("CDN copies of a segment; per group", |r| {
        format!(
            "{:.2}; {:.3}",
            r.cdn_copies_per_segment, r.cdn_copies_per_group
        )
    }),
    ("CDN requests per viewer and minute", |r| {
        format!("{:.1}", r.cdn_requests_per_viewer_minute)
    }),
    ("Stall ratio; twin", |r| {
        format!("{:.5}; {:.5}", r.stall_ratio, r.stall_ratio_cdn_only)
    }),
    ("Start-up, median and 95 %, ms; twin", |r| {
        let (ours, theirs) = (r.quality.startup_ms, r.quality_cdn_only.startup_ms);
        format!("{} / {}; {} / {}", ours.0, ours.1, theirs.0, theirs.1)
    }),
    ("Latency, median, s; twin", |r| {
        format!("{:.2}; {:.2}", r.latency_s_p50, r.latency_s_p50_cdn_only)
    }),
    ("Bitrate, Mbit/s; twin", |r| {
        let (ours, theirs) = (&r.quality, &r.quality_cdn_only);
        format!("{:.3}; {:.3}", ours.bitrate_mbps, theirs.bitrate_mbps)
    }),
    ("Changes of rendition per viewer, of them down; twin", |r| {
        let (ours, theirs) = (&r.quality, &r.quality_cdn_only);
        format!(
            "{:.3}, {:.3}; {:.3}, {:.3}",
            ours.switches_per_viewer,
            ours.switches_down_per_viewer,
            theirs.switches_per_viewer,
            theirs.switches_down_per_viewer
        )
    }),
    ("Share of visits that never began to play; twin", |r| {
        let (ours, theirs) = (&r.quality, &r.quality_cdn_only);
        format!("{:.4}; {:.4}", ours.never_started, theirs.never_started)
    }),
    ("Wasted bytes, of all from peers", |r| {
        format!("{:.4}", r.bytes_wasted_ratio)
    }),
    ("Bad pieces dropped; played", |r| {
        format!("{}; {}", r.bad_pieces_seen, r.bad_pieces_played)
    }),
    (
        "CDN peak over 5 s, Mbit/s; twin; steady before; what newcomers take",
        |r| {
            let (ours, theirs) = r.cdn_peak_mbps;
            let (steady, newcomers) = (r.cdn_steady_mbps.0, r.cdn_peak_newcomers_mbps);
            format!("{ours:.0}; {theirs:.0}; {steady:.0}; {newcomers:.0}")
        },
    ),
    ("Groups; viewers in each; upload / bitrate", |r| {
        format!(
            "{:.1}; {:.1}; {:.2}",
            r.groups.0, r.groups.1, r.upload_ratio
        )
    }),
    ("Core state per viewer, bytes; largest", |r| {
        format!("{:.0}; {}", r.core_bytes_per_viewer, r.core_bytes_max)
    }),
    ("Messages compared with the store; of all", |r| {
        format!("{}; {}", r.audited.0, r.audited.1)
    }),
    ("Events; wall time, s; threads", |r| {
        format!("{}; {:.1}; {}", r.events, r.wall_s, r.threads)
    }),
];

/// What each reason to ask the CDN stands for.
const REASONS: &[(&str, &str)] = &[
    ("warm_up", "the first seconds of a visit"),
    ("alone", "no usable neighbour"),
    ("backstop", "late: a deadline came near"),
    ("bypass", "not the swarm's business"),
];

pub(super) fn figures(page: &mut String, report: &Report) {
    page.push_str("<table>");
    for (name, value) in FIGURES {
        let _ = write!(page, "<tr><th>{name}<td>{}", value(report));
    }
    page.push_str("</table>");
}

pub(super) fn problems(page: &mut String, report: &Report) {
    if report.problems == 0 {
        return;
    }
    let count = report.problems;
    let _ = write!(page, "<p class=bad>{count} broken invariants</p><ul>");
    for problem in &report.problems_first {
        let _ = write!(page, "<li>{}", escape(problem));
    }
    page.push_str("</ul>");
}

/// Where each percent of the offload went.
pub(super) fn losses(page: &mut String, report: &Report) {
    page.push_str(
        "<h2>Where the offload went</h2><table>\
         <tr><th>what the CDN was asked for<th>percent of the twin's bytes",
    );
    let mut row = |name: &str, share: f64| {
        let _ = write!(page, "<tr><td>{name}<td>{:.2}", share * 100.0);
    };
    row("seed: one copy for each group", report.lost_to_copies.0);
    row(
        "duplicates: further copies for groups",
        report.lost_to_copies.1,
    );
    for (reason, meaning) in REASONS {
        let share = report.lost.get(reason).copied().unwrap_or_default();
        row(&format!("{}: {meaning}", reason.replace('_', " ")), share);
    }
    row("everything", 1.0 - report.offload);
    page.push_str("</table>");
}

/// Everything that a replay needs.
pub(super) fn options(page: &mut String, report: &Report) {
    if let Ok(text) = toml::to_string(&report.options) {
        let text = escape(&text);
        let _ = write!(page, "<h2>Options</h2><pre><code>{text}</code></pre>");
    }
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure;

    #[test]
    fn every_reason_has_its_row() {
        for name in measure::REASONS {
            let known = name == "seed" || REASONS.iter().any(|(reason, _)| *reason == name);
            assert!(known, "{name}");
        }
    }
}
