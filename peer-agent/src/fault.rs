//! Cheating on purpose, to test what a swarm does about it. Applied where bytes are sent to
//! neighbours, and nowhere else: what this agent plays is never touched.

use serde::{Deserialize, Serialize};

/// How an agent cheats its neighbours. For tests and load only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Misbehaviour {
    /// Flips a bit in every `every`th piece that is sent (1: in each).
    Corrupt {
        /// How many pieces to count.
        every: u32,
    },
    /// Announces and claims like an honest viewer, but never sends a record or a piece.
    ClaimOnly,
    /// Sends neither announcements, claims nor pieces; only greets and asks.
    Silent,
}

/// Counts what goes out, and spoils it as configured.
#[derive(Debug, Default)]
pub(crate) struct Saboteur {
    kind: Option<Misbehaviour>,
    pieces: u32,
}

impl Saboteur {
    pub(crate) fn new(kind: Option<Misbehaviour>) -> Self {
        Self { kind, pieces: 0 }
    }

    /// Whether records and pieces are to be sent at all.
    pub(crate) fn sends_media(&self) -> bool {
        !matches!(
            self.kind,
            Some(Misbehaviour::ClaimOnly | Misbehaviour::Silent)
        )
    }

    /// Whether a control message is to be sent.
    pub(crate) fn sends_control(&self, frame: &[u8]) -> bool {
        use swarm_core::wire::peer::PeerMsg;
        let Some(Misbehaviour::Silent) = self.kind else {
            return true;
        };
        !matches!(
            PeerMsg::decode(frame),
            Ok(PeerMsg::Have(_) | PeerMsg::Claim { .. })
        )
    }

    /// Called once for every piece: whether this one is to be spoilt.
    pub(crate) fn spoils_next_piece(&mut self) -> bool {
        let Some(Misbehaviour::Corrupt { every }) = self.kind else {
            return false;
        };
        self.pieces = self.pieces.wrapping_add(1);
        self.pieces.is_multiple_of(every.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_core::wire::peer::PeerMsg;

    #[test]
    fn every_nth_piece_is_spoilt() {
        let mut saboteur = Saboteur::new(Some(Misbehaviour::Corrupt { every: 3 }));
        let spoilt: Vec<_> = (0..6).map(|_| saboteur.spoils_next_piece()).collect();
        assert_eq!(spoilt, [false, false, true, false, false, true]);
        assert!(saboteur.sends_media());
        assert!(!Saboteur::default().spoils_next_piece());
    }

    #[test]
    fn the_silent_hold_back_what_they_have() {
        let frame = |message: PeerMsg| {
            let mut bytes = vec![];
            message.encode(&mut bytes);
            bytes
        };
        let silent = Saboteur::new(Some(Misbehaviour::Silent));
        assert!(!silent.sends_control(&frame(PeerMsg::Have(vec![]))));
        assert!(silent.sends_control(&frame(PeerMsg::Ping(1))));
        assert!(!silent.sends_media());
        let claiming = Saboteur::new(Some(Misbehaviour::ClaimOnly));
        assert!(claiming.sends_control(&frame(PeerMsg::Have(vec![]))));
    }
}
