//! The proxy alone, without the rest of `shoal`: what `cargo xtask bench proxy` measures.
//!
//! `edge FILE` serves with the settings in FILE; `edge --keygen` prints a `signing_key` for it; `edge
//! --certificate DIR` writes `certificate.pem` and `key.pem` for `localhost`.

use std::{env, error::Error, fs, path::Path};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let usage = "usage: edge FILE | --keygen | --certificate DIR";
    let argument = arguments.next().ok_or(usage)?;
    if argument == "--keygen" {
        let (secret, _) = origin_proxy::keygen()?;
        println!("signing_key = \"{secret}\"");
        return Ok(());
    }
    if argument == "--certificate" {
        let folder = arguments.next().ok_or(usage)?;
        let made = rcgen::generate_simple_self_signed(["localhost".into()])?;
        fs::write(Path::new(&folder).join("certificate.pem"), made.cert.pem())?;
        let key = made.signing_key.serialize_pem();
        return Ok(fs::write(Path::new(&folder).join("key.pem"), key)?);
    }
    let config = origin_proxy::Config::from_toml(&fs::read_to_string(argument)?)?;
    let listener = tokio::net::TcpListener::bind(config.listen).await?;
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    Ok(origin_proxy::run(listener, config, stop).await?)
}
