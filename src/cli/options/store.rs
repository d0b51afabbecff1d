//! The store that a command works on: `--store`, else `FLINT_STORE`.

use super::args::Args;
use crate::cli::answer::usage;
use crate::error::{Error, Result};

/// Names a store where no option does.
const VARIABLE: &str = "FLINT_STORE";

/// The URL of the store. A data directory that is named counts more than the environment.
///
/// # Errors
/// `usage`, also if this Flint was built without stores.
pub fn store_url(args: &Args) -> Result<Option<String>> {
    let variable = std::env::var_os(VARIABLE).filter(|url| !url.is_empty());
    let url = match args.given_text("--store")? {
        Some("") => return Err(usage("--store must be the URL of a store, such as redis://127.0.0.1:6379")),
        Some(url) => Some(url.to_owned()),
        None if args.os_text("--data-dir").is_some() => None,
        None => variable
            .map(|url| url.into_string().map_err(|_| usage(format!("{VARIABLE} must be the URL of a store, in UTF-8"))))
            .transpose()?,
    };
    if url.is_some() && cfg!(not(feature = "store")) {
        return Err(without_stores());
    }
    Ok(url)
}

/// The error for a store where this Flint knows none.
pub fn without_stores() -> Error {
    usage(
        "this flint was built without stores; build it with `cargo build --release --features store`, or store-tls for \
         rediss://",
    )
}
