//! `serve`: reads the configuration, then is the daemon until SIGTERM or SIGINT.

use std::path::{Path, PathBuf};

use heirloom_proto::reason::exit;
use heirloom_region::mapping::Mapping;

use super::failed::Failed;
use super::print::Printer;
use super::{config as config_verb, verify};
use crate::args::{Global, LogLines, Serve};
use crate::config::{Config, LogFormat, Overrides, Verdict};
use crate::serve::region_files::same_name;
use crate::serve::{ServeError, log, run as daemon, signalled};

pub(crate) fn run(printer: Printer, global: &Global, args: &Serve) -> Result<u8, Failed> {
    let overrides = Overrides {
        socket: global.socket.clone().map(Into::into),
        region_dir: args.region_dir.clone(),
        grpc_listen: args.grpc_listen.clone(),
        http_listen: args.http_listen.clone(),
        remote_write_url: args.remote_write_url.clone(),
        log_format: args.log_format.map(|format| match format {
            LogLines::Text => LogFormat::Text,
            LogLines::Json => LogFormat::Json,
        }),
    };
    let config = Config::load(args.config.as_deref(), overrides).map_err(|e| config_verb::wrong(&e))?;
    if args.check {
        let mut all = config.check();
        let (found, worst) = regions(&config.server.region_dir);
        // Without a configuration that is good nothing starts; a bad region is set aside while the others serve.
        let worst = worst.filter(|_| all.iter().all(|verdict| verdict.ok));
        all.extend(found);
        return Ok(config_verb::verdicts(printer, &all, worst));
    }
    log::init(&config.log).map_err(|e| stopped(&e))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failed::io("runtime", &e))?;
    let ended = runtime.block_on(async { daemon(config, signalled()?).await });
    ended.map_err(|e| stopped(&e))?;
    Ok(exit::DONE)
}

fn stopped(error: &ServeError) -> Failed {
    match error {
        ServeError::Config(e) => config_verb::wrong(e),
        ServeError::Busy { .. } | ServeError::SocketInUse { .. } | ServeError::NotASocket { .. } => {
            Failed { exit_code: exit::REFUSED, reason: None, ..Failed::usage(error.to_string()) }
        }
        _ => Failed::io("serve", &std::io::Error::other(error.to_string())),
    }
}

/// Opens every region on disk, to read only: what is found, and the worst that a start would set aside.
fn regions(dir: &Path) -> (Vec<Verdict>, Option<Failed>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return (vec![], None) };
    // Hidden files are the sidecar's own: its lock, regions not yet complete.
    let is_region =
        |path: &PathBuf| path.is_file() && !path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_region).collect();
    paths.sort();
    let (mut verdicts, mut worst) = (vec![], None::<Failed>);
    for path in &paths {
        let (ok, message) = match judge(path) {
            Ok(message) => (true, message),
            Err(failed) => {
                let message = failed.text().replace('\n', ";");
                worst = worst.filter(|worst| worst.exit_code >= failed.exit_code).or(Some(failed));
                (false, message)
            }
        };
        verdicts.push(Verdict { key: path.display().to_string(), ok, message });
    }
    (verdicts, worst)
}

/// One file, as a start would look at it.
fn judge(path: &Path) -> Result<String, Failed> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if heirloom_region::name::region(name).is_err() {
        return Ok("not a region's name, left alone".to_owned());
    }
    let opened = Mapping::open_file(path, true).and_then(|mapping| same_name(name, mapping));
    let region = opened.map_err(|e| verify::region_error(path, &e))?;
    Ok(format!("{} bytes of {} used", region.used_bytes(), region.limit_bytes()))
}
