//! What nodes tell all others of addresses that have used much of what they may learn.

use swarm_core::{
    directory::Spent,
    wire::{DecodeError, Reader, Writer},
};

/// Addresses in one message.
pub(in crate::cluster) const SPENT_MAX: usize = 2_000;

pub(super) fn encode(spent: &[Spent], out: &mut Writer) {
    out.u16(spent.len().min(SPENT_MAX) as u16);
    for Spent { address, used } in spent.iter().take(SPENT_MAX) {
        out.bytes(&address.to_be_bytes());
        out.u8(*used);
    }
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Vec<Spent>, DecodeError> {
    let count = usize::from(reader.u16()?);
    if count > SPENT_MAX {
        return Err(DecodeError::OutOfRange("spent"));
    }
    let spent = (0..count).map(|_| {
        Ok(Spent {
            address: u128::from_be_bytes(reader.array()?),
            used: reader.u8()?,
        })
    });
    spent.collect()
}
