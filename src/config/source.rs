//! Where settings come from: a list of variables, so that no other file of this folder touches the process environment.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

/// A set of environment variables.
///
/// The daemon reads [`ProcessEnvironment`]; tests and `flohctl --env-file` read a [`Variables`] map.
pub trait Source {
    /// Every variable of this source, in any order, each name once.
    fn variables(&self) -> Vec<(OsString, OsString)>;
}

/// The environment of this process, as systemd's `EnvironmentFile=` or a shell filled it.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnvironment;

impl Source for ProcessEnvironment {
    fn variables(&self) -> Vec<(OsString, OsString)> {
        std::env::vars_os().collect()
    }
}

/// Variables held in memory: an environment file that was read, or what a test wants to set.
///
/// It has no `Debug`, because values may be secrets.
#[derive(Clone, Default)]
pub struct Variables(BTreeMap<OsString, OsString>);

impl Variables {
    /// Sets one variable; a later value for the same name wins, as it does in systemd.
    pub fn set(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) {
        self.0.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
    }

    /// Whether a variable of this name is set, be it to the empty string.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(OsStr::new(name))
    }
}

impl<N: AsRef<OsStr>, V: AsRef<OsStr>> FromIterator<(N, V)> for Variables {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut variables = Self::default();
        for (name, value) in pairs {
            variables.set(name, value);
        }
        variables
    }
}

impl Source for Variables {
    fn variables(&self) -> Vec<(OsString, OsString)> {
        self.0.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}
