//! What happens by the clock: silence, refilling, merging, letting go.

use alloc::vec::Vec;

use super::{
    Directory,
    io::{Action, ConnId, Timer},
    slab::Key,
};
use crate::time::Instant;

/// Work of one tick, in timers of viewers that were heard meanwhile: a million viewers have sixty of
/// those in each millisecond. The rest follows a millisecond later; who joins meanwhile waits for about
/// one.
const WORK_MAX: usize = 256;
/// The work of looking after a group, or of giving up links, in the same measure.
const GROUP_WORK: usize = 8;
/// How long a thin group that found no room waits before it looks again, in milliseconds.
const MERGE_AGAIN_MS: u64 = 5_000;

impl Directory {
    pub(super) fn handle_tick(&mut self) {
        let mut work = 0;
        while work < WORK_MAX {
            let Some((at, why, key)) = self.timers.first().copied() else {
                return;
            };
            if at > self.now {
                return;
            }
            self.timers.pop_first();
            work += match why {
                Timer::Viewer => 1,
                Timer::Group | Timer::Release => GROUP_WORK,
            };
            match why {
                Timer::Viewer => self.expire_viewer(key),
                Timer::Group => self.look_after_group(key),
                Timer::Release => self.release(key),
            }
        }
    }

    /// The viewer of a connection that has just been heard.
    pub(super) fn hear(&mut self, conn: ConnId) -> Option<Key> {
        let viewer = *self.conns.get(&conn)?;
        self.expect(viewer, self.policy.silence_ms_max);
        Some(viewer)
    }

    /// Gives a viewer `within_ms` from this moment to be heard again.
    pub(super) fn expect(&mut self, viewer: Key, within_ms: u32) {
        let now = self.now;
        let Some(v) = self.viewers.get_mut(viewer) else {
            return;
        };
        v.expires_at = now.plus_ms(u64::from(within_ms));
        if v.expires_at < v.timer_at {
            self.timers.remove(&(v.timer_at, Timer::Viewer, viewer));
            self.schedule_viewer(viewer);
        }
    }

    pub(super) fn schedule_viewer(&mut self, viewer: Key) {
        if let Some(v) = self.viewers.get_mut(viewer) {
            v.timer_at = v.expires_at;
            self.timers.insert((v.timer_at, Timer::Viewer, viewer));
        }
    }

    fn expire_viewer(&mut self, viewer: Key) {
        let Some(v) = self.viewers.get(viewer) else {
            return;
        };
        if v.expires_at > self.now {
            self.schedule_viewer(viewer);
            return;
        }
        if let Some(conn) = v.conn {
            self.pending.push(Action::Close { conn });
        }
        self.remove_viewer(viewer);
    }

    /// Has a group looked after at `at`, or earlier if that is planned already.
    pub(super) fn schedule_group(&mut self, group: Key, at: Instant) {
        let Some(g) = self.groups.get_mut(group) else {
            return;
        };
        if g.timer_at.is_some_and(|planned| planned <= at) {
            return;
        }
        if let Some(planned) = g.timer_at.replace(at) {
            self.timers.remove(&(planned, Timer::Group, group));
        }
        self.timers.insert((at, Timer::Group, group));
    }

    pub(super) fn unschedule_group(&mut self, group: Key, at: Option<Instant>) {
        if let Some(at) = at {
            self.timers.remove(&(at, Timer::Group, group));
        }
    }

    fn look_after_group(&mut self, group: Key) {
        let Some(g) = self.groups.get_mut(group) else {
            return;
        };
        g.timer_at = None;
        if self.merge_if_thin(group) {
            self.schedule_group(group, self.now.plus_ms(MERGE_AGAIN_MS));
        }
        let Some(g) = self.groups.get(group) else {
            return;
        };
        let members: Vec<Key> = g.members.iter().map(|member| member.key).collect();
        for member in members {
            self.trim_leftovers(member);
            self.fill_viewer(member);
        }
    }

    pub(super) fn schedule_release(&mut self, viewer: Key) {
        self.unschedule_release(viewer);
        let at = self.now.plus_ms(u64::from(self.policy.release_after_ms));
        if let Some(v) = self.viewers.get_mut(viewer) {
            v.release_at = Some(at);
            self.timers.insert((at, Timer::Release, viewer));
        }
    }

    pub(super) fn unschedule_release(&mut self, viewer: Key) {
        if let Some(v) = self.viewers.get_mut(viewer)
            && let Some(at) = v.release_at.take()
        {
            self.timers.remove(&(at, Timer::Release, viewer));
        }
    }
}
