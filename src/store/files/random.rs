//! Random numbers from the operating system.

use std::path::Path;

use crate::error::{Error, Result};

pub fn new_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&random()?.to_le_bytes());
    id[8..].copy_from_slice(&random()?.to_le_bytes());
    Ok(id)
}

/// A random number from the operating system.
pub fn random() -> Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| Error::io("read", Path::new("/dev/urandom"), &error))?;
    Ok(u64::from_le_bytes(bytes))
}
