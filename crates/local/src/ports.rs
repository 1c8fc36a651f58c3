//! Free TCP ports on the loopback address.
//!
//! Survives: a machine busy with thousands of client connections. Ports that the kernel hands to outgoing
//! connections are avoided, because one of those could take a server's port while the server restarts.
//! Does not reserve: another program may bind the port first, and the server's start then says so.

use std::collections::HashSet;
use std::io;
use std::net::TcpListener;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// The first port offered: well above the services a machine usually runs.
const LOWEST: u16 = 15_000;

/// Returns a port nobody listens on at 127.0.0.1, never the same one twice in this process.
///
/// # Errors
/// Whatever the kernel says when no port can be bound.
pub fn free_port() -> io::Result<u16> {
    // A panic elsewhere cannot leave the set half changed.
    let mut given = GIVEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let given = given.get_or_insert_with(HashSet::new);
    let end = first_ephemeral_port();
    if end > LOWEST {
        // Processes that start together begin at different places, so they rarely try the same port at once.
        let span = u64::from(end - LOWEST);
        let start = scatter();
        for step in 0..span {
            let port = LOWEST + ((start.wrapping_add(step)) % span) as u16;
            if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
                given.insert(port);
                return Ok(port);
            }
        }
    }
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        if given.insert(port) {
            return Ok(port);
        }
    }
}

fn scatter() -> u64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    (nanos ^ (u64::from(std::process::id()) << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20
}

fn first_ephemeral_port() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_handed_out_twice() {
        let ports: Vec<u16> = (0..200).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
    }

    #[test]
    fn a_port_in_use_is_not_handed_out() {
        let port = free_port().unwrap();
        let _held = TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!((0..50).all(|_| free_port().unwrap() != port));
    }
}
