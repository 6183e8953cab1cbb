//! Why a command ended without having done its work.

use std::fmt;
use std::net::SocketAddr;
use std::process::ExitCode;

/// One line for the user, the one at fault first, and the exit code that goes with it.
#[derive(Debug)]
pub struct Failure {
    text: String,
    misuse: bool,
}

impl Failure {
    /// The user's: arguments or settings that make no sense. Exit code 2.
    pub fn misuse(text: impl fmt::Display) -> Self {
        Self {
            text: text.to_string(),
            misuse: true,
        }
    }

    /// The machine's, or that of somebody on the network. Exit code 1.
    pub fn environment(text: impl fmt::Display) -> Self {
        Self {
            text: format!("environment: {text}"),
            misuse: false,
        }
    }

    /// An error that says itself who is at fault. Exit code 1.
    pub fn of(error: impl fmt::Display) -> Self {
        Self {
            text: error.to_string(),
            misuse: false,
        }
    }

    /// An address cannot be listened on.
    pub(crate) fn listen(addr: SocketAddr, error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::AddrInUse => Self::environment(format!(
                "{addr} is taken by another program; stop it or choose another address with --listen"
            )),
            _ => Self::environment(format!("cannot listen on {addr}: {error}")),
        }
    }

    /// How the process ends.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(if self.misuse { 2 } else { 1 })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.trim_end())
    }
}

impl From<live_source::Error> for Failure {
    fn from(error: live_source::Error) -> Self {
        let misuse = matches!(
            error,
            live_source::Error::Config(_) | live_source::Error::Input { .. }
        );
        Self {
            text: error.to_string(),
            misuse,
        }
    }
}

impl From<origin_proxy::Error> for Failure {
    fn from(error: origin_proxy::Error) -> Self {
        let misuse = matches!(
            error,
            origin_proxy::Error::Config(_) | origin_proxy::Error::Key(_)
        );
        Self {
            text: format!("origin-proxy: {error}"),
            misuse,
        }
    }
}

impl From<tracker::Error> for Failure {
    fn from(error: tracker::Error) -> Self {
        let misuse = !matches!(
            error,
            tracker::Error::Environment { .. } | tracker::Error::Broke
        );
        Self {
            text: format!("tracker: {error}"),
            misuse,
        }
    }
}

impl From<peer_agent::Error> for Failure {
    fn from(error: peer_agent::Error) -> Self {
        let misuse = matches!(error, peer_agent::Error::Config(_));
        Self {
            text: error.to_string(),
            misuse,
        }
    }
}
