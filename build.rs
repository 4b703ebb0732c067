//! Finds BullMQ's own Lua scripts in the `bullmq-official` package and hands their folder to the compiler.
//!
//! The scripts are BullMQ's protocol: they are taken as published, never copied into this tree. `src/queue/scripts.rs`
//! includes each by `concat!(env!("BULLMQ_COMMANDS"), "/name-N.lua")`.

use cargo_metadata::MetadataCommand;
use std::{env, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rerun-if-changed=build.rs");
    // The migrations are embedded by a macro, which cargo does not see reading their folder.
    println!("cargo::rerun-if-changed=migrations");
    match find_commands() {
        Ok(folder) => println!("cargo::rustc-env=BULLMQ_COMMANDS={}", folder.display()),
        Err(reason) => {
            println!("cargo::error=BullMQ's scripts were not found: {reason}");
        }
    }
}

/// The folder with the published `*.lua` files of the pinned `bullmq-official`.
fn find_commands() -> Result<PathBuf, String> {
    let target = env::var("TARGET").map_err(|e| format!("TARGET: {e}"))?;
    let manifest = env::var("CARGO_MANIFEST_DIR").map_err(|e| format!("CARGO_MANIFEST_DIR: {e}"))?;
    let ask = |offline: bool| {
        let mut options = vec!["--locked".to_string(), "--filter-platform".to_string(), target.clone()];
        if offline {
            options.push("--offline".to_string());
        }
        MetadataCommand::new().manifest_path(format!("{manifest}/Cargo.toml")).other_options(options).exec()
    };
    // A plain `cargo build` does not download dev-dependencies; on a machine that has none of them yet, the second
    // question lets cargo fetch what Cargo.lock pins. Offline builds (vendored, Debian's) are answered by the first.
    let metadata = ask(true).or_else(|_| ask(false)).map_err(|e| format!("{e}; `cargo fetch --locked` helps"))?;
    let package = metadata
        .packages
        .iter()
        .find(|p| p.name.as_str() == "bullmq-official")
        .ok_or("Cargo.lock does not name the package bullmq-official")?;
    let folder = package.manifest_path.parent().ok_or("its manifest has no folder")?.join("src/commands");
    if folder.join("moveToActive-11.lua").is_file() {
        Ok(folder.into_std_path_buf())
    } else {
        Err(format!("{folder} has no moveToActive-11.lua: another version of the package than this code knows"))
    }
}
