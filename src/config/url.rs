//! The URLs of both services, taken apart: percent-decoded pieces, and nothing of them in any error.

use percent_encoding::percent_decode_str;
use url::Url;

/// The pieces of a service URL. Empty pieces are absent.
pub(super) struct ServiceUrl {
    pub(super) scheme: String,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    /// With its leading slash, if there is any.
    pub(super) path: String,
    pub(super) params: Vec<(String, String)>,
}

/// Takes a URL apart, or says what is wrong with it without quoting it: a piece of a URL with an unencoded character in
/// its password may be a piece of the password.
pub(super) fn parse(text: &str) -> Result<ServiceUrl, &'static str> {
    const UNREADABLE: &str =
        "it is not a readable URL (characters such as # / ? % in a password must be percent-encoded)";
    // The URL standard refuses a user without a host, which is how both services write a user on a Unix socket:
    // a stand-in host makes it parse.
    let (text, without_host) = match authority_end(text) {
        Some(end) if text[..end].ends_with('@') => (format!("{}localhost{}", &text[..end], &text[end..]), true),
        _ => (text.to_string(), false),
    };
    let url = Url::parse(&text).map_err(|_| UNREADABLE)?;
    // An @ so late is the end of a password whose / or ? ended the authority too early.
    let keys = url.query().unwrap_or_default().split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    let late = url.path().contains('@') || keys.into_iter().any(|key| key.contains('@'));
    if url.cannot_be_a_base() || url.fragment().is_some() || late {
        return Err(UNREADABLE);
    }
    let host = url.host_str().filter(|_| !without_host);
    let host = host.map(|h| h.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(h));
    let query = url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let params = query.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok::<_, &str>((decode(key)?, decode(value)?))
    });
    Ok(ServiceUrl {
        scheme: url.scheme().to_string(),
        user: some(decode(url.username())?),
        password: url.password().map(decode).transpose()?.and_then(some),
        host: host.map(decode).transpose()?.and_then(some),
        port: url.port(),
        path: decode(url.path())?,
        params: params.collect::<Result<_, _>>()?,
    })
}

/// Where the part `user:password@host:port` ends.
fn authority_end(text: &str) -> Option<usize> {
    let start = text.find("://")? + 3;
    Some(text[start..].find(['/', '?', '#']).map_or(text.len(), |end| start + end))
}

fn decode(text: &str) -> Result<String, &'static str> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| "its percent-encoding is not UTF-8 text")
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
    use proptest::prelude::*;

    #[test]
    fn pieces_are_decoded() {
        let url = parse("postgres://fl%40oh:p%23%2Fw+%25@db.example:5433/my%20db?sslmode=require&x=a+b").unwrap();
        assert_eq!(url.user.as_deref(), Some("fl@oh"));
        assert_eq!(url.password.as_deref(), Some("p#/w+%"));
        assert_eq!((url.host.as_deref(), url.port), (Some("db.example"), Some(5433)));
        assert_eq!(url.path, "/my db");
        assert_eq!(url.params, [("sslmode".into(), "require".into()), ("x".into(), "a+b".into())]);
    }

    #[test]
    fn a_user_needs_no_host() {
        let url = parse("postgres://floh:pw@/floh?host=/run/postgresql").unwrap();
        assert_eq!((url.user.as_deref(), url.password.as_deref(), url.host), (Some("floh"), Some("pw"), None));
        let url = parse("unix://:pw@/run/redis.sock").unwrap();
        assert_eq!((url.password.as_deref(), url.host, url.path.as_str()), (Some("pw"), None, "/run/redis.sock"));
    }

    #[test]
    fn addresses_and_sockets_are_hosts() {
        assert_eq!(parse("redis://[::1]:7000/2").unwrap().host.as_deref(), Some("::1"));
        assert_eq!(parse("postgres://%2Frun%2Fpostgresql/floh").unwrap().host.as_deref(), Some("/run/postgresql"));
    }

    #[test]
    fn unencoded_characters_are_refused_without_being_quoted() {
        for url in [
            "postgres://u:se#cret@h/d",
            "postgres://u:se/cret@h/d",
            "postgres://u:12/cret@h/d",
            "postgres://u:12?cret@h/d",
            "no url",
            "redis:h",
            "redis://u:%ff@h",
        ] {
            let error = parse(url).err().unwrap_or_else(|| panic!("{url}"));
            assert!(!error.contains("cret"), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn hostile_urls_are_read_or_refused_in_one_of_two_sentences(text in "(postgres|redis|rediss|unix)?(://|:)?[a-z0-9:@/%?#&=. é\\[\\]-]{0,24}") {
            match parse(&text) {
                Ok(url) => prop_assert!(!url.scheme.is_empty()),
                Err(why) => prop_assert!(why.contains("not")),
            }
        }

        #[test]
        fn what_is_encoded_comes_back(user in "[^\0]{1,12}", password in "[^\0]{1,12}") {
            let encoded = |text: &str| percent_encode(text.as_bytes(), NON_ALPHANUMERIC).to_string();
            let url = parse(&format!("redis://{}:{}@h:1/2", encoded(&user), encoded(&password))).unwrap();
            prop_assert_eq!((url.user, url.password), (Some(user), Some(password)));
        }
    }
}
