//! Whose word is taken for the address of a client: trusted proxies, and `X-Forwarded-For`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{Error, Kind, Result};
use crate::limit::excerpt;

/// What is trusted where nothing is said: `TrustedProxies::parse`.
pub const DEFAULT_TRUSTED: &str = "loopback,unix";

/// The proxies whose `X-Forwarded-For` counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<Network>,
    /// Any process that reaches the Unix socket.
    unix: bool,
}

/// Addresses with the same first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits: u8 = bits.unwrap_or(most);
        let folded = fold(address);
        // A network of IPv4 addresses in IPv6 form is one of IPv4.
        let bits = match (address, folded) {
            (IpAddr::V6(_), IpAddr::V4(_)) => bits.checked_sub(96)?,
            _ => bits,
        };
        (bits <= most).then(|| Network { address: cut(folded, bits), bits })
    }

    fn holds(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && cut(address, self.bits) == self.address
    }
}

impl TrustedProxies {
    /// Reads addresses and networks, separated by commas, and the words `loopback`, `unix` and `none`.
    ///
    /// # Errors
    /// `usage`, naming what is neither.
    pub fn parse(text: &str) -> Result<TrustedProxies> {
        let mut trusted = TrustedProxies { networks: Vec::new(), unix: false };
        for part in text.split(',').map(str::trim) {
            match part {
                "unix" => trusted.unix = true,
                "loopback" => trusted.networks.extend(["127.0.0.0/8", "::1"].into_iter().filter_map(Network::parse)),
                "none" => {}
                _ => trusted.networks.push(Network::parse(part).ok_or_else(|| {
                    Error::new(
                        Kind::Usage,
                        format!(
                            "--trusted-proxies must be addresses or networks such as 10.0.0.0/8, loopback, unix or none, \
                             separated by commas, not `{}`",
                            excerpt(part)
                        ),
                    )
                })?),
            }
        }
        Ok(trusted)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.holds(address))
    }

    /// The address of the client that a peer asks for, which is `None` on a Unix socket: by the values of all
    /// `X-Forwarded-For` in their order, the last that is not a trusted proxy's. `None` if it is unknown.
    pub fn client<'a>(
        &self,
        peer: Option<IpAddr>,
        forwarded: impl DoubleEndedIterator<Item = &'a str>,
    ) -> Option<IpAddr> {
        let mut last = peer.map(fold);
        if !last.map_or(self.unix, |peer| self.trusts(peer)) {
            return last;
        }
        for hop in forwarded.rev().flat_map(|value| value.rsplit(',')) {
            let hop = hop.trim();
            // What is before a hop that is not an address is unknown.
            let Some(address) = address_of(hop) else { break };
            last = Some(address);
            if !self.trusts(address) {
                break;
            }
        }
        last
    }
}

/// An address as proxies write it, perhaps with a port.
fn address_of(hop: &str) -> Option<IpAddr> {
    let bare = || match hop.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0.parse().ok(),
        None => hop.split_once(':')?.0.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    };
    hop.parse().ok().or_else(bare).map(fold)
}

/// An IPv4 address that was written in IPv6 form, as the IPv4 address.
fn fold(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// The address with all but the first bits 0.
fn cut(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

/// A client's address as part of a key: for IPv6, the network that usually belongs to one client.
pub struct InKey {
    pub address: Option<IpAddr>,
    pub ipv6_prefix: u8,
}

impl fmt::Display for InKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            None => f.write_str("unix"),
            Some(IpAddr::V4(address)) => address.fmt(f),
            Some(address @ IpAddr::V6(_)) => write!(f, "{}/{}", cut(address, self.ipv6_prefix), self.ipv6_prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &str, peer: &str, forwarded: &[&str]) -> String {
        let trusted = TrustedProxies::parse(trusted).unwrap();
        let address = trusted.client(peer.parse().ok(), forwarded.iter().copied());
        InKey { address, ipv6_prefix: 64 }.to_string()
    }

    #[test]
    fn who_the_client_is() {
        let usual = DEFAULT_TRUSTED;
        for (trusted, peer, forwarded, expected) in [
            (usual, "127.0.0.1", &[][..], "127.0.0.1"),
            (usual, "127.0.0.1", &["203.0.113.7"], "203.0.113.7"),
            // What the client itself wrote is on the left.
            (usual, "127.0.0.1", &["6.6.6.6, 203.0.113.7"], "203.0.113.7"),
            (usual, "127.0.0.1", &["6.6.6.6", "203.0.113.7"], "203.0.113.7"),
            (usual, "127.0.0.1", &["203.0.113.7", "127.0.0.1"], "203.0.113.7"),
            (usual, "127.0.0.1", &["127.0.0.1"], "127.0.0.1"),
            // A peer that is not trusted speaks only for itself.
            (usual, "198.51.100.1", &["203.0.113.7"], "198.51.100.1"),
            ("none", "127.0.0.1", &["203.0.113.7"], "127.0.0.1"),
            ("10.0.0.0/8", "10.1.2.3", &["203.0.113.7, 10.9.9.9"], "203.0.113.7"),
            ("10.0.0.0/8", "10.1.2.3", &["203.0.113.7, 11.9.9.9"], "11.9.9.9"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", &["::ffff:203.0.113.7"], "203.0.113.7"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", &["203.0.113.7"], "203.0.113.7"),
            ("2001:db8::/32", "2001:db8::1", &["2001:db9:1:2:3:4:5:6"], "2001:db9:1:2::/64"),
            // Ports, as some proxies add them; no address ends the walk.
            (usual, "::1", &["203.0.113.7:4711"], "203.0.113.7"),
            (usual, "::1", &["[2001:db8:1:2::9]:4711"], "2001:db8:1:2::/64"),
            (usual, "127.0.0.1", &["203.0.113.7, unknown"], "127.0.0.1"),
            (usual, "127.0.0.1", &["unknown, 127.0.0.1"], "127.0.0.1"),
            (usual, "127.0.0.1", &[""], "127.0.0.1"),
            // A Unix socket.
            (usual, "", &["203.0.113.7"], "203.0.113.7"),
            (usual, "", &[], "unix"),
            ("loopback", "", &["203.0.113.7"], "unix"),
        ] {
            assert_eq!(client(trusted, peer, forwarded), expected, "{trusted} {peer} {forwarded:?}");
        }
    }

    #[test]
    fn networks() {
        for bad in
            ["", "10.0.0.0/33", "::/129", "example.org", "10.0.0.0/x", "10.0.0.0/8 192.168.0.0/16", "::ffff:1.2.3.4/95"]
        {
            let error = TrustedProxies::parse(bad).unwrap_err();
            assert!(error.message().contains("--trusted-proxies"), "{bad}: {error}");
        }
        let all = TrustedProxies::parse("0.0.0.0/0, ::/0").unwrap();
        assert!(all.trusts("203.0.113.7".parse().unwrap()) && all.trusts("2001:db8::1".parse().unwrap()));
        assert!(!TrustedProxies::parse("0.0.0.0/0").unwrap().trusts("2001:db8::1".parse().unwrap()));
    }
}
