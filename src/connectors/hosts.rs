//! Whom connectors may call. What counts is the address that is connected to: a name is resolved once, its addresses are
//! looked at, and the connection goes to one of those, so that a second look-up with another answer changes nothing.

use super::Failure;
use crate::config::HostRule;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};
use url::{Host, Url};

/// The rules, of which one has to let a call through.
#[derive(Debug, Clone)]
pub struct Hosts(Vec<HostRule>);

/// What kind of address it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Reached from everywhere.
    Public,
    /// Of this network or of this machine.
    Private,
    /// Of this link, or where clouds serve a machine its own credentials: nobody means it by a name.
    Link,
}

impl Hosts {
    /// These rules.
    #[must_use]
    pub fn new(rules: Vec<HostRule>) -> Hosts {
        Hosts(rules)
    }

    /// The addresses that may be connected to for this URL.
    ///
    /// # Errors
    /// The host has no address, or none that is allowed.
    pub(super) async fn resolve(&self, url: &Url) -> Result<Vec<SocketAddr>, Failure> {
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(Failure::new("BAD_URL", "the URL names no host"));
        };
        let (name, found) = match host {
            Host::Ipv4(address) => (None, vec![IpAddr::from(address)]),
            Host::Ipv6(address) => (None, vec![IpAddr::from(address)]),
            Host::Domain(name) => {
                let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
                if !self.may_fit(&name, port) {
                    return Err(refused(&format!("`{name}`"), port));
                }
                let found = look_up(&name).await?;
                (Some(name), found)
            }
        };
        let allowed: Vec<SocketAddr> = found
            .iter()
            .filter(|address| self.allows(name.as_deref(), **address, port))
            .map(|address| SocketAddr::new(*address, port))
            .collect();
        match (allowed.is_empty(), found.first()) {
            (false, _) => Ok(allowed),
            (true, Some(address)) => Err(refused(
                &match &name {
                    Some(name) => format!("`{name}` at the address {address}"),
                    None => format!("the address {address}"),
                },
                port,
            )),
            (true, None) => Err(Failure::passing("UNKNOWN_HOST", format!("`{host}` has no address"))),
        }
    }

    /// Whether a rule could let the name through, whatever its address is. Names that none could are not looked up.
    fn may_fit(&self, name: &str, port: u16) -> bool {
        self.0.iter().any(|rule| match rule {
            HostRule::Public => true,
            HostRule::Name { port: only, .. } => fits_name(rule, name) && fits_port(*only, port),
            HostRule::Network { port: only, .. } => fits_port(*only, port),
        })
    }

    /// Whether this address may be connected to for a URL with this name, or with the address itself.
    fn allows(&self, name: Option<&str>, address: IpAddr, port: u16) -> bool {
        let kind = kind(address);
        self.0.iter().any(|rule| match rule {
            HostRule::Public => kind == Kind::Public,
            HostRule::Name { below, port: only, .. } => {
                name.is_some_and(|name| fits_name(rule, name))
                    && fits_port(*only, port)
                    && match kind {
                        Kind::Public => true,
                        Kind::Private => !below,
                        Kind::Link => false,
                    }
            }
            HostRule::Network { address: network, prefix, port: only } => {
                fits_port(*only, port) && is_within(address, *network, *prefix)
            }
        })
    }
}

async fn look_up(name: &str) -> Result<Vec<IpAddr>, Failure> {
    match tokio::net::lookup_host((name, 0)).await {
        Ok(found) => Ok(found.map(|address| address.ip()).collect()),
        Err(error) => {
            let why = if error.kind() == io::ErrorKind::Other { error.to_string() } else { error.kind().to_string() };
            Err(Failure::passing("UNKNOWN_HOST", format!("`{name}` cannot be resolved: {why}")))
        }
    }
}

fn refused(what: &str, port: u16) -> Failure {
    let message = format!("{what}, port {port}, may not be called; CONNECTOR_ALLOWED_HOSTS says what may");
    Failure::new("HOST_NOT_ALLOWED", message)
}

fn fits_port(only: Option<u16>, port: u16) -> bool {
    only.is_none_or(|only| only == port)
}

fn fits_name(rule: &HostRule, host: &str) -> bool {
    match rule {
        HostRule::Name { name, below: false, .. } => name == host,
        HostRule::Name { name, below: true, .. } => {
            host.strip_suffix(name.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        }
        HostRule::Public | HostRule::Network { .. } => false,
    }
}

/// Whether both have the same first bits. An IPv4 address that is written as an IPv6 one is what it stands for.
fn is_within(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let same = |a: u128, b: u128, width: u32| {
        let rest = width.saturating_sub(u32::from(prefix));
        a.checked_shr(rest).unwrap_or(0) == b.checked_shr(rest).unwrap_or(0)
    };
    match (plain(address), network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

/// The IPv4 address within a mapped one.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) => six.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

fn kind(address: IpAddr) -> Kind {
    match plain(address) {
        IpAddr::V4(four) => kind_of_four(four),
        IpAddr::V6(six) => kind_of_six(six),
    }
}

/// Link-local, and the addresses at which Alibaba, Oracle and Azure serve metadata.
const LINK_FOUR: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(100, 100, 100, 200), 32),
    (Ipv4Addr::new(192, 0, 0, 192), 32),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
];

/// What IANA's registry of special addresses says is not globally reachable, and multicast.
const PRIVATE_FOUR: [(Ipv4Addr, u8); 14] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

fn kind_of_four(address: Ipv4Addr) -> Kind {
    let within = |list: &[(Ipv4Addr, u8)]| {
        list.iter().any(|(network, prefix)| is_within(address.into(), (*network).into(), *prefix))
    };
    if within(&LINK_FOUR) {
        Kind::Link
    } else if within(&PRIVATE_FOUR) {
        Kind::Private
    } else {
        Kind::Public
    }
}

/// Link-local, and the addresses at which AWS and Google serve metadata.
const LINK_SIX: [(Ipv6Addr, u8); 3] = [
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128),
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),
];

/// The part of the space that is given out to the world, and what in it is not reached from everywhere: protocol
/// assignments, documentation, and 6to4, which leads to IPv4 addresses of any kind.
const GLOBAL_SIX: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
const PRIVATE_SIX: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];
/// NAT64: the last four bytes are the IPv4 address that is reached.
const NAT64: (Ipv6Addr, u8) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

fn kind_of_six(address: Ipv6Addr) -> Kind {
    let is_in = |(network, prefix): (Ipv6Addr, u8)| is_within(address.into(), network.into(), prefix);
    if LINK_SIX.into_iter().any(is_in) {
        Kind::Link
    } else if is_in(NAT64) {
        let [.., a, b, c, d] = address.octets();
        kind_of_four(Ipv4Addr::new(a, b, c, d))
    } else if is_in(GLOBAL_SIX) && !PRIVATE_SIX.into_iter().any(is_in) {
        Kind::Public
    } else {
        Kind::Private
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Variables};

    fn hosts(list: &str) -> Hosts {
        let variables: Variables = [("CONNECTOR_ALLOWED_HOSTS", list)].into_iter().collect();
        Hosts::new(Config::load(&variables).unwrap().0.connectors.allowed_hosts)
    }

    fn allows(list: &str, name: &str, address: &str, port: u16) -> bool {
        let name = Some(name).filter(|name| !name.is_empty());
        hosts(list).allows(name, address.parse().unwrap(), port)
    }

    #[test]
    fn addresses_are_sorted_by_what_they_reach() {
        for (kinds, addresses) in [
            (Kind::Public, "8.8.8.8 1.1.1.1 100.128.0.1 172.32.0.1 2606:4700::1 ::ffff:8.8.8.8 64:ff9b::808:808"),
            (
                Kind::Private,
                "0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 127.9.9.9 172.31.0.1 192.168.0.1 198.19.0.1 224.0.0.1 \
                 255.255.255.255 :: ::1 fc00::1 fd12::1 fec0::1 ff02::1 2001:db8::1 2002:7f00:1:: 2001::1 \
                 ::ffff:127.0.0.1 ::7f00:1 64:ff9b::7f00:1 64:ff9b:1::1 100::1",
            ),
            (
                Kind::Link,
                "169.254.169.254 169.254.0.1 100.100.100.200 192.0.0.192 168.63.129.16 fe80::1 febf::1 \
                 fd00:ec2::254 fd20:ce::254 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe",
            ),
        ] {
            for address in addresses.split_whitespace() {
                assert_eq!(kind(address.parse().unwrap()), kinds, "{address}");
            }
        }
    }

    #[test]
    fn public_addresses_are_open_and_everything_else_has_to_be_listed() {
        assert!(allows("*", "a.example", "8.8.8.8", 443) && allows("*", "", "8.8.8.8", 80));
        for address in ["10.0.0.1", "127.0.0.1", "169.254.169.254", "fd00:ec2::254", "::ffff:127.0.0.1"] {
            assert!(!allows("*", "a.example", address, 443), "{address}");
            assert!(!allows("*", "", address, 443), "{address}");
            assert!(allows("10.0.0.0/8,127.0.0.1,169.254.0.0/16,fd00::/8", "", address, 443), "{address}");
        }
        assert!(!allows("10.0.0.0/8", "a.example", "8.8.8.8", 443));
    }

    #[test]
    fn a_name_is_trusted_with_private_addresses_and_never_with_link_local_ones() {
        let list = "crm.example,*.corp.example,db.example:5000";
        assert!(allows(list, "crm.example", "8.8.8.8", 1) && allows(list, "crm.example", "10.0.0.1", 1));
        assert!(allows(list, "a.corp.example", "8.8.8.8", 1) && allows(list, "a.b.corp.example", "8.8.8.8", 1));
        assert!(allows(list, "db.example", "127.0.0.1", 5000));
        for (name, address, port) in [
            ("crm.example", "169.254.169.254", 1),
            ("crm.example", "fe80::1", 1),
            ("a.corp.example", "10.0.0.1", 1),
            ("corp.example", "8.8.8.8", 1),
            ("acorp.example", "8.8.8.8", 1),
            (".corp.example", "8.8.8.8", 1),
            ("db.example", "127.0.0.1", 5001),
            ("xcrm.example", "8.8.8.8", 1),
            ("", "8.8.8.8", 1),
        ] {
            assert!(!allows(list, name, address, port), "{name} {address} {port}");
        }
        assert!(allows("*.corp.example,10.0.0.0/8", "a.corp.example", "10.0.0.1", 1));
        assert!(!allows("10.0.0.1:80", "", "10.0.0.1", 81) && allows("10.0.0.1:80", "", "10.0.0.1", 80));
        assert!(allows("0.0.0.0/0", "", "169.254.169.254", 80) && !allows("0.0.0.0/0", "", "::1", 80));
    }

    #[tokio::test]
    async fn names_are_refused_after_they_were_resolved() {
        let ask = async |list: &str, url: &str| hosts(list).resolve(&Url::parse(url).unwrap()).await;
        let failure = ask("*", "http://localhost:81/").await.unwrap_err();
        assert_eq!((&*failure.code, failure.passing), ("HOST_NOT_ALLOWED", false), "{failure}");
        assert!(failure.message.contains("`localhost` at the address") && failure.message.contains("port 81"));
        // Every way to write the address of this machine.
        for host in
            ["127.0.0.1", "2130706433", "0x7f.1", "017700000001", "127.1", "[::1]", "[::ffff:7f00:1]", "localhost."]
        {
            assert_eq!(ask("*", &format!("http://{host}/")).await.unwrap_err().code, "HOST_NOT_ALLOWED", "{host}");
        }
        let found = ask("localhost", "https://LOCALHOST./").await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|one| one.ip().is_loopback() && one.port() == 443));
        // Not even looked up.
        assert_eq!(ask("crm.example", "http://x.invalid/").await.unwrap_err().code, "HOST_NOT_ALLOWED");
        let unknown = ask("x.invalid", "http://x.invalid/").await.unwrap_err();
        assert_eq!((&*unknown.code, unknown.passing), ("UNKNOWN_HOST", true), "{unknown}");
    }
}
