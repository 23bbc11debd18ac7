//! The run directory while the agent runs: somebody may remove it, and with it the sockets by which everybody reaches the
//! agent, and the files that the next process needs. It is looked at twice a second, which costs three system calls.

use std::{
    fs::{self, File},
    io,
    os::unix::{fs::MetadataExt, net::UnixListener},
    path::{Path, PathBuf},
};

use anyhow::Context;
use tokio::task::JoinHandle;

use super::{alone, control::Control, core::Core, former, plugin_socket, service::Service};
use crate::api;

/// Which file a path leads to: device and inode.
type FileId = (u64, u64);

fn id_of(path: &Path) -> Option<FileId> {
    fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// A marker: the neighbours of an agent of this boot have told what they know, or have been waited for.
const TOLD: &str = "neighbours.told";

/// Whether an agent of this boot has waited for its neighbours.
pub(super) fn told(run_dir: &Path) -> bool {
    run_dir.join(TOLD).exists()
}

/// Tells the next process that the neighbours need not be waited for.
pub(super) fn note_told(run_dir: &Path) {
    if let Err(error) = fs::write(run_dir.join(TOLD), "") {
        tracing::warn!(%error, "the next agent is going to wait for its neighbours");
    }
}

/// The sockets in the run directory, and that it is ours.
pub(super) struct RunDir {
    path: PathBuf,
    /// Our routes' protocol number, of which a file there tells.
    protocol: u8,
    /// Empty files there, by which the next process knows something.
    markers: Vec<PathBuf>,
    service: Service,
    control: (JoinHandle<()>, Option<FileId>),
    plugins: (UnixListener, Option<FileId>),
    /// The lock's file; after the first one was lost, also held here.
    lock: (Option<File>, Option<FileId>),
    /// What was wrong at the last look, so that it is told once.
    trouble: String,
}

impl RunDir {
    /// Listens. The caller holds the directory's lock.
    pub(super) fn open(
        path: &Path,
        protocol: u8,
        markers: Vec<PathBuf>,
        service: &Service,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            control: listen(path, service)?,
            plugins: listen_for_plugins(path, service)?,
            lock: (None, id_of(&path.join(alone::LOCK))),
            path: path.to_owned(),
            protocol,
            markers,
            service: service.clone(),
            trouble: String::new(),
        })
    }

    /// Puts back what has been removed since the last look.
    pub(super) async fn look(&mut self) {
        let is = |name: &str, id: Option<FileId>| id.is_some() && id_of(&self.path.join(name)) == id;
        let lock = is(alone::LOCK, self.lock.1);
        let sockets = is(api::SOCKET_NAME, self.control.1) && is(api::PLUGIN_SOCKET_NAME, self.plugins.1);
        if lock && sockets {
            self.trouble.clear();
            return;
        }
        match self.put_back(lock).await {
            Ok(()) => tracing::warn!(run_dir = %self.path.display(), "files were removed from it: put back"),
            Err(error) => {
                let trouble = format!("{error:#}");
                if trouble != self.trouble {
                    tracing::error!(run_dir = %self.path.display(), "what was removed cannot be put back: {trouble}");
                }
                self.trouble = trouble;
            }
        }
    }

    async fn put_back(&mut self, locked: bool) -> anyhow::Result<()> {
        if !locked {
            // Whoever has it by now has it.
            let file = alone::lock(&self.path, 0)?;
            self.lock = (Some(file), id_of(&self.path.join(alone::LOCK)));
        }
        // The old one goes first: it removes its file when it ends.
        self.control.0.abort();
        _ = (&mut self.control.0).await;
        self.control = listen(&self.path, &self.service)?;
        end(&self.plugins.0);
        self.plugins = listen_for_plugins(&self.path, &self.service)?;
        for marker in &self.markers {
            fs::write(marker, "").with_context(|| format!("cannot write {}", marker.display()))?;
        }
        if self.service.gate().is_open() {
            note_told(&self.path);
        }
        former::take_over(&self.path, self.protocol)?;
        Ok(self.service.core().ask(Core::write_files).await?)
    }

    /// Listens no longer.
    pub(super) fn close(&self) {
        self.control.0.abort();
        // A leftover file does no harm: the next start removes it.
        _ = fs::remove_file(self.path.join(api::PLUGIN_SOCKET_NAME));
    }
}

fn listen(dir: &Path, service: &Service) -> anyhow::Result<(JoinHandle<()>, Option<FileId>)> {
    let path = dir.join(api::SOCKET_NAME);
    let control = Control::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let service = service.clone();
    Ok((tokio::spawn(async move { control.serve(service).await }), id_of(&path)))
}

fn listen_for_plugins(dir: &Path, service: &Service) -> anyhow::Result<(UnixListener, Option<FileId>)> {
    let path = dir.join(api::PLUGIN_SOCKET_NAME);
    let listener = plugin_socket::start(&path, service.core().clone(), service.gate().clone())
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    Ok((listener, id_of(&path)))
}

/// Ends the thread that accepts.
fn end(listener: &UnixListener) {
    let done: io::Result<()> = socket2::SockRef::from(listener).shutdown(std::net::Shutdown::Both);
    if let Err(error) = done {
        tracing::debug!(%error, "the thread of the former plugin socket stays");
    }
}
