//! Where flohctl's settings come from: the environment or files, never a mixture of both.
//!
//! `flohctl migrate`, typed by root on a machine with the package, means the service's own file; the same command within
//! a container or a test means the environment it was given. Mixing the two could take one server's address and another
//! one's password.

use crate::config::{ConfigErrors, Mistake, ProcessEnvironment, Source, Variables, envfile, envfile::Remark};
use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The service's own settings.
const SERVICE_FILE: &str = "/etc/floh/env";

/// Settings and where they came from.
pub(super) struct Settings {
    pub(super) variables: Variables,
    /// For people: the files, or "the environment".
    pub(super) origin: String,
    /// What is remarkable about each file's text and mode.
    pub(super) remarks: Vec<(PathBuf, Remark)>,
    /// Files that others than their owner's group may read.
    pub(super) exposed: Vec<PathBuf>,
}

/// The settings that are meant: `files` if any are given, in systemd's order (later ones win); otherwise the environment
/// where it says which servers to use, or else the service's file where it exists.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn find(files: &[PathBuf]) -> Result<Settings, ConfigErrors> {
    if !files.is_empty() {
        return from_files(files);
    }
    let environment = ProcessEnvironment.variables();
    let service = PathBuf::from(SERVICE_FILE);
    if names_servers(&environment) || !service.exists() {
        return Ok(Settings {
            variables: environment.into_iter().collect(),
            origin: "the environment".to_string(),
            remarks: Vec::new(),
            exposed: Vec::new(),
        });
    }
    from_files(&[service])
}

/// Whether the environment says which servers to use.
fn names_servers(environment: &[(OsString, OsString)]) -> bool {
    let ours = |name: &str| {
        ["DATABASE_URL", "REDIS_URL"].contains(&name) || name.starts_with("DB_") || name.starts_with("REDIS_")
    };
    environment.iter().any(|(name, value)| !value.is_empty() && name.to_str().is_some_and(ours))
}

fn from_files(files: &[PathBuf]) -> Result<Settings, ConfigErrors> {
    let mut settings = Settings {
        variables: Variables::default(),
        origin: files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", "),
        remarks: Vec::new(),
        exposed: Vec::new(),
    };
    for path in files {
        let content = fs::read(path).map_err(|error| unreadable(path, &error))?;
        let file = envfile::parse(&content);
        for (name, value) in file.variables.variables() {
            settings.variables.set(name, value);
        }
        settings.remarks.extend(file.remarks.into_iter().map(|remark| (path.clone(), remark)));
        let mode = fs::metadata(path).map_err(|error| unreadable(path, &error))?.permissions().mode();
        if mode & 0o007 != 0 {
            settings.exposed.push(path.clone());
        }
    }
    Ok(settings)
}

fn unreadable(path: &Path, error: &std::io::Error) -> ConfigErrors {
    let mistake = Mistake {
        variable: path.display().to_string(),
        value: None,
        expected: format!("the file cannot be read: {error}"),
    };
    ConfigErrors { mistakes: vec![mistake], notices: Vec::new() }
}
