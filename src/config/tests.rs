//! The configuration as a whole: variables in, typed values, mistakes and notices out.

use super::*;
use secrecy::ExposeSecret;
use std::{fs, path::Path};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

fn load(pairs: &[(&str, &str)]) -> Result<(Config, Vec<Notice>), ConfigErrors> {
    Config::load(&pairs.iter().copied().collect::<Variables>())
}

pub(super) fn good(pairs: &[(&str, &str)]) -> Config {
    load(pairs).unwrap_or_else(|errors| panic!("{errors}")).0
}

pub(super) fn notices(pairs: &[(&str, &str)]) -> Vec<String> {
    let (_, notices) = load(pairs).unwrap_or_else(|errors| panic!("{errors}"));
    notices.iter().filter(|n| n.variable != "AUDIT_CHECKPOINT_KEY").map(ToString::to_string).collect()
}

/// The lines of all mistakes.
pub(super) fn mistakes(pairs: &[(&str, &str)]) -> Vec<String> {
    load(pairs).err().unwrap_or_else(|| panic!("accepted: {pairs:?}")).to_string().lines().map(str::to_string).collect()
}

fn password(config: &Config) -> Option<&str> {
    config.database.password.as_ref().map(ExposeSecret::expose_secret)
}

#[test]
fn the_tables_defaults_are_what_an_empty_environment_gives() {
    let defaults: Vec<_> = VARIABLES.iter().filter_map(|v| v.default.map(|default| (v.name, default))).collect();
    assert_eq!(format!("{:?}", good(&defaults)), format!("{:?}", good(&[])));
    let config = good(&[]);
    assert_eq!(config.database.host, DatabaseHost::Tcp("localhost".into()));
    assert_eq!((config.database.port, config.database.ssl), (5432, SslMode::Prefer));
    assert_eq!((config.queue.name.as_str(), config.queue.prefix.as_str()), ("workflow-scheduler", "bull"));
    assert_eq!(config.queue.max_job_bytes, 1024 * 1024);
    assert_eq!((config.worker.concurrency, config.worker.shutdown_timeout.as_secs()), (1, 30));
    assert_eq!(config.worker.stuck_run_timeout.as_secs(), 30 * 60);
    assert_eq!((config.log_level, config.worker.mode), (LogLevel::Info, None));
    assert!(config.audit.checkpoint_key.is_none());
}

#[test]
fn empty_variables_are_absent() {
    let empty: Vec<_> = VARIABLES.iter().map(|v| (v.name, "")).collect();
    assert_eq!(format!("{:?}", good(&empty)), format!("{:?}", good(&[])));
    assert_eq!(password(&good(&[("DB_PASSWORD", ""), ("DB_PASSWORD_FILE", "")])), None);
}

#[test]
fn every_mistake_is_reported_at_once_with_its_value() {
    let lines = mistakes(&[
        ("DB_PORT", "54x2"),
        ("DB_SSL", "true"),
        ("WORKER_CONCURRENCY", "0"),
        ("REDIS_TLS", "maybe"),
        ("AUDIT_CHECKPOINT_KEY", "guppytrout"),
        ("DB_SCHEMA", "Floh"),
        ("LOG_LEVEL", "loud"),
    ]);
    assert_eq!(lines.len(), 7, "{lines:#?}");
    assert!(lines.contains(&"DB_PORT=\"54x2\": a port from 1 to 65535 is expected".to_string()), "{lines:#?}");
    assert!(lines.iter().all(|line| !line.contains("guppytrout")), "{lines:#?}");
    for name in ["DB_SSL=", "WORKER_CONCURRENCY=", "REDIS_TLS=", "AUDIT_CHECKPOINT_KEY:", "DB_SCHEMA=", "LOG_LEVEL="] {
        assert!(lines.iter().any(|line| line.starts_with(name)), "{name}: {lines:#?}");
    }
}

#[test]
fn each_wrong_value_is_one_mistake() {
    for (name, value) in [
        ("DB_PORT", "0"),
        ("DB_PORT", "65536"),
        ("DB_PORT", "+5432"),
        ("DB_HOST", "a b"),
        ("DB_HOST", "localhost:5432"),
        ("DB_HOST", "postgres://localhost"),
        ("DB_HOST", "a,b"),
        ("DB_SSL", "verify-ca"),
        ("DB_SSL_CA", "relative.pem"),
        ("DB_SSL_CA", "/does/not/exist.pem"),
        ("DB_SSL_CA", "/etc/hostname"),
        ("DB_SCHEMA", "pg_floh"),
        ("DB_SCHEMA", "1floh"),
        ("DB_SCHEMA", "a-b"),
        ("DB_SCHEMA", "a234567890123456789012345678901234567890123456789"),
        ("REDIS_HOST", "/run/redis.sock"),
        ("REDIS_DB", "-1"),
        ("REDIS_DB", "zero"),
        ("QUEUE_NAME", "a:b"),
        ("QUEUE_NAME", "a b"),
        ("MAX_JOB_BYTES", "1023"),
        ("MAX_JOB_BYTES", "536870913"),
        ("MAX_JOB_BYTES", "1M"),
        ("WORKER_CONCURRENCY", "257"),
        ("WORKER_CONCURRENCY", "1.5"),
        ("SHUTDOWN_TIMEOUT_SECONDS", "32"),
        ("SHUTDOWN_TIMEOUT_SECONDS", "soon"),
        ("STUCK_RUN_TIMEOUT_MINUTES", "0"),
        ("AUDIT_CHECKPOINT_SCHEDULE", "hourly"),
        ("AUDIT_CHECKPOINT_SCHEDULE", "* * *"),
        ("AUDIT_CHECKPOINT_SCHEDULE", "61 * * * *"),
        ("AUDIT_CHECKPOINT_SCHEDULE", "0 0 31 4,6 *"),
        ("AUDIT_CHECKPOINT_SCHEDULE", "H * * * *"),
        ("AUDIT_CHECKPOINT_SCHEDULE", "0 H(1-5)/2 * * THU"),
        ("DB_PASSWORD_FILE", "relative"),
        ("DB_PASSWORD_FILE", "/does/not/exist"),
        ("DB_PASSWORD_FILE", "/"),
    ] {
        let lines = mistakes(&[(name, value)]);
        assert_eq!(lines.len(), 1, "{name}={value}: {lines:#?}");
        assert!(lines[0].starts_with(&format!("{name}=\"{value}\": ")), "{lines:#?}");
    }
}

#[test]
fn an_h_in_a_schedule_is_refused_with_what_to_write_and_a_thursday_is_none() {
    let refused = mistakes(&[("AUDIT_CHECKPOINT_SCHEDULE", "H * * * *")]);
    let why = "H stands for another time at each look: write a number of your choice, such as 17 * * * *";
    assert_eq!(refused, [format!("AUDIT_CHECKPOINT_SCHEDULE=\"H * * * *\": {why}")]);
    for schedule in ["17 3 * * THU", "@hourly", "30 17 * * * *"] {
        assert_eq!(good(&[("AUDIT_CHECKPOINT_SCHEDULE", schedule)]).audit.checkpoint_schedule, schedule);
    }
}

#[test]
fn values_are_read_as_people_write_them() {
    for (word, expected) in [("true", true), ("1", true), ("YES", true), ("false", false), ("0", false), ("no", false)]
    {
        assert_eq!(good(&[("REDIS_TLS", word)]).redis.tls, expected, "{word}");
    }
    assert_eq!(good(&[("DB_HOST", "[::1]")]).database.host, DatabaseHost::Tcp("::1".into()));
    assert_eq!(good(&[("DB_HOST", "10.0.0.7")]).database.host, DatabaseHost::Tcp("10.0.0.7".into()));
    assert_eq!(good(&[("LOG_LEVEL", "WARN")]).log_level, LogLevel::Warn);
    for bytes in [1024, 536_870_912] {
        assert_eq!(good(&[("MAX_JOB_BYTES", &bytes.to_string())]).queue.max_job_bytes, bytes);
    }
    assert_eq!(good(&[("SHUTDOWN_TIMEOUT_SECONDS", "31")]).worker.shutdown_timeout.as_secs(), 31);
    let socket = good(&[("DB_HOST", "/run/postgresql"), ("DB_SSL", "require")]).database;
    assert_eq!(socket.host, DatabaseHost::Socket("/run/postgresql".into()));
    assert_eq!(socket.ssl, SslMode::Disable, "PostgreSQL has no TLS on sockets");
    let key = good(&[("AUDIT_CHECKPOINT_KEY", KEY), ("AUDIT_CHECKPOINT_KEY_ID", "2026")]).audit.checkpoint_key.unwrap();
    assert_eq!((key.id.as_str(), key.hex.expose_secret()), ("2026", KEY));
}

#[test]
fn what_an_environment_file_does_not_do_is_explained() {
    for (value, reason) in [
        ("localhost # the database", "a comment after a value is part of the value"),
        ("\"localhost\"", "the quotes are part of the value"),
        ("'localhost'", "the quotes are part of the value"),
        ("localhost\r", "Windows line ends"),
        ("localhost\nDB_PORT=1", "several lines"),
    ] {
        let lines = mistakes(&[("DB_HOST", value)]);
        assert!(lines.len() == 1 && lines[0].contains(reason), "{value:?}: {lines:#?}");
    }
    assert_eq!(notices(&[("DB_HOST", " db ")]), ["DB_HOST: the blanks around the value are not used"]);
    let config = good(&[("DB_PASSWORD", "pa ss # word")]);
    assert_eq!(password(&config), Some("pa ss # word"), "a secret is used as it stands");
    let warned = notices(&[("DB_PASSWORD", "pa ss # word")]);
    assert!(warned.len() == 1 && warned[0].contains("comment") && !warned[0].contains("pa ss"), "{warned:?}");
}

#[test]
fn a_secret_comes_from_one_place() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    let file = put("password.txt", "from file \n");
    assert_eq!(password(&good(&[("DB_PASSWORD_FILE", &file)])), Some("from file "), "only the line end is cut");

    let credentials = folder.path().to_str().unwrap().to_string();
    put("db-password", "from credential\r\n");
    assert_eq!(password(&good(&[("CREDENTIALS_DIRECTORY", &credentials)])), Some("from credential"));

    for pairs in [
        [("DB_PASSWORD", "x"), ("DB_PASSWORD_FILE", file.as_str())],
        [("DB_PASSWORD", "x"), ("CREDENTIALS_DIRECTORY", &credentials)],
        [("DB_PASSWORD_FILE", &file), ("CREDENTIALS_DIRECTORY", &credentials)],
    ] {
        let lines = mistakes(&pairs);
        assert!(lines.len() == 1 && lines[0].starts_with("DB_PASSWORD: given more than once"), "{lines:#?}");
    }

    for (name, text) in [("empty", "\n"), ("lines", "a\nb\n")] {
        let path = put(name, text);
        assert_eq!(mistakes(&[("DB_PASSWORD_FILE", &path)]).len(), 1, "{name}");
    }
}

#[test]
fn every_secret_can_come_from_a_file_or_a_credential_and_never_shows() {
    for variable in VARIABLES.iter().filter(|v| v.secret) {
        let secret = match variable.name {
            "DATABASE_URL" => "postgres://u:guppytrout@h/d",
            "REDIS_URL" => "redis://:guppytrout@h",
            "AUDIT_CHECKPOINT_KEY" | "CONNECTOR_ENCRYPTION_KEY" | "CONNECTOR_ENCRYPTION_KEY_PREVIOUS" => KEY,
            _ => "guppytrout",
        };
        // The one before it is nothing without the current one.
        let beside = [("CONNECTOR_ENCRYPTION_KEY", KEY)];
        let beside = &beside[usize::from(variable.name != "CONNECTOR_ENCRYPTION_KEY_PREVIOUS")..];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(variable.credential());
        fs::write(&path, secret).unwrap();
        let path = |p: &Path| p.to_str().unwrap().to_string();
        // A password of the mail server is one together with a user.
        let beside = [beside, &[("SMTP_HOST", "h"), ("SMTP_USER", "u")]].concat();
        let good = |pair: (&str, &str)| good(&[&[pair], &beside[..]].concat());
        let direct = good((variable.name, secret));
        let file = good((variable.file_variable().as_str(), &path(&folder.path().join(variable.credential()))));
        let credential = good(("CREDENTIALS_DIRECTORY", &path(folder.path())));
        for config in [&direct, &file, &credential] {
            let given = config.database.password.is_some()
                || config.redis.password.is_some()
                || config.redis.sentinel_password.is_some()
                || config.audit.checkpoint_key.is_some()
                || config.connectors.key.is_some()
                || config.mail.server.as_ref().is_some_and(|server| server.login.is_some());
            assert!(given, "{}", variable.name);
            let debug = format!("{config:?}");
            assert!(!debug.contains("guppytrout") && !debug.contains(KEY), "{debug}");
        }
    }
}

#[test]
fn database_url_overrides_its_group() {
    let url = "postgresql://u%40x:p%2Fw@db.example:6000/floh%20db?sslmode=verify-full&application_name=api";
    let config = good(&[("DATABASE_URL", url), ("DB_HOST", "other"), ("DB_PORT", "nonsense"), ("DB_SCHEMA", "mine")]);
    let database = &config.database;
    assert_eq!(database.host, DatabaseHost::Tcp("db.example".into()));
    assert_eq!((database.port, database.name.as_str(), database.user.as_str()), (6000, "floh db", "u@x"));
    assert_eq!((password(&config), database.ssl, database.schema.as_str()), (Some("p/w"), SslMode::VerifyFull, "mine"));

    for url in [
        "postgres://floh@/floh?host=/run/postgresql",
        "postgres:///floh?host=%2Frun%2Fpostgresql&user=floh",
        "postgres://floh@%2Frun%2Fpostgresql/floh?sslmode=require",
    ] {
        let database = good(&[("DATABASE_URL", url)]).database;
        assert_eq!(database.host, DatabaseHost::Socket("/run/postgresql".into()), "{url}");
        assert_eq!((database.user.as_str(), database.ssl), ("floh", SslMode::Disable), "{url}");
    }
    for (parameter, ssl) in [
        ("ssl=true", SslMode::Require),
        ("ssl=0", SslMode::Disable),
        ("sslmode=no-verify", SslMode::Require),
        ("sslmode=disable", SslMode::Disable),
        ("sslrootcert=system", SslMode::VerifyFull),
        ("sslrootcert=system&sslmode=require", SslMode::Require),
    ] {
        let url = format!("postgres://h/d?{parameter}");
        assert_eq!(good(&[("DATABASE_URL", &url)]).database.ssl, ssl, "{parameter}");
    }
}

#[test]
fn mistakes_in_urls_show_nothing_of_them() {
    for (name, url) in [
        ("DATABASE_URL", "mysql://u:guppytrout@h/d"),
        ("DATABASE_URL", "postgres://u:guppy#trout@h/d"),
        ("DATABASE_URL", "postgres://u:guppy/trout@h/d"),
        ("DATABASE_URL", "postgres://u:12?guppytrout@h/d"),
        ("DATABASE_URL", "postgres://u:pw@guppytrout,other/d"),
        ("DATABASE_URL", "postgres://u:guppytrout@h:0/d"),
        ("DATABASE_URL", "postgres://u:guppytrout@h/d?sslmode=guppytrout"),
        ("DATABASE_URL", "guppytrout"),
        ("REDIS_URL", "http://guppytrout"),
        ("REDIS_URL", "redis://:guppytrout@h/notanumber"),
        ("REDIS_URL", "redis://:guppy/trout@h"),
        ("REDIS_URL", "unix://guppytrout"),
        ("REDIS_URL", "guppytrout"),
    ] {
        let lines = mistakes(&[(name, url)]);
        assert!(lines.len() == 1 && lines[0].starts_with(&format!("{name}: ")), "{url}: {lines:#?}");
        assert!(!lines[0].contains("guppy") && !lines[0].contains("trout"), "{lines:#?}");
    }
}

#[test]
fn what_a_url_silences_is_told() {
    let told = notices(&[("DATABASE_URL", "postgres://u@h/d"), ("DB_PASSWORD", "x"), ("DB_NAME", "y")]);
    assert!(told.len() == 1 && told[0].contains("overrides DB_PASSWORD and says nothing"), "{told:?}");
    let told = notices(&[("DATABASE_URL", "postgres://u:p@h/d"), ("DB_PASSWORD", "x"), ("DB_NAME", "y")]);
    assert_eq!(told, ["DATABASE_URL: it overrides DB_NAME, DB_PASSWORD"]);
    let told = notices(&[("REDIS_URL", "redis://h"), ("REDIS_PASSWORD", "x")]);
    assert!(told.len() == 1 && told[0].contains("overrides REDIS_PASSWORD"), "{told:?}");
    let told = notices(&[("DATABASE_URL", "postgres://h/d?pool_timeout=3")]);
    assert_eq!(told, ["DATABASE_URL: the worker does not use its parameter \"pool_timeout\""]);
}

#[test]
fn redis_url_overrides_its_group() {
    let redis = |url: &str| good(&[("REDIS_URL", url), ("REDIS_HOST", "other"), ("REDIS_DB", "9")]).redis;
    let tcp = |host: &str, port| RedisEndpoint::Tcp { host: host.to_string(), port };
    let config = redis("rediss://api:p%23w@cache.example:7000/3");
    assert_eq!(config.endpoint, tcp("cache.example", 7000));
    assert_eq!((config.tls, config.database, config.username.as_deref()), (true, 3, Some("api")));
    assert_eq!(config.password.unwrap().expose_secret(), "p#w");
    let config = redis("redis://[::1]");
    assert_eq!((config.endpoint, config.tls, config.database, config.username), (tcp("::1", 6379), false, 0, None));
    for url in ["unix:///run/redis/redis.sock?db=2&password=pw", "unix://:pw@/run/redis/redis.sock?db=2"] {
        let config = redis(url);
        assert_eq!(config.endpoint, RedisEndpoint::Unix("/run/redis/redis.sock".into()), "{url}");
        assert_eq!((config.database, config.password.unwrap().expose_secret()), (2, "pw"), "{url}");
    }
}

#[test]
fn authorities_are_read_when_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let ca = rcgen::generate_simple_self_signed(vec!["ca".to_string()]).unwrap();
    fs::write(&path, ca.cert.pem()).unwrap();
    let text = path.to_str().unwrap();
    let config = good(&[("DB_SSL_CA", text), ("REDIS_URL", "rediss://h"), ("REDIS_TLS_CA", text)]);
    assert_eq!((config.database.ssl_ca.as_deref(), config.redis.tls_ca.as_deref()), (Some(&*path), Some(&*path)));
    let url = format!("postgres://h/d?sslmode=verify-full&sslrootcert={text}");
    assert_eq!(good(&[("DATABASE_URL", &url)]).database.ssl_ca.as_deref(), Some(&*path));
    let told = notices(&[("DB_SSL", "disable"), ("DB_SSL_CA", text), ("REDIS_TLS_CA", text)]);
    assert_eq!(told.len(), 2, "{told:?}");
}

#[test]
fn authorities_that_nobody_asks_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let ca = rcgen::generate_simple_self_signed(vec!["ca".to_string()]).unwrap();
    fs::write(&path, ca.cert.pem()).unwrap();
    let file = path.to_str().unwrap();
    let url = |mode: &str| format!("postgres://h/d?{mode}sslrootcert={file}");
    let prefer = "is prefer, which takes any certificate";
    for (settings, told) in [
        (&[("DB_SSL_CA", file)][..], format!("DB_SSL_CA: not used, because DB_SSL {prefer}: set DB_SSL=verify-full")),
        (&[("DB_SSL", "disable"), ("DB_SSL_CA", file)], "DB_SSL_CA: not used, because DB_SSL is disable".into()),
        (
            &[("DB_HOST", "/run/postgresql"), ("DB_SSL_CA", file)],
            "DB_SSL_CA: not used, because over a socket there is no TLS".into(),
        ),
        (
            &[("DATABASE_URL", &url(""))],
            format!("DATABASE_URL: its sslrootcert is not used, because sslmode {prefer}: set sslmode=verify-full"),
        ),
    ] {
        assert_eq!(notices(settings), [told]);
    }
    for settings in [
        [("DB_SSL", "require"), ("DB_SSL_CA", file)],
        [("DB_SSL", "verify-full"), ("DB_SSL_CA", file)],
        [("DATABASE_URL", &url("sslmode=require&")), ("LOG_LEVEL", "info")],
    ] {
        assert_eq!(notices(&settings), [""; 0]);
    }
    let wrong = load(&[("DB_SSL", "verify-ca"), ("DB_SSL_CA", file)]).err().unwrap();
    let told: Vec<_> = wrong.notices.iter().map(|notice| notice.variable.as_str()).collect();
    assert_eq!((wrong.mistakes.len(), told), (1, vec!["AUDIT_CHECKPOINT_KEY"]));
}

#[test]
fn notices_for_what_is_shared_with_the_api_server() {
    assert_eq!(notices(&[("WORKER_MODE", "separate"), ("LOG_RETENTION_DAYS", "30"), ("NODE_ENV", "x")]), [""; 0]);
    let told = notices(&[("WORKER_MODE", "combined")]);
    assert_eq!(told, ["WORKER_MODE: \"combined\", not \"separate\": the API server consumes this queue too"]);
    assert_eq!(notices(&[("LOG_LEVEL", "silent")]).len(), 1);
    assert_eq!(notices(&[("REDIS_HSOT", "x")]), ["REDIS_HSOT: not known, is REDIS_HOST meant?"]);
    assert_eq!(notices(&[("DB_HOST_FILE", "x")]).len(), 1);
}

#[test]
fn a_missing_key_is_one_warning_and_a_wrong_one_is_none() {
    let (_, told) = load(&[]).unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].severity, told[0].variable.as_str()), (Severity::Warning, "AUDIT_CHECKPOINT_KEY"));
    assert!(load(&[("AUDIT_CHECKPOINT_KEY", KEY)]).unwrap().1.is_empty());
    assert!(load(&[("AUDIT_CHECKPOINT_KEY", "short")]).unwrap_err().notices.is_empty());
}

#[test]
fn near_misses_are_told_beside_mistakes() {
    let errors = load(&[("DB_PROT", "1"), ("DB_PORT", "x")]).unwrap_err();
    assert!(errors.notices.iter().any(|n| n.variable == "DB_PROT"), "{errors:?}");
}

#[test]
fn values_that_are_no_text_are_mistakes_for_our_names_only() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let mut variables = Variables::default();
    variables.set("OTHER", OsStr::from_bytes(b"\xff"));
    assert!(Config::load(&variables).is_ok());
    variables.set("DB_NAME", OsStr::from_bytes(b"\xff"));
    assert_eq!(Config::load(&variables).unwrap_err().to_string(), "DB_NAME: the value is not UTF-8 text");
}

#[test]
fn a_job_may_run_as_long_as_its_name_says_and_else_as_any() {
    let timeouts = |pairs: &[(&str, &str)]| good(pairs).worker.job_timeouts;
    assert_eq!(timeouts(&[]).of("x").as_secs(), 900);
    let given = timeouts(&[("JOB_TIMEOUT_SECONDS", "60"), ("JOB_TIMEOUTS", "audit-checkpoint=3600, my.job = 5")]);
    assert_eq!(["audit-checkpoint", "my.job", "x"].map(|name| given.of(name).as_secs()), [3600, 5, 60]);
}

#[test]
fn each_wrong_entry_of_a_list_of_timeouts_is_a_mistake_of_its_own() {
    let lines =
        mistakes(&[("JOB_TIMEOUTS", "a=1,b,=3,c=,d=0,e=86401,a=2,f=1.5,g h=1,,ok=7"), ("JOB_TIMEOUT_SECONDS", "0")]);
    let begin = ["JOB_TIMEOUT_SECONDS=\"0\": a number of seconds from 1 to 86400 is expected".to_string()];
    let entry = |entry: &str, expected: &str| format!("JOB_TIMEOUTS=\"{entry}\": {expected}");
    let shape = "name=seconds is expected, with commas between";
    let range = "a number of seconds from 1 to 86400 is expected";
    let wrong = [
        entry("b", shape),
        entry("=3", shape),
        entry("c=", shape),
        entry("d=0", range),
        entry("e=86401", range),
        entry("a=2", "\"a\" is named twice: keep one of them"),
        entry("f=1.5", range),
        entry("g h=1", shape),
        entry("", shape),
    ];
    assert_eq!(lines, begin.into_iter().chain(wrong).collect::<Vec<_>>());
}
