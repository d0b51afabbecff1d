//! Random numbers from the operating system.

use std::io;

use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};

/// This many random bytes, up to 256: they come at once (see getrandom(2)), but a signal may interrupt the wait for the
/// first ones after the machine's start.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    const { assert!(N <= 256) };
    let mut bytes = [0; N];
    retry_on_intr(|| getrandom(&mut bytes, GetRandomFlags::empty()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_differ() {
        let drawn: std::collections::HashSet<[u8; 16]> = (0..100).map(|_| random().unwrap()).collect();
        assert_eq!(drawn.len(), 100);
        // All bytes are filled: none is 0 each time.
        assert!((0..16).all(|at| drawn.iter().any(|bytes| bytes[at] != 0)));
    }
}
