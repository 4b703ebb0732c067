//! The variables of connectors: which hosts they may call, the keys of their secrets, and whether they only pretend.

use super::{
    reader::{Reader, boolean, host_name, quoted},
    types::{ConnectorsConfig, HostRule},
};
use secrecy::{ExposeSecret, SecretString};
use std::net::IpAddr;

const HOSTS: &str = "CONNECTOR_ALLOWED_HOSTS";
const KEY: &str = "CONNECTOR_ENCRYPTION_KEY";
const PREVIOUS: &str = "CONNECTOR_ENCRYPTION_KEY_PREVIOUS";
const MOCK: &str = "CONNECTOR_MOCK_MODE";

pub(super) fn read(reader: &mut Reader) -> ConnectorsConfig {
    let config = ConnectorsConfig {
        allowed_hosts: reader.checked(HOSTS, vec![HostRule::Public], rules),
        key: key(reader, KEY),
        previous_key: key(reader, PREVIOUS),
        mock_mode: reader.checked(MOCK, false, boolean),
    };
    if reader.is_given(PREVIOUS) && !reader.is_given(KEY) {
        reader.mistake(PREVIOUS, None, "the key that replaced it is expected beside it, as CONNECTOR_ENCRYPTION_KEY");
    }
    if config.mock_mode {
        reader.warn(MOCK, "connectors answer from their mocks, except in steps with `mock: false`; mail is sent");
    }
    config
}

fn key(reader: &mut Reader, name: &str) -> Option<SecretString> {
    reader.secret(name).filter(|key| {
        let text = key.expose_secret();
        let fits = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !fits {
            reader.mistake(name, None, "64 hexadecimal characters are expected (openssl rand -hex 32)");
        }
        fits
    })
}

/// Entries with commas between.
fn rules(text: &str) -> Result<Vec<HostRule>, String> {
    text.split(',').map(|entry| rule(entry.trim())).collect()
}

/// `*`, `host`, `*.domain`, an address or a network, each with a port if it is meant for one alone.
fn rule(entry: &str) -> Result<HostRule, String> {
    let wrong = |why: &str| format!("{}: {why}", quoted(entry));
    if entry == "*" {
        return Ok(HostRule::Public);
    }
    if entry.contains("://") {
        return Err(wrong("a host is expected, without scheme and path"));
    }
    if let Some((address, prefix)) = entry.split_once('/') {
        let network = address.parse().ok().zip(prefix.parse().ok());
        return match network {
            Some((address, prefix)) if prefix <= bits(address) => Ok(HostRule::Network { address, prefix, port: None }),
            _ => Err(wrong("a network such as 10.0.0.0/8 or fd00::/8 is expected")),
        };
    }
    let (host, port) = match entry.parse::<IpAddr>() {
        Ok(_) => (entry, None),
        Err(_) => split_port(entry).ok_or_else(|| wrong("a port is a number from 1 to 65535"))?,
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(HostRule::Network { address, prefix: bits(address), port });
    }
    let (name, below) = host.strip_prefix("*.").map_or((host, false), |name| (name, true));
    if name.is_empty() || name.contains('*') || host_name(name).is_err() {
        return Err(wrong("a host name, *.domain, an address or a network is expected, or * for every public host"));
    }
    Ok(HostRule::Name { name: name.trim_end_matches('.').to_ascii_lowercase(), below, port })
}

/// The host, and the port behind the last colon.
fn split_port(entry: &str) -> Option<(&str, Option<u16>)> {
    if entry.ends_with(']') {
        return Some((entry, None));
    }
    match entry.rsplit_once(':') {
        None => Some((entry, None)),
        Some((host, port)) => Some((host, Some(port.parse().ok().filter(|port| *port != 0)?))),
    }
}

/// How long an address of this kind is.
fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_entry_is_read() {
        let name = |name: &str, below, port| HostRule::Name { name: name.to_string(), below, port };
        let network =
            |address: &str, prefix, port| HostRule::Network { address: address.parse().unwrap(), prefix, port };
        for (text, expected) in [
            ("*", vec![HostRule::Public]),
            ("CRM.example.org.", vec![name("crm.example.org", false, None)]),
            ("*.example.org , db:8443", vec![name("example.org", true, None), name("db", false, Some(8443))]),
            ("10.0.0.0/8,::1", vec![network("10.0.0.0", 8, None), network("::1", 128, None)]),
            ("127.0.0.1:80,[fe80::1]:81", vec![network("127.0.0.1", 32, Some(80)), network("fe80::1", 128, Some(81))]),
            ("[::1]", vec![network("::1", 128, None)]),
        ] {
            assert_eq!(rules(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_named() {
        for text in [
            "a,,b",
            "https://a",
            "10.0.0.0/33",
            "a/8",
            "::/129",
            "a:0",
            "a:x",
            "a:70000",
            "*.",
            "**",
            "a.*.b",
            "[::1",
            "a b",
            "bücher.example",
            "fe80::1:99999",
        ] {
            let why = rules(text).unwrap_err();
            assert!(why.contains("expected") || why.contains("a port is"), "{text}: {why}");
        }
    }

    #[test]
    fn keys_are_checked_and_pretending_is_told() {
        use crate::config::tests::{mistakes, notices};
        const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        let lines =
            mistakes(&[(super::KEY, "guppytrout"), (PREVIOUS, "guppytrout"), (HOSTS, "a b"), (MOCK, "perhaps")]);
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines.iter().all(|line| !line.contains("guppytrout")), "{lines:?}");
        assert!(mistakes(&[(PREVIOUS, KEY)])[0].contains("CONNECTOR_ENCRYPTION_KEY"));
        assert!(notices(&[(super::KEY, KEY), (PREVIOUS, KEY)]).is_empty());
        assert!(notices(&[(MOCK, "yes")])[0].contains("answer from their mocks"));
    }
}
