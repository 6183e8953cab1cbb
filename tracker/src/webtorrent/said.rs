//! What is done with what a viewer says of a swarm that this node runs, wherever the viewer is
//! connected.

use std::cell::RefCell;

use super::{
    Facade,
    link::Link,
    messages::{Announce, Answer, Spelt, answer_parts, failure_parts, offer_parts},
    swarms::{Guest, Membership, Refusal, Saying},
};
use crate::metrics::Counters;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What is needed while an announcement is handled.
#[derive(Default)]
struct Scratch {
    offers: Vec<u64>,
    receivers: Vec<(usize, Link)>,
    text: String,
}

impl Facade {
    /// Takes an announcement: replies to it and passes its offers on. In how many seconds the next one
    /// is due.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn announce(
        &self,
        guest: &Guest<Link>,
        announce: &Announce<'_>,
    ) -> Result<u32, &'static str> {
        SCRATCH.with_borrow_mut(|scratch| self.announce_with(guest, announce, scratch))
    }

    fn announce_with(
        &self,
        guest: &Guest<Link>,
        announce: &Announce<'_>,
        scratch: &mut Scratch,
    ) -> Result<u32, &'static str> {
        let member = Membership {
            info_hash: announce.info_hash.id,
            peer_id: announce.peer_id.id,
        };
        let ids = announce
            .offers
            .iter()
            .map(|offer| self.offer_name(offer.offer_id.bytes()));
        scratch.offers.clear();
        scratch.offers.extend(ids);
        scratch.receivers.clear();
        let saying = Saying {
            member,
            complete: announce.complete,
            completed: announce.completed,
            offers: &scratch.offers,
        };
        let announced = self.swarms(member.info_hash).announce(
            self.now_s(),
            guest,
            &saying,
            self.load_percent(),
            &mut scratch.receivers,
        );
        let announced = match announced {
            Ok(announced) => announced,
            Err(Refusal::Taken(other)) => {
                Counters::add(&self.counters.ids_taken);
                other.probe();
                return Err("this peer_id is in use; try again soon");
            }
            Err(Refusal::Kicked) => return Err("the operator refuses this viewer"),
            Err(_) => return Err("this swarm is full"),
        };
        if announced.joined {
            Counters::add(&self.counters.joins);
        }
        announced.reply.write(announce.info_hash, &mut scratch.text);
        guest.link.push_text(&[&scratch.text]);
        let mut dropped = 0;
        let passed = scratch.receivers.len();
        for (number, receiver) in scratch.receivers.drain(..) {
            let parts = offer_parts(announce, &announce.offers[number]);
            dropped += usize::from(!receiver.push_text_droppable(&parts));
        }
        let made = announce.offers.len();
        self.counters.on_offers(made, passed - dropped, dropped);
        Ok(announced.reply.interval_s)
    }

    /// Tells a viewer why its announcement is refused.
    pub(super) fn refuse(&self, link: &Link, info_hash: Spelt<'_>, why: &str) {
        Counters::add(&self.counters.refused);
        link.push_text(&failure_parts(Some(info_hash), why));
    }

    /// Passes an answer on. The answerer hears nothing: a reply would move its next announcement.
    pub(super) fn answer(&self, conn: u64, answer: &Answer<'_>) {
        let member = Membership {
            info_hash: answer.info_hash.id,
            peer_id: answer.peer_id.id,
        };
        let offer = self.offer_name(answer.offer_id.bytes());
        let to = answer.to_peer_id;
        let now_s = self.now_s();
        let receiver = self
            .swarms(member.info_hash)
            .answer(now_s, conn, member, to, offer);
        let passed = receiver.is_ok_and(|to| to.push_text_droppable(&answer_parts(answer)));
        Counters::add(if passed {
            &self.counters.answers
        } else {
            &self.counters.answers_refused
        });
    }

    /// Counts these swarms.
    pub(super) fn scrape(&self, link: &Link, hashes: &[Spelt<'_>]) {
        let mut text = String::from(r#"{"action":"scrape","files":{"#);
        for (number, hash) in hashes.iter().enumerate() {
            let (complete, incomplete, downloaded) = self.swarms(hash.id).scrape(hash.id);
            let comma = if number > 0 { "," } else { "" };
            text += &format!(
                r#"{comma}{}:{{"complete":{complete},"incomplete":{incomplete},"downloaded":{downloaded}}}"#,
                hash.json
            );
        }
        text += "}}";
        link.push_text(&[&text]);
    }
}
