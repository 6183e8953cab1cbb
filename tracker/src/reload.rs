//! Files that are read again when they change, while the tracker runs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::{Error, metrics::Counters};

/// Files of one folder that are looked at.
const FOLDER_FILES_MAX: usize = 1000;

/// How files looked: differs after any of them was replaced, written or removed.
type Stamp = BTreeSet<(PathBuf, Option<(SystemTime, u64)>)>;
type Load<T> = Box<dyn Fn() -> Result<T, Error> + Send + Sync>;

/// What was seen when files were read last.
#[derive(Debug)]
struct Read {
    stamp: Stamp,
    /// They were of no use then. They are tried again: that may have been the disk's fault, not theirs.
    failed: bool,
}

/// What was made of files; replaced as a whole when they change. Files that cannot be used leave
/// what is there in place.
pub(crate) struct Live<T> {
    what: &'static str,
    /// Folders stand for the files in them.
    files: Vec<PathBuf>,
    load: Load<T>,
    read: Mutex<Read>,
    value: ArcSwap<T>,
}

impl<T: Send + Sync + 'static> Live<T> {
    /// Reads the files; `what` names them in logs.
    pub(crate) fn open(
        what: &'static str,
        files: Vec<PathBuf>,
        load: impl Fn() -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let read = Mutex::new(Read {
            stamp: stamp_of(&files),
            failed: false,
        });
        let value = ArcSwap::from_pointee(load()?);
        Ok(Self {
            what,
            files,
            load: Box::new(load),
            read,
            value,
        })
    }

    /// What holds now.
    pub(crate) fn get(&self) -> arc_swap::Guard<Arc<T>> {
        self.value.load()
    }
}

impl<T> std::fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// Something that follows its files.
pub(crate) trait Refresh: Send + Sync {
    /// Reads the files again if they have changed. Whether they are what holds: false where they are of
    /// no use. Blocks.
    fn refresh(&self) -> bool;
}

impl<T: Send + Sync + 'static> Refresh for Live<T> {
    fn refresh(&self) -> bool {
        let seen = stamp_of(&self.files);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = read.stamp != seen;
        if !changed && !read.failed {
            return true;
        }
        let loaded = (self.load)();
        read.failed = loaded.is_err();
        read.stamp = seen;
        match loaded {
            Ok(value) => {
                self.value.store(Arc::new(value));
                tracing::info!(what = self.what, "read again");
            }
            // Said once for each change.
            Err(error) if changed => {
                tracing::error!(what = self.what, %error, "kept as it was: the new files are bad");
            }
            Err(_) => {}
        }
        !read.failed
    }
}

/// All that follows files.
#[derive(Default)]
pub(crate) struct Reloader {
    all: Vec<Arc<dyn Refresh>>,
}

impl Reloader {
    pub(crate) fn add(&mut self, live: Arc<dyn Refresh>) {
        self.all.push(live);
    }

    /// Reads what has changed again. How many of those that follow files hold on to older ones.
    /// Blocks.
    pub(crate) fn refresh(&self) -> u64 {
        let outdated = self.all.iter().filter(|live| !live.refresh());
        outdated.count() as u64
    }

    /// Looks at the files every `interval` until `stop`.
    pub(crate) fn spawn(
        self,
        interval: Duration,
        counters: Arc<Counters>,
        stop: CancellationToken,
    ) {
        if self.all.is_empty() {
            return;
        }
        let this = Arc::new(self);
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            loop {
                tokio::time::sleep(interval).await;
                let this = Arc::clone(&this);
                match tokio::task::spawn_blocking(move || this.refresh()).await {
                    Ok(outdated) => Counters::set(&counters.files_outdated, outdated),
                    Err(error) => tracing::error!(%error, "looking for changed files broke off"),
                }
            }
        }));
    }
}

/// The files in a folder whose names end with `.extension`, in order.
pub(crate) fn files_in(folder: &Path, extension: &str) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)?.take(FOLDER_FILES_MAX) {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == extension) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn stamp_of(files: &[PathBuf]) -> Stamp {
    let look = |path: &Path| {
        let data = fs::metadata(path).ok()?;
        Some((data.modified().ok()?, data.len()))
    };
    let mut stamp = Stamp::new();
    for file in files {
        stamp.insert((file.clone(), look(file)));
        for entry in fs::read_dir(file)
            .into_iter()
            .flatten()
            .take(FOLDER_FILES_MAX)
            .flatten()
        {
            stamp.insert((entry.path(), look(&entry.path())));
        }
    }
    stamp
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    static FAILING: AtomicBool = AtomicBool::new(false);

    fn number(path: &Path) -> Result<u32, Error> {
        if FAILING.load(Ordering::Relaxed) {
            return Err(Error::Config("the disk fails".into()));
        }
        let text = fs::read_to_string(path).unwrap_or_default();
        text.trim()
            .parse()
            .map_err(|_| Error::Config(format!("{text:?} is no number")))
    }

    #[test]
    fn changed_files_are_read_again_and_bad_ones_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        fs::write(&path, "1").unwrap();
        let read = path.clone();
        let live = Live::open("a number", vec![folder.path().into()], move || {
            number(&read)
        })
        .unwrap();
        for (content, expected) in [("22", 22), ("rubbish", 22), ("333", 333)] {
            fs::write(&path, content).unwrap();
            live.refresh();
            assert_eq!(**live.get(), expected, "{content}");
        }
        FAILING.store(true, Ordering::Relaxed);
        fs::write(&path, "4444").unwrap();
        assert!(!live.refresh());
        assert_eq!(**live.get(), 333, "it could not be read");
        FAILING.store(false, Ordering::Relaxed);
        assert!(live.refresh());
        assert_eq!(**live.get(), 4444, "now it can, unchanged as it is");
        fs::remove_file(&path).unwrap();
        live.refresh();
        assert_eq!(**live.get(), 4444, "a file that is gone");
        assert!(Live::open("missing", vec![], move || number(&path)).is_err());
    }
}
