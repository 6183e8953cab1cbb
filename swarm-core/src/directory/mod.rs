//! The tracker's brain: who is introduced to whom.
