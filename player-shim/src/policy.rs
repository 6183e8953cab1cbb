//! The knobs of the machine as text: `name=value` lines.

use swarm_core::peer::Policy;

/// The default policy, changed by lines of `name=value`.
///
/// # Errors
/// The caller's mistake: a name that is no knob, or a value out of its range.
pub(crate) fn parse(text: &str) -> Result<Policy, String> {
    let mut policy = Policy::default();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let wrong = || format!("caller set no known policy by `{line}`");
        let (name, value) = line.split_once('=').ok_or_else(wrong)?;
        set(&mut policy, name.trim(), value.trim()).ok_or_else(wrong)?;
    }
    Ok(policy)
}

fn set(policy: &mut Policy, name: &str, value: &str) -> Option<()> {
    let Policy {
        enabled,
        stripes_max,
        stripe_len_min,
        rank_delay_ms,
        backstop_margin_percent,
        backstop_guard_ms,
        links_target,
        link_setup_ms_max,
        link_silence_ms_max,
        have_batch_ms,
        segments_kept,
        ..
    } = policy;
    match name {
        "enabled" => *enabled = value.parse().ok()?,
        "stripes_max" => *stripes_max = value.parse().ok()?,
        "stripe_len_min" => *stripe_len_min = value.parse().ok()?,
        "rank_delay_ms" => *rank_delay_ms = value.parse().ok()?,
        "backstop_margin_percent" => *backstop_margin_percent = value.parse().ok()?,
        "backstop_guard_ms" => *backstop_guard_ms = value.parse().ok()?,
        "links_target" => *links_target = value.parse().ok()?,
        "link_setup_ms_max" => *link_setup_ms_max = value.parse().ok()?,
        "link_silence_ms_max" => *link_silence_ms_max = value.parse().ok()?,
        "have_batch_ms" => *have_batch_ms = value.parse().ok()?,
        "segments_kept" => *segments_kept = value.parse().ok()?,
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knobs_are_set_by_name() {
        let policy = parse("enabled=false\nstripes_max = 1\n").unwrap();
        assert!(!policy.enabled);
        assert_eq!(policy.stripes_max, 1);
        assert_eq!(parse(""), Ok(Policy::default()));
    }

    #[test]
    fn mistakes_are_named() {
        for text in ["speed=9", "stripes_max=256", "enabled"] {
            assert!(parse(text).unwrap_err().contains(text), "{text}");
        }
    }
}
