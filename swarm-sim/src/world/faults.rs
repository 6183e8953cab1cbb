//! What breaks, and the moment from which nothing is broken any more.

use swarm_core::peer::Input;

use super::{
    ORIGIN_US,
    event::{At, Event},
    letters::local_of,
    node::{Live, SlotState},
    part::Part,
};
use crate::{
    options::us,
    population::{Cheat, Viewer, household_of},
};

/// How long a link over a cut network is believed to be up.
const CONSENT_US: u64 = 8_000_000;
/// How long after healing, or after its arrival, a viewer must have come to rest.
const CONVERGED_US: u64 = 30_000_000;
/// It has come to rest if it has played for so long without a stall.
const CALM_US: u64 = 15_000_000;
/// Who reaches as many who pass something on, and half of all of them, has links to some.
const REACHED_MIN: usize = 3;
/// A line must carry as many times the bitrate for its viewer to have no excuse.
const EXCUSED_BELOW: u64 = 3;

impl Part {
    pub(super) fn plan_faults(&mut self) {
        if let Some((from_s, to_s, _)) = self.options.faults.partition {
            self.queue.push(ORIGIN_US + us(from_s), Event::Part);
            self.queue.push(ORIGIN_US + us(to_s), Event::Rejoin);
        }
        if let Some(heal_at_s) = self.options.heal_at_s {
            self.queue.push(ORIGIN_US + us(heal_at_s), Event::Heal);
        }
    }

    /// The network falls into two parts: links across are cut, and given up later.
    pub(super) fn part_network(&mut self) {
        let Some((_, _, share)) = self.options.faults.partition else {
            return;
        };
        self.parted = true;
        let options = self.options.clone();
        for node in 0..self.nodes.len() as u32 {
            let entry = &mut self.nodes[node as usize];
            let mine = entry.viewer.contact.is_far(options.seed, share);
            let Some(live) = &mut entry.live else {
                continue;
            };
            for (slot, state) in live.slots.iter_mut().enumerate() {
                let SlotState::Linked(end) = state else {
                    continue;
                };
                let mut theirs = entry.viewer.contact.clone();
                theirs.household = household_of(&options, end.node);
                if theirs.is_far(options.seed, share) != mine {
                    end.is_cut = true;
                    let at = At {
                        node,
                        link: end.link,
                        slot: slot as u8,
                    };
                    self.queue
                        .push(self.now + CONSENT_US, Event::LinkDown { at });
                }
            }
        }
    }

    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.parted = false;
        for node in 0..self.nodes.len() as u32 {
            let entry = &mut self.nodes[node as usize];
            if entry.viewer.cheat != Cheat::Honest {
                entry.viewer.reform();
                self.tell_environment(node);
            }
        }
    }

    /// After healing everybody plays without stalling, unless the line is too thin, is known to the tracker,
    /// and has a link if there is anybody in reach.
    pub(super) fn check_convergence(&mut self) {
        let (now, options) = (self.now, self.options.clone());
        let Some(heal_at_s) = options.heal_at_s else {
            return;
        };
        let healed_at = ORIGIN_US + us(heal_at_s);
        let needed_bps = EXCUSED_BELOW * (options.bitrate_mbps * 1e6) as u64;
        for node in 0..self.nodes.len() {
            let entry = &self.nodes[node];
            let Some(live) = &entry.live else { continue };
            if live.joined_at.max(healed_at) + CONVERGED_US > now {
                continue;
            }
            let household = local_of(entry.viewer.contact.household) as usize;
            let line_bps = self.houses[household].down_bps.min(entry.viewer.cdn_bps);
            let is_excused = line_bps < needed_bps;
            let plays = live.player.is_calm(now, CALM_US);
            let is_known = live.peer.is_joined() || !self.policy.enabled;
            let links = live.peer.stats().links;
            let is_linked = links > 0
                || !self.policy.enabled
                || !self.must_find_somebody(&entry.viewer, live.rendition);
            if !(is_known && is_linked && (plays || is_excused)) {
                self.metrics.on_problem(now, || {
                    format!(
                        "viewer {node} has not recovered: plays {plays}, joined {is_known}, {links} links"
                    )
                });
            }
        }
    }

    /// Whether a viewer of this rendition reaches so many who watch the same that it must have found some of
    /// them: groups are of one rendition. With former cheats the tracker need not introduce anybody.
    fn must_find_somebody(&self, viewer: &Viewer, rendition: u8) -> bool {
        if viewer.is_reformed {
            return false;
        }
        let is_giver = |other: &&Viewer| {
            other.channel == viewer.channel && other.upload_bps > 0 && other.seed != viewer.seed
        };
        let watches_it = |live: &Live| live.rendition == rendition;
        let nodes = self.nodes.iter();
        let beside = nodes.filter(|node| node.live.as_deref().is_some_and(watches_it));
        let givers = beside.map(|node| &node.viewer).filter(is_giver);
        let reached = givers
            .clone()
            .filter(|other| viewer.contact.reaches(&other.contact));
        let reached = reached.count();
        reached >= REACHED_MIN && 2 * reached >= givers.count()
    }

    /// The tracker's connection is gone, or could not be made.
    pub(super) fn tracker_down(&mut self, node: u32) {
        self.input(node, Input::TrackerDown);
    }

    /// What a viewer does to others now.
    pub(super) fn cheat(&self, node: u32) -> Cheat {
        self.nodes[node as usize].viewer.cheat
    }
}
