//! The proxy alone, without the rest of `shoal`: what `cargo xtask bench proxy` measures.
//!
//! `edge FILE` serves with the settings in FILE; `edge --keygen` prints a `signing_key` for it.

use std::{env, error::Error, fs};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let argument = env::args().nth(1).ok_or("usage: edge FILE | --keygen")?;
    if argument == "--keygen" {
        let (secret, _) = origin_proxy::keygen()?;
        println!("signing_key = \"{secret}\"");
        return Ok(());
    }
    let config = origin_proxy::Config::from_toml(&fs::read_to_string(argument)?)?;
    let listener = tokio::net::TcpListener::bind(config.listen).await?;
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    Ok(origin_proxy::run(listener, config, stop).await?)
}
