//! `shoal keygen`.

use crate::{Failure, commands::print};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the public half of this secret key instead of making a new pair.
    #[arg(long, value_name = "SECRET", allow_hyphen_values = true)]
    public_of: Option<String>,
}

/// Prints a pair of keys as lines that fit into the origin-proxy's and viewers' settings.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(secret) = &args.public_of {
        print(&origin_proxy::public_key(secret)?);
        return Ok(());
    }
    let (secret, public) = origin_proxy::keygen()?;
    print(&format!(
        "# For the origin-proxy's settings. Keep it secret.\nsigning_key = \"{secret}\"\n\
         # Its public half, for `shoal peer --key` and for pages that do not trust the CDN.\n\
         # public_key = \"{public}\""
    ));
    Ok(())
}
