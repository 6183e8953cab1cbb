//! How actions cross to JavaScript: every action is a kind, then its fields, as 32-bit words.
//!
//! [`KINDS`] is the specification. `js/src/abi.gen.ts` is generated from it, together with the
//! constants that both sides need; a test of this crate fails if it is out of date (run it with
//! `SHOAL_UPDATE=1` to write it anew).

mod encode;
mod generate;

pub use encode::encode;
pub use generate::typescript;

/// How a field is written, and what it becomes in JavaScript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// One word: a number.
    U32,
    /// One word, 0 or 1: a boolean.
    Bool,
    /// One word: an index into these names.
    OneOf(&'static [&'static str]),
    /// Two words, high one first: 16 hexadecimal digits.
    Id,
    /// Two words, high one first: a number, exact below 2^53.
    Wide,
    /// Two words, start and end in the arena: a copy of those bytes.
    Bytes,
}

impl Type {
    /// How many words it takes.
    pub const fn words(self) -> usize {
        match self {
            Self::U32 | Self::Bool | Self::OneOf(_) => 1,
            Self::Id | Self::Wide | Self::Bytes => 2,
        }
    }
}

/// One kind of action: its name in JavaScript, and its fields in order.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// Its fields.
    pub fields: &'static [(&'static str, Type)],
}

const REASONS: Type = Type::OneOf(&[
    "lost",
    "setup-timeout",
    "silent",
    "misbehaved",
    "left",
    "leaving",
    "replaced",
]);

const fn kind(name: &'static str, fields: &'static [(&'static str, Type)]) -> Kind {
    Kind { name, fields }
}

/// All kinds of actions; the index of each is its first word. Those from `delivered` on are facts
/// for people, the others are to be done.
pub const KINDS: &[Kind] = &[
    // `length` 0: the whole object.
    kind(
        "fetchCdn",
        &[
            ("fetch", Type::U32),
            ("name", Type::Id),
            ("first", Type::U32),
            ("length", Type::U32),
        ],
    ),
    kind("cancelFetch", &[("fetch", Type::U32)]),
    kind(
        "deliverSegment",
        &[
            ("request", Type::U32),
            ("segment", Type::Id),
            ("reportedBps", Type::Wide),
        ],
    ),
    kind(
        "deliverFetch",
        &[
            ("request", Type::U32),
            ("fetch", Type::U32),
            ("reportedBps", Type::Wide),
        ],
    ),
    kind("bypass", &[("request", Type::U32)]),
    kind("fail", &[("request", Type::U32), ("fetch", Type::U32)]),
    kind(
        "connect",
        &[
            ("slot", Type::U32),
            ("peer", Type::Id),
            ("offer", Type::Bool),
            ("native", Type::Bool),
        ],
    ),
    kind("close", &[("slot", Type::U32), ("reason", REASONS)]),
    kind("signal", &[("slot", Type::U32), ("payload", Type::Bytes)]),
    kind("sendFrame", &[("slot", Type::U32), ("frame", Type::Bytes)]),
    kind("sendRecord", &[("slot", Type::U32), ("segment", Type::Id)]),
    kind(
        "sendPiece",
        &[
            ("slot", Type::U32),
            ("segment", Type::Id),
            ("piece", Type::U32),
        ],
    ),
    kind("trackerConnect", &[]),
    kind("trackerClose", &[]),
    kind("sendTracker", &[("frame", Type::Bytes)]),
    kind("evict", &[("segment", Type::Id)]),
    kind("useStun", &[("servers", Type::Bytes)]),
    kind(
        "useRelays",
        &[("servers", Type::Bytes), ("only", Type::Bool)],
    ),
    kind("useTracker", &[("place", Type::Bytes)]),
    // The first `pieces` of the segment; more of them, and its delivery, follow.
    kind(
        "release",
        &[
            ("request", Type::U32),
            ("segment", Type::Id),
            ("pieces", Type::U32),
        ],
    ),
    kind(
        "delivered",
        &[
            ("name", Type::Id),
            ("track", Type::U32),
            ("seq", Type::Wide),
            ("bytesP2p", Type::U32),
            ("bytesCdn", Type::U32),
            ("waitedMs", Type::U32),
        ],
    ),
    kind("joined", &[("peer", Type::Id)]),
    kind("trackerLost", &[("retryMs", Type::U32)]),
    kind("refused", &[]),
    kind("peerUp", &[("slot", Type::U32), ("peer", Type::Id)]),
    kind(
        "peerDown",
        &[("slot", Type::U32), ("peer", Type::Id), ("reason", REASONS)],
    ),
    kind("backstop", &[("name", Type::Id), ("missing", Type::U32)]),
];

/// The numbers of [`crate::Shim::stats`], in order.
pub const STATS: &[&str] = &[
    "bytesP2p",
    "bytesCdn",
    "bytesUp",
    "bytesWasted",
    "badPieces",
    "segments",
    "backstops",
    "stalls",
    "stalledMs",
    "links",
];

/// The numbers of each link in [`crate::Shim::neighbours`], in order.
pub const NEIGHBOUR: &[&str] = &[
    "slot", "peerHigh", "peerLow", "native", "ready", "rttMs", "bytesIn", "bytesOut",
];
