//! The variables of Redis Sentinel: whom to ask where the primary is, instead of saying it.

use super::{
    reader::{Reader, host_name, plain, quoted, whole},
    redis::{LONGEST_USER, PORT},
    types::{RedisConfig, RedisEndpoint},
};

const LIST: &str = "REDIS_SENTINELS";
const MASTER: &str = "REDIS_SENTINEL_MASTER";
const USERNAME: &str = "REDIS_SENTINEL_USERNAME";
const PASSWORD: &str = "REDIS_SENTINEL_PASSWORD";

const DEFAULT_PORT: u16 = 26379;
const LONGEST_NAME: usize = 255;

/// Puts the sentinels in the place of the server, where they are given. The login and the database that were read before
/// are the primary's.
pub(super) fn read(reader: &mut Reader, config: &mut RedisConfig) {
    let sentinels = reader.checked(LIST, Vec::new(), addresses);
    let master = reader.checked(MASTER, String::new(), plain(LONGEST_NAME, "a name"));
    config.sentinel_username =
        reader.checked(USERNAME, None, |text| plain(LONGEST_USER, "a user name")(text).map(Some));
    config.sentinel_password = reader.secret(PASSWORD);

    let (listed, named) = (reader.is_given(LIST), reader.is_given(MASTER));
    if listed && reader.is_given("REDIS_URL") {
        let expected = "not together with REDIS_URL, which names one server: keep one of them (user, password, database \
            and TLS of the primary are then REDIS_USERNAME, REDIS_PASSWORD, REDIS_DB and REDIS_TLS)";
        reader.mistake(LIST, None, expected);
    }
    if listed && !named {
        let expected = "the name under which the sentinels watch the primary (in their `sentinel monitor`) is expected \
            beside REDIS_SENTINELS";
        reader.mistake(MASTER, None, expected);
    } else if named && !listed {
        reader.mistake(LIST, None, "the sentinels are expected beside REDIS_SENTINEL_MASTER: host:port,host:port,…");
    }
    for name in [USERNAME, PASSWORD].into_iter().filter(|name| reader.is_given(name)).collect::<Vec<_>>() {
        if !listed {
            reader.warn(name, "not used, because there is no REDIS_SENTINELS");
        } else if name == USERNAME && config.sentinel_password.is_none() {
            reader.warn(name, "not used, because there is no REDIS_SENTINEL_PASSWORD");
        }
    }
    if sentinels.is_empty() {
        return;
    }
    let mut once = Vec::with_capacity(sentinels.len());
    for sentinel in sentinels {
        if once.contains(&sentinel) {
            reader.warn(LIST, &format!("{} port {} is named twice", sentinel.0, sentinel.1));
        } else {
            once.push(sentinel);
        }
    }
    config.endpoint = RedisEndpoint::Sentinels { sentinels: once, master };
}

/// `host`, `host:port`, `address`, `[IPv6 address]:port`, with commas between.
fn addresses(text: &str) -> Result<Vec<(String, u16)>, String> {
    text.split(',').map(|item| address(item.trim())).collect()
}

fn address(item: &str) -> Result<(String, u16), String> {
    let wrong = |reason: String| format!("host:port,host:port,… is expected, and in {} {reason}", quoted(item));
    if item.is_empty() {
        return Err("host:port,host:port,… is expected, and one of them is empty".to_string());
    }
    let (host, port) = match item.strip_prefix('[') {
        Some(rest) => {
            let Some((host, rest)) = rest.split_once(']') else {
                return Err(wrong("the bracket is not closed".to_string()));
            };
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(wrong("there is no IPv6 address in the brackets".to_string()));
            }
            match (rest, rest.strip_prefix(':')) {
                ("", _) => (host, None),
                (_, Some(port)) => (host, Some(port)),
                _ => return Err(wrong("nothing but a port is expected behind the brackets".to_string())),
            }
        }
        // An unbracketed IPv6 address would leave open where it ends and the port begins.
        None if item.matches(':').count() > 1 && !item.contains("://") => {
            return Err(wrong("an IPv6 address must be in brackets".to_string()));
        }
        None => item.split_once(':').filter(|_| !item.contains("://")).map_or((item, None), |(h, p)| (h, Some(p))),
    };
    let host = host_name(host).map_err(&wrong)?;
    let port = port.map_or(Ok(DEFAULT_PORT), whole(PORT, "a port")).map_err(&wrong)?;
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::addresses;
    use crate::config::{
        RedisEndpoint,
        tests::{good, mistakes, notices},
    };
    use secrecy::ExposeSecret;

    #[test]
    fn hosts_addresses_and_ports_are_read() {
        let list = addresses("a.example, 10.0.0.7:7000,[::1],[2001:db8::1]:26380").unwrap();
        let expected = [("a.example", 26379), ("10.0.0.7", 7000), ("::1", 26379), ("2001:db8::1", 26380)];
        assert_eq!(list, expected.map(|(host, port)| (host.to_string(), port)));
    }

    #[test]
    fn what_is_wrong_is_said_with_the_piece_that_it_is_in() {
        for (list, piece, reason) in [
            ("a,b:port", "b:port", "a port from 1 to 65535"),
            ("a:0", "a:0", "a port from 1 to 65535"),
            ("a:", "a:", "a port from 1 to 65535"),
            ("a,", "empty", "empty"),
            ("::1", "::1", "in brackets"),
            ("2001:db8::1:26379", "2001:db8::1:26379", "in brackets"),
            ("[::1", "[::1", "not closed"),
            ("[a]:1", "[a]:1", "no IPv6 address"),
            ("[::1]26379", "[::1]26379", "behind the brackets"),
            ("a b", "a b", "host name or address"),
            ("redis://a:26379", "redis://a:26379", "host name or address"),
        ] {
            let error = addresses(list).unwrap_err();
            assert!(error.contains(piece) && error.contains(reason), "{list}: {error}");
        }
    }

    #[test]
    fn sentinels_stand_in_for_the_server() {
        let redis = good(&[
            ("REDIS_SENTINELS", "a, [::1]:7000"),
            ("REDIS_SENTINEL_MASTER", "mymaster"),
            ("REDIS_SENTINEL_USERNAME", "asker"),
            ("REDIS_SENTINEL_PASSWORD", "sesame"),
            ("REDIS_USERNAME", "api"),
            ("REDIS_PASSWORD", "pw"),
            ("REDIS_DB", "3"),
            ("REDIS_TLS", "true"),
        ])
        .redis;
        let sentinels = vec![("a".to_string(), 26379), ("::1".to_string(), 7000)];
        assert_eq!(redis.endpoint, RedisEndpoint::Sentinels { sentinels, master: "mymaster".into() });
        assert_eq!((redis.username.as_deref(), redis.database, redis.tls), (Some("api"), 3, true));
        assert_eq!(redis.sentinel_username.as_deref(), Some("asker"));
        let secret = |secret: Option<secrecy::SecretString>| secret.unwrap().expose_secret().to_string();
        assert_eq!((secret(redis.password), secret(redis.sentinel_password)), ("pw".to_string(), "sesame".to_string()));
        assert_eq!(good(&[("REDIS_SENTINELS", "  ")]).redis.endpoint, good(&[]).redis.endpoint, "blanks are nothing");
    }

    #[test]
    fn sentinels_need_a_name_and_exclude_a_url() {
        let starts = |pairs: &[(&str, &str)], expected: &[(&str, &str)]| {
            let lines = mistakes(pairs);
            assert_eq!(lines.len(), expected.len(), "{pairs:?}: {lines:#?}");
            for (line, (start, words)) in lines.iter().zip(expected) {
                assert!(line.starts_with(start) && line.contains(words), "{pairs:?}: {lines:#?}");
            }
        };
        let (list, name) = (("REDIS_SENTINELS", "a,b"), ("REDIS_SENTINEL_MASTER", "mymaster"));
        starts(&[list], &[("REDIS_SENTINEL_MASTER: ", "beside REDIS_SENTINELS")]);
        starts(&[name], &[("REDIS_SENTINELS: ", "beside REDIS_SENTINEL_MASTER")]);
        let url = ("REDIS_URL", "redis://:guppytrout@h");
        starts(&[list, name, url], &[("REDIS_SENTINELS: ", "not together with REDIS_URL")]);
        assert!(!mistakes(&[list, name, url])[0].contains("guppytrout"));
        starts(&[("REDIS_SENTINELS", "a:x"), name], &[("REDIS_SENTINELS=\"a:x\": ", "a port from 1 to 65535")]);
        starts(&[list, ("REDIS_SENTINEL_MASTER", "my master")], &[("REDIS_SENTINEL_MASTER=", "without blanks")]);
    }

    #[test]
    fn what_has_no_effect_beside_sentinels_or_without_them_is_told() {
        let (list, name) = (("REDIS_SENTINELS", "a,b"), ("REDIS_SENTINEL_MASTER", "mymaster"));
        let told = notices(&[list, name, ("REDIS_HOST", "not a host"), ("REDIS_PORT", "x")]);
        assert_eq!(told.len(), 2, "{told:?}");
        for (line, name) in told.iter().zip(["REDIS_HOST", "REDIS_PORT"]) {
            assert!(line.starts_with(&format!("{name}: not used, because REDIS_SENTINELS")), "{told:?}");
        }
        let told = notices(&[("REDIS_SENTINEL_USERNAME", "u"), ("REDIS_SENTINEL_PASSWORD", "guppytrout")]);
        assert!(told.len() == 2 && told.iter().all(|line| line.contains("no REDIS_SENTINELS")), "{told:?}");
        assert!(told.iter().all(|line| !line.contains("guppytrout")), "{told:?}");
        let told = notices(&[list, name, ("REDIS_SENTINEL_USERNAME", "u")]);
        assert!(told.len() == 1 && told[0].contains("no REDIS_SENTINEL_PASSWORD"), "{told:?}");
        let told = notices(&[("REDIS_SENTINELS", "a,a:26379,b"), name]);
        assert_eq!(told, ["REDIS_SENTINELS: a port 26379 is named twice"]);
    }
}
