//! What a route can do, and what clients see of a switchover because of it.

use serde::{Deserialize, Serialize};

/// What happens to clients while writes are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clients {
    /// Transactions under way go on to their ends, new ones wait: nobody sees an error.
    Wait,
    /// Connections are cut; who connects anew waits.
    Reconnect,
    /// Connections are cut; who connects anew is refused until the other side is open.
    Errors,
}

/// What a route can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// What clients see of a switchover.
    pub clients: Clients,
    /// A pause ends by itself also if this host dies with every guard on it.
    pub outlives_host: bool,
}

impl Capabilities {
    /// Whether there is anything at which clients can be kept waiting.
    pub fn pauses(self) -> bool {
        self.clients != Clients::Errors
    }

    /// Returns what clients would do for as long as a rehearsal foretells: the beginning of a line for a person.
    pub fn foretold(self) -> &'static str {
        match self.clients {
            Clients::Wait => "clients would wait for",
            Clients::Reconnect => "clients would lose their connections, and wait for new ones for",
            Clients::Errors => "clients would get errors for about",
        }
    }

    /// Returns what clients see for at most the time of the write budget: the beginning of a line for a person.
    pub fn told(self) -> &'static str {
        match self.clients {
            Clients::Wait => "clients wait",
            Clients::Reconnect => "clients lose their connections, and wait for new ones",
            Clients::Errors => "clients lose their connections, and get errors",
        }
    }
}
