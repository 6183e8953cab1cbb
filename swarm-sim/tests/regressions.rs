//! Seeds that once found a fault (`seeds.txt`), every scenario for a little while, and the promises that every
//! run must keep. Seconds, not minutes.

use clap::Parser;
use swarm_sim::{Options, Quality, Report, SCENARIOS, cli::SimulateArgs, run};

/// A command line of `seeds.txt`.
#[derive(Parser)]
struct Line {
    #[command(flatten)]
    simulate: SimulateArgs,
}

fn simulate(scenario: &str, change: impl FnOnce(&mut Options)) -> Report {
    let mut options = Options::scenario(scenario).expect("it is known");
    options.minutes = 1.5;
    options.measure_from_s = 40.0;
    change(&mut options);
    let report = run(&options, 2, &|_| {}).expect("the options make sense");
    assert_eq!(
        report.problems, 0,
        "seed {}: {:?}",
        options.seed, report.problems_first
    );
    assert_eq!(report.bad_pieces_played, 0);
    report
}

#[test]
fn what_once_found_a_fault_finds_none() {
    for line in include_str!("seeds.txt").lines() {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let words = ["simulate"].into_iter().chain(line.split_whitespace());
        let args = Line::try_parse_from(words)
            .expect("a command line")
            .simulate;
        let options = args.options().expect("the options make sense");
        let report = run(&options, 2, &|_| {}).expect("they still do");
        assert_eq!(report.problems, 0, "{line}: {:?}", report.problems_first);
        assert_eq!(report.bad_pieces_played, 0, "{line}");
    }
}

#[test]
fn every_scenario_keeps_its_promises_for_a_while() {
    for (name, _) in SCENARIOS {
        let report = simulate(name, |options| {
            (options.viewers, options.minutes) = (20, 1.0);
            if options.heal_at_s.is_some() {
                (options.minutes, options.heal_at_s) = (1.3, Some(33.0));
                options.faults.partition = Some((12.0, 28.0, 0.4));
                options.faults.tracker_down = Some((15.0, 30.0));
            }
        });
        assert!(report.quality.bitrate_mbps > 0.0, "{name}");
        assert!(report.quality.never_started < 1.0, "{name}");
    }
}

/// The site's line carries half of what its viewers watch; they have the rest from each other.
#[test]
fn what_stays_within_a_site_does_not_cross_its_line() {
    let report = simulate("lan-campus", |options| {
        options.viewers = 24;
        options.access.campus_sites = 1;
        options.access.campus_wan_mbps = 60.0;
    });
    assert!(
        report.stall_ratio_cdn_only > 0.2,
        "{}",
        report.stall_ratio_cdn_only
    );
    assert!(report.stall_ratio < 0.01, "{}", report.stall_ratio);
}

/// Everybody at the site opens the stream within twenty seconds, and the site's line carries a quarter of it: whoever
/// asked for all of it alone would wait for ever, as the twin's viewers do.
#[test]
fn a_site_whose_line_is_overrun_divides_what_comes() {
    let report = simulate("lan-campus", |options| {
        options.viewers = 120;
        (options.minutes, options.measure_from_s) = (2.0, 60.0);
        options.access.campus_sites = 2;
        options.access.campus_wan_mbps = 75.0;
    });
    let (ours, twins) = (report.stall_ratio, report.stall_ratio_cdn_only);
    assert!(twins > 0.5, "{twins}");
    assert!(ours < twins / 10.0, "{ours} of {twins}");
    assert!(report.offload > 0.85, "{}", report.offload);
    assert!(report.startup_ms_p95 < 30_000, "{}", report.startup_ms_p95);
}

/// Lines that carry a little less than the stream: every byte that comes besides what is played next is a stall.
#[test]
fn who_has_a_line_thinner_than_the_stream_plays_about_as_much_as_without_peers() {
    let report = simulate("evening-match", |options| {
        (options.viewers, options.minutes) = (40, 2.0);
        options.access.mix = [0.5, 0.0, 0.0, 0.5, 0.0];
        options.bitrate_mbps = 8.0;
    });
    let (ours, twins) = (report.stall_ratio, report.stall_ratio_cdn_only);
    assert!(twins > 0.05, "{twins}");
    assert!(ours < twins * 1.3, "{ours} of {twins}");
}

#[test]
fn a_crowd_is_measured_by_itself() {
    let report = simulate("flash-crowd", |options| {
        options.viewers = 40;
        options.minutes = 2.0;
        (options.arrivals[1].at_s, options.arrivals[1].over_s) = (60.0, 20.0);
    });
    let newcomers_mbps = 20.0 / 20.0 * 10.0 * 5.0;
    assert!((report.cdn_peak_newcomers_mbps - newcomers_mbps).abs() < 1e-6);
    assert!(0.0 < report.cdn_steady_mbps.0 && report.cdn_steady_mbps.0 < report.cdn_peak_mbps.0);
    let parts: f64 = report.cdn_peak_by_reason_mbps.values().sum();
    assert!((parts - report.cdn_peak_mbps.0).abs() < 1e-6);
    assert!(
        report.cdn_steady_mbps.1 > 60.0,
        "{:?}",
        report.cdn_steady_mbps
    );
}

/// Of two hundred channels most have nobody: a copy for each of them is not needed.
#[test]
fn the_bound_counts_the_channels_that_are_watched() {
    let report = simulate("long-tail", |options| {
        (options.viewers, options.channels) = (60, 200);
    });
    assert!(
        report.offload > 0.1 && report.offload <= report.offload_bound,
        "{} of {}",
        report.offload,
        report.offload_bound
    );
}

#[test]
fn the_bitrate_that_is_played_is_told_of_both_worlds() {
    let report = simulate("abr-ladder", |options| options.viewers = 30);
    for quality in [&report.quality, &report.quality_cdn_only] {
        assert!((0.8..5.0).contains(&quality.bitrate_mbps), "{quality:?}");
        assert!(quality.switches_down_per_viewer <= quality.switches_per_viewer);
    }
    assert!((report.offload_per_played_s - report.offload_whole_run).abs() < 0.2);
    let switches = |quality: &Quality| quality.switches_per_viewer;
    let (ours, twins) = (
        switches(&report.quality),
        switches(&report.quality_cdn_only),
    );
    assert!(ours <= twins + 0.05, "{ours} of {twins}");
}

/// To send what nobody can use pays no more than to send nothing. Audiences of sixty differ by more than that
/// from each other, whoever is in them: eight together are compared.
#[test]
fn junk_buys_no_credit() {
    const SEEDS: u64 = 8;
    let with = |seed, flooders, black_holes| {
        simulate("evening-match", |options| {
            (options.seed, options.viewers) = (seed, 60);
            options.hostile.flooders = flooders;
            options.hostile.black_holes = black_holes;
        })
    };
    let (mut junk, mut silence) = (0.0, 0.0);
    for seed in 1..=SEEDS {
        let flooded = with(seed, 0.1, 0.0);
        junk += flooded.offload_honest / SEEDS as f64;
        silence += with(seed, 0.0, 0.1).offload_honest / SEEDS as f64;
        assert!(
            flooded.bytes_wasted_ratio < 0.25,
            "seed {seed}: {}",
            flooded.bytes_wasted_ratio
        );
    }
    assert!(junk > silence - 0.01, "{junk} and {silence}");
}

/// A piece comes once: what is asked of another is called back from who was to push it.
#[test]
fn little_comes_twice() {
    let report = simulate("evening-match", |options| options.viewers = 120);
    assert!(
        report.bytes_wasted_ratio < 0.03,
        "{}",
        report.bytes_wasted_ratio
    );
}

#[test]
fn the_same_options_give_the_same_run_and_another_seed_another() {
    let of = |seed| {
        simulate("small-channel", |options| {
            options.viewers = 8;
            options.seed = seed;
        })
    };
    let (first, again, other) = (of(4), of(4), of(5));
    assert_eq!(first.event_hash, again.event_hash);
    assert_eq!(first.bytes_cdn, again.bytes_cdn);
    assert_ne!(first.event_hash, other.event_hash);
}

#[test]
fn a_small_audience_on_good_lines_needs_little_more_than_one_copy() {
    let report = simulate("small-channel", |options| {
        options.viewers = 8;
        options.access.mix = [1.0, 0.0, 0.0, 0.0, 0.0];
        options.access.nat_fixed = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    });
    assert!(report.offload > 0.80, "{}", report.offload);
    assert!(
        report.stall_ratio <= report.stall_ratio_cdn_only + 0.0005,
        "{}",
        report.stall_ratio
    );
}

/// The two who can give anything stalled once, because they brought what is newest for all while their own first
/// segments were due, and gave nothing for a minute.
#[test]
fn the_few_who_give_are_not_held_up_by_what_they_bring() {
    let report = simulate("small-channel", |options| {
        (options.viewers, options.minutes, options.seed) = (5, 2.0, 6);
    });
    let most = report.offload_bound_reach;
    assert!(report.offload > most - 0.1, "{} of {most}", report.offload);
    let most = report.stall_ratio_cdn_only + 0.002;
    assert!(report.stall_ratio < most, "{}", report.stall_ratio);
}

/// What is due at once 2 s after its publication is due over 4 s for players that do not wait for the rest.
#[test]
fn segments_that_are_played_while_they_arrive_come_from_neighbours() {
    let with_grain = |grain_s| {
        simulate("progressive", |options| {
            options.viewers = 60;
            options.grain_s = grain_s;
        })
    };
    let (whole, progressive) = (with_grain(0.0), with_grain(0.5));
    assert!(
        progressive.offload > whole.offload + 0.05,
        "{} and {}",
        whole.offload,
        progressive.offload
    );
    assert!(
        progressive.stall_ratio <= progressive.stall_ratio_cdn_only + 0.002,
        "{}",
        progressive.stall_ratio
    );
}

/// A viewer's first fetches have the same luck in its twin: on good lines nothing is left that could differ.
#[test]
fn who_plays_while_it_arrives_starts_as_soon_as_without_peers() {
    for latency_s in [6.0, 10.0] {
        let report = simulate("progressive", |options| {
            options.viewers = 150;
            (options.latency_s, options.minutes) = (latency_s, 1.0);
            options.access.mix = [0.5, 0.3, 0.2, 0.0, 0.0];
        });
        assert_eq!(report.startup_ms_p50, report.startup_ms_p50_cdn_only);
        assert_eq!(report.startup_ms_p95, report.startup_ms_p95_cdn_only);
    }
}

/// Viewers waited for ever when many senders filled a thin downlink.
#[test]
fn thin_downlinks_are_not_drowned() {
    let report = simulate("evening-match", |options| {
        options.viewers = 60;
        options.access.mix = [0.5, 0.2, 0.0, 0.3, 0.0];
    });
    assert!(
        report.stall_ratio <= report.stall_ratio_cdn_only + 0.02,
        "{}",
        report.stall_ratio
    );
}

#[test]
fn bad_bytes_are_dropped_and_their_senders_too() {
    let report = simulate("hostile", |options| {
        options.viewers = 60;
    });
    assert!(report.bad_pieces_seen > 0);
    assert!(report.offload > 0.3, "{}", report.offload);
}

#[test]
fn every_kind_of_cheat_and_a_failing_cdn_break_no_invariant() {
    simulate("hostile", |options| {
        options.viewers = 60;
        options.hostile.black_holes = 0.1;
        options.hostile.false_haves = 0.1;
        options.hostile.free_riders = 0.1;
        options.hostile.flooders = 0.1;
        options.cdn.failures = 0.02;
    });
}

#[test]
fn a_ladder_and_a_mass_exit_break_no_invariant() {
    simulate("mass-exit", |options| {
        options.viewers = 80;
        options.ladder_mbps = vec![0.8, 1.6, 3.0];
        if let Some(exit) = &mut options.exit {
            (exit.at_s, exit.over_s) = (40.0, 20.0);
        }
    });
}

/// Safety, then liveness: the network in two parts, the tracker down, the CDN failing, cheats of
/// every kind; then all of it heals, and everybody must play and be known again.
#[test]
fn everything_breaks_and_heals_and_everybody_recovers() {
    let report = simulate("heal", |options| {
        options.viewers = 60;
        options.minutes = 2.0;
        options.heal_at_s = Some(65.0);
        options.faults.partition = Some((20.0, 50.0, 0.4));
        options.faults.tracker_down = Some((25.0, 45.0));
    });
    assert!(report.bad_pieces_seen > 0 && report.bytes_p2p > 0);
}

/// Parts go on side by side, and what they do does not depend on who runs them.
#[test]
fn the_number_of_threads_changes_nothing() {
    let mut options = Options::scenario("evening-match").expect("it is known");
    (options.viewers, options.minutes) = (400, 0.15);
    let hash = |threads| run(&options, threads, &|_| {}).map(|report| report.event_hash);
    let one = hash(1).expect("the options make sense");
    assert_eq!(hash(3).expect("they still do"), one);
}

/// The page has every plot, and needs nothing from elsewhere.
#[test]
fn the_page_is_whole_and_every_lost_percent_has_a_reason() {
    let report = simulate("small-channel", |options| options.viewers = 6);
    let lost: f64 = report.lost.values().sum();
    assert!((report.offload + lost - 1.0).abs() < 1e-6, "{lost}");
    let page = swarm_sim::to_html(&report);
    for part in [
        "CDN egress",
        "Offload by second, and its bounds",
        "CDN copies of a segment, by",
        "Offload by the seconds that peers have",
        "by viewers passed through",
        "Start-up, by percentile",
        "Stalled share of the time",
        "duplicates",
        "scenario = \"",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for foreign in ["<script", "src=", "href=", "http"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(report.hops[0].0 > 0 && report.hops[1].0 > 0);
}
