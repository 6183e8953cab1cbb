//! `shoal token`.

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use swarm_core::id::StreamId;
use tracker::{
    StreamName,
    tokens::{self, Claims, KeyKind, Values},
};

use crate::{Failure, commands::print, file};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Make a pair of keys instead: write the secret one to FILE, print the public one.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "stream"])]
    new_key: Option<PathBuf>,
    /// With --new-key: a key of P-256 (ES256) in the place of Ed25519 (EdDSA).
    #[arg(long, requires = "new_key")]
    es256: bool,
    /// The secret key to sign with. Its file's name without extension is the token's `kid`.
    #[arg(long, value_name = "FILE", required_unless_present = "new_key")]
    key: Option<PathBuf>,
    /// A stream that the token is for: its id (hexadecimal), the origin-proxy's public key and the
    /// stream's name as KEY/NAME, or * for all. May be repeated.
    #[arg(
        long,
        value_name = "STREAM",
        required_unless_present = "new_key",
        allow_hyphen_values = true
    )]
    stream: Vec<String>,
    /// For how many seconds it holds.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// The address or network that it may be used from. May be repeated.
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<String>,
    /// The tracker that it is for, as its `tokens.audience` says. May be repeated.
    #[arg(long)]
    audience: Vec<String>,
    /// Whose it is: all tokens of one subject are counted together.
    #[arg(long)]
    subject: Option<String>,
    /// The viewer receives from peers and gives nothing.
    #[arg(long)]
    leech: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(path) = &args.new_key {
        return new_key(path, args.es256);
    }
    let Some(path) = &args.key else {
        return Err(Failure::misuse("--key is missing"));
    };
    let streams = args.stream.iter().map(|text| stream_of(text));
    let claims = Claims {
        stream: Values::Many(streams.collect::<Result<_, _>>()?),
        aud: Values::Many(args.audience.clone()),
        ip: Values::Many(args.address.clone()),
        sub: args.subject.clone(),
        p2p: args.leech.then(|| "leech".to_owned()),
        ..tokens::claims_lasting(Duration::from_secs(args.seconds))
    };
    let kid = path.file_stem().map(|stem| stem.to_string_lossy());
    print(&tokens::mint(&file::read(path)?, kid.as_deref(), &claims)?);
    Ok(())
}

/// Writes the secret half where only this user can read it; an existing file is not replaced.
fn new_key(path: &Path, es256: bool) -> Result<(), Failure> {
    let kind = if es256 {
        KeyKind::P256
    } else {
        KeyKind::Ed25519
    };
    let pair = tokens::new_key_pair(kind)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(pair.private_pem.as_bytes()));
    written.map_err(|error| Failure::misuse(format!("{}: {error}", path.display())))?;
    print(&pair.public_pem);
    Ok(())
}

/// The id that the tracker knows a stream by.
fn stream_of(text: &str) -> Result<String, Failure> {
    if let Some((key, name)) = text.split_once('/') {
        let key = URL_SAFE_NO_PAD.decode(key).ok();
        let key: [u8; 32] = key.and_then(|key| key.try_into().ok()).ok_or_else(|| {
            Failure::misuse(format!("--stream {text}: no public key before the /"))
        })?;
        return Ok(StreamName::Shoal(StreamId::of(&key, name)).to_string());
    }
    let hex = text.bytes().all(|b| b.is_ascii_hexdigit()) && matches!(text.len(), 32 | 40);
    if hex || text == "*" {
        Ok(text.to_ascii_lowercase())
    } else {
        let forms = "32 or 40 hexadecimal digits, KEY/NAME, or *";
        Err(Failure::misuse(format!("--stream {text}: write {forms}")))
    }
}
