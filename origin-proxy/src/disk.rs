//! The cache's second tier: objects in files, which survive restarts.
//!
//! A file is written under another name, then renamed, and carries a digest of all that is
//! in it, which is checked whenever it is read: what a crash or a bad disk leaves is never served.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, config::DiskConfig, freshness::Freshness, object::Object};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;

/// The tier. All its methods but [`Disk::has`], [`Disk::size`] and [`Disk::begin`] block on the disk.
pub(crate) struct Disk {
    directory: PathBuf,
    bytes_max: u64,
    objects_max: usize,
    fresh_min: Duration,
    index: Mutex<Index>,
    /// Held while files get their names or lose them: what is removed must not come back by a write that
    /// was under way. Locked before `index`, which nobody holds while waiting for the disk.
    naming: Mutex<()>,
}

/// An object that is about to be written. [`Disk::remove`] calls it off.
pub(crate) struct Writing {
    id: u64,
    key: String,
}

#[derive(Default)]
struct Index {
    places: HashMap<Arc<str>, Place>,
    /// Keys by when they were last used, the longest ago first.
    by_use: BTreeMap<u64, Arc<str>>,
    uses: u64,
    /// Keys of what is about to be written.
    writes: HashMap<u64, String>,
    writes_begun: u64,
    bytes: u64,
}

#[derive(Clone, Debug)]
struct Place {
    len: u64,
    last_use: u64,
}

/// What is written before the body.
#[derive(Serialize, Deserialize)]
struct Meta {
    key: String,
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    stored_unix_ms: u64,
    fresh_ms: u64,
    revalidate_ms: u64,
    stale_ms: u64,
    body_len: u64,
}

/// First bytes of a file: format and version.
const MAGIC: &[u8; 8] = b"shoalob1";
const DIGEST_LEN: usize = 32;
const META_LEN_MAX: usize = 256 * 1024;
/// Bytes before the meta data: magic, digest of all after it, length of the meta data.
const HEAD_LEN: usize = MAGIC.len() + DIGEST_LEN + 4;
const SUFFIX: &str = "object";
const SUFFIX_UNFINISHED: &str = "part";

impl Disk {
    /// Opens the folder that `config` names, if any, and lists what is in it.
    pub(crate) fn open(config: &DiskConfig) -> Result<Option<Self>, Error> {
        let Some(directory) = &config.directory else {
            return Ok(None);
        };
        let blame = |error: io::Error| {
            Error::Environment(format!("disk cache {}: {error}", directory.display()))
        };
        fs::create_dir_all(directory).map_err(blame)?;
        let disk = Self {
            directory: directory.clone(),
            bytes_max: config.bytes_max,
            objects_max: config.objects_max,
            fresh_min: Duration::from_secs(config.fresh_s_min),
            index: Mutex::default(),
            naming: Mutex::default(),
        };
        disk.list().map_err(blame)?;
        Ok(Some(disk))
    }

    /// Whether an object is worth writing.
    pub(crate) fn wants(&self, object: &Object) -> bool {
        object.status == StatusCode::OK
            && object.raw.is_none()
            && object.freshness.fresh >= self.fresh_min
            && (object.body.len() as u64) < self.bytes_max / 4
    }

    /// Whether there is something under `key`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.lock().places.contains_key(key)
    }

    /// Bytes and objects.
    pub(crate) fn size(&self) -> (u64, usize) {
        let index = self.lock();
        (index.bytes, index.places.len())
    }

    /// Notes that the object under `key` will be written. What removes that key from here on, removes this.
    pub(crate) fn begin(&self, key: &str) -> Writing {
        let mut index = self.lock();
        index.writes_begun += 1;
        let id = index.writes_begun;
        index.writes.insert(id, key.into());
        Writing {
            id,
            key: key.into(),
        }
    }

    /// Writes an object, and makes room for it, unless it has been removed since [`Disk::begin`].
    pub(crate) fn store(&self, write: &Writing, object: &Object) -> io::Result<()> {
        let file = self.file_of(&write.key);
        let unfinished = file.with_extension(format!("{}.{SUFFIX_UNFINISHED}", write.id));
        let written = encode_head(&write.key, object).and_then(|head| {
            write_file(&unfinished, &head, &object.body)?;
            Ok((head.len() + object.body.len()) as u64)
        });
        let named = written.and_then(|len| self.name(write, &unfinished, file, len));
        if !matches!(named, Ok(true)) {
            self.lock().writes.remove(&write.id);
            let _ = fs::remove_file(&unfinished);
        }
        named.map(drop)
    }

    /// Gives what is written its name, unless it has been removed. Returns whether it has one.
    fn name(
        &self,
        write: &Writing,
        unfinished: &Path,
        file: PathBuf,
        len: u64,
    ) -> io::Result<bool> {
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        if self.lock().writes.remove(&write.id).is_none() {
            return Ok(false);
        }
        fs::rename(unfinished, &file)?;
        let evicted = {
            let mut index = self.lock();
            index.put(&write.key, len);
            index.evict(self.bytes_max, self.objects_max)
        };
        self.remove_files(&evicted);
        Ok(true)
    }

    /// Reads an object. What is damaged is removed, and an error.
    pub(crate) fn load(&self, key: &str) -> io::Result<Option<Object>> {
        if !self.lock().touch(key) {
            return Ok(None);
        }
        let loaded = fs::read(self.file_of(key)).and_then(|bytes| decode(&bytes.into(), key));
        if loaded.is_err() {
            self.remove_one(key);
        }
        loaded.map(Some)
    }

    /// Removes all objects whose keys `is_it` picks, also those that are about to be written. Returns the
    /// number of those that were there.
    pub(crate) fn remove(&self, is_it: impl Fn(&str) -> bool) -> usize {
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = self.lock().remove(is_it);
        self.remove_files(&removed);
        removed.len()
    }

    /// Removes the object under `key`, also if it is about to be written.
    pub(crate) fn remove_one(&self, key: &str) {
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        let was_there = {
            let mut index = self.lock();
            index.writes.retain(|_, written| written != key);
            index.drop_one(key)
        };
        if was_there {
            self.remove_files(&[key]);
        }
    }

    fn remove_files(&self, keys: &[impl AsRef<str>]) {
        for key in keys {
            let _ = fs::remove_file(self.file_of(key.as_ref()));
        }
    }

    fn list(&self) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            match path.extension().and_then(|suffix| suffix.to_str()) {
                Some(SUFFIX) => match read_meta(&path) {
                    Ok((meta, len)) if path == self.file_of(&meta.key) => {
                        found.push((meta.stored_unix_ms, meta.key, len));
                    }
                    _ => drop(fs::remove_file(&path)),
                },
                Some(SUFFIX_UNFINISHED) => drop(fs::remove_file(&path)),
                _ => {}
            }
        }
        found.sort();
        let evicted = {
            let mut index = self.lock();
            for (_, key, len) in found {
                index.put(&key, len);
            }
            index.evict(self.bytes_max, self.objects_max)
        };
        self.remove_files(&evicted);
        Ok(())
    }

    fn file_of(&self, key: &str) -> PathBuf {
        let name = hex::encode(&Sha256::digest(key)[..20]);
        self.directory.join(name).with_extension(SUFFIX)
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn put(&mut self, key: &str, len: u64) {
        self.drop_one(key);
        self.uses += 1;
        let last_use = self.uses;
        self.bytes += len;
        let key: Arc<str> = key.into();
        self.by_use.insert(last_use, key.clone());
        self.places.insert(key, Place { len, last_use });
    }

    /// Notes that the object under `key` is used. Returns whether there is one.
    fn touch(&mut self, key: &str) -> bool {
        let Some(place) = self.places.get_mut(key) else {
            return false;
        };
        self.uses += 1;
        let key = self.by_use.remove(&place.last_use);
        place.last_use = self.uses;
        self.by_use.extend(key.map(|key| (self.uses, key)));
        true
    }

    /// Returns whether it was there.
    fn drop_one(&mut self, key: &str) -> bool {
        let Some(place) = self.places.remove(key) else {
            return false;
        };
        self.by_use.remove(&place.last_use);
        self.bytes -= place.len;
        true
    }

    /// Returns the keys that had to go.
    fn evict(&mut self, bytes_max: u64, objects_max: usize) -> Vec<Arc<str>> {
        let mut keys = Vec::new();
        while self.bytes > bytes_max || self.places.len() > objects_max {
            let Some((_, key)) = self.by_use.pop_first() else {
                break;
            };
            self.drop_one(&key);
            keys.push(key);
        }
        keys
    }

    fn remove(&mut self, is_it: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let keys = self.places.keys().filter(|key| is_it(key));
        let keys: Vec<Arc<str>> = keys.cloned().collect();
        self.writes.retain(|_, key| !is_it(key));
        for key in &keys {
            self.drop_one(key);
        }
        keys
    }
}

fn write_file(path: &Path, head: &[u8], body: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(head)?;
    file.write_all(body)?;
    // No sync: a file that the power took away in the middle has a digest that does not fit.
    file.flush()
}

fn encode_head(key: &str, object: &Object) -> io::Result<Vec<u8>> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let stored = SystemTime::now()
        .checked_sub(object.stored.elapsed())
        .and_then(|stored| stored.duration_since(UNIX_EPOCH).ok());
    let headers = object.headers.iter();
    let meta = Meta {
        key: key.into(),
        status: object.status.as_u16(),
        headers: headers
            .map(|(name, value)| (name.as_str().into(), value.as_bytes().into()))
            .collect(),
        stored_unix_ms: ms(stored.unwrap_or_default()),
        fresh_ms: ms(object.freshness.fresh),
        revalidate_ms: ms(object.freshness.revalidate),
        stale_ms: ms(object.freshness.stale),
        body_len: object.body.len() as u64,
    };
    let meta = serde_json::to_vec(&meta)?;
    if meta.len() > META_LEN_MAX {
        let why = "the object has too many headers for a file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let len = u32::try_from(meta.len()).unwrap_or(u32::MAX).to_be_bytes();
    let digest = digest_of(&[&len, &meta, &object.body]);
    Ok([&MAGIC[..], &digest, &len, &meta].concat())
}

fn digest_of(parts: &[&[u8]]) -> [u8; DIGEST_LEN] {
    let mut digest = Sha256::new();
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize().into()
}

/// Meta data and length of a file. Its digest is left to those who read it whole.
fn read_meta(path: &Path) -> io::Result<(Meta, u64)> {
    let mut file = fs::File::open(path)?;
    let len = file.metadata()?.len();
    Ok((meta_of(&mut file, len)?, len))
}

/// Meta data of a file of `len` bytes.
fn meta_of(file: &mut impl Read, len: u64) -> io::Result<Meta> {
    let mut head = [0; HEAD_LEN];
    file.read_exact(&mut head)?;
    let meta_len = meta_len_of(&head)?;
    let mut meta = vec![0; meta_len];
    file.read_exact(&mut meta)?;
    let meta: Meta = serde_json::from_slice(&meta)?;
    // What it says of the body's length has not been checked by anything yet.
    let whole = ((HEAD_LEN + meta_len) as u64).checked_add(meta.body_len);
    (whole == Some(len)).then_some(meta).ok_or_else(damaged)
}

fn meta_len_of(head: &[u8]) -> io::Result<usize> {
    let is_ours = head.len() >= HEAD_LEN && head.starts_with(MAGIC);
    let len = head.get(HEAD_LEN - 4..HEAD_LEN).filter(|_| is_ours);
    let len: [u8; 4] = len
        .and_then(|len| len.try_into().ok())
        .ok_or_else(damaged)?;
    let len = u32::from_be_bytes(len) as usize;
    (len <= META_LEN_MAX).then_some(len).ok_or_else(damaged)
}

fn decode(bytes: &Bytes, key: &str) -> io::Result<Object> {
    let meta_len = meta_len_of(bytes)?;
    let rest = bytes.get(MAGIC.len() + DIGEST_LEN..).ok_or_else(damaged)?;
    if digest_of(&[rest])[..] != bytes[MAGIC.len()..MAGIC.len() + DIGEST_LEN] {
        return Err(damaged());
    }
    let meta = bytes.get(HEAD_LEN..HEAD_LEN + meta_len);
    let meta: Meta = serde_json::from_slice(meta.ok_or_else(damaged)?)?;
    let body = bytes.slice(HEAD_LEN + meta_len..);
    if meta.key != key || meta.body_len != body.len() as u64 {
        return Err(damaged());
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &meta.headers {
        let name: HeaderName = name.parse().map_err(|_| damaged())?;
        let value = HeaderValue::from_bytes(value).map_err(|_| damaged())?;
        headers.try_append(name, value).map_err(|_| damaged())?;
    }
    let stored = UNIX_EPOCH + Duration::from_millis(meta.stored_unix_ms);
    let age = SystemTime::now().duration_since(stored);
    // A clock that has gone back says nothing of age.
    let freshness = Freshness {
        fresh: Duration::from_millis(if age.is_ok() { meta.fresh_ms } else { 0 }),
        revalidate: Duration::from_millis(meta.revalidate_ms),
        stale: Duration::from_millis(meta.stale_ms),
    };
    let now = Instant::now();
    Ok(Object {
        status: StatusCode::from_u16(meta.status).map_err(|_| damaged())?,
        origin_etag: headers.get(header::ETAG).cloned(),
        headers,
        body,
        raw: None,
        stored: now.checked_sub(age.unwrap_or_default()).unwrap_or(now),
        freshness,
        records: Default::default(),
        prepared: Default::default(),
        gzipped: Default::default(),
    })
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the object's file is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::freshness::NOT_FRESH;

    fn object(body: &[u8]) -> Object {
        let mut headers = HeaderMap::new();
        headers.insert(header::ETAG, HeaderValue::from_static("\"e\""));
        Object {
            status: StatusCode::OK,
            origin_etag: headers.get(header::ETAG).cloned(),
            headers,
            body: Bytes::copy_from_slice(body),
            raw: None,
            stored: Instant::now(),
            freshness: Freshness {
                fresh: Duration::from_secs(60),
                ..NOT_FRESH
            },
            records: Default::default(),
            prepared: Default::default(),
            gzipped: Default::default(),
        }
    }

    fn open(directory: &Path, bytes_max: u64) -> Disk {
        let config = DiskConfig {
            directory: Some(directory.into()),
            bytes_max,
            ..DiskConfig::default()
        };
        Disk::open(&config).unwrap().unwrap()
    }

    #[test]
    fn objects_survive_and_the_longest_unused_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let body = vec![7; 10_000];
        let disk = open(folder.path(), 35_000);
        for key in ["/a", "/b", "/c"] {
            disk.store(&disk.begin(key), &object(&body)).unwrap();
        }
        assert_eq!(disk.load("/a").unwrap().unwrap().body, body);
        disk.store(&disk.begin("/d"), &object(&body)).unwrap();
        assert!(!disk.has("/b") && disk.has("/a"));
        let again = open(folder.path(), 35_000);
        assert_eq!(again.size(), disk.size());
        let loaded = again.load("/a").unwrap().unwrap();
        assert!(loaded.is_fresh() && loaded.origin_etag.unwrap() == "\"e\"");
        assert_eq!(again.remove(|key| key > "/a"), 2);
        assert_eq!(open(folder.path(), 35_000).size().1, 1);
    }

    #[test]
    fn small_objects_take_places_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let config = DiskConfig {
            directory: Some(folder.path().into()),
            objects_max: 3,
            ..DiskConfig::default()
        };
        let disk = Disk::open(&config).unwrap().unwrap();
        for key in ["/a?1", "/a?2", "/a?3", "/a?4", "/a?5"] {
            disk.store(&disk.begin(key), &object(b"x")).unwrap();
        }
        assert!(disk.size().1 == 3 && disk.has("/a?5") && !disk.has("/a?2"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        let config = DiskConfig {
            objects_max: 2,
            ..config
        };
        assert_eq!(Disk::open(&config).unwrap().unwrap().size().1, 2);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_removed_while_it_is_written_does_not_come() {
        let folder = tempfile::tempdir().unwrap();
        let disk = open(folder.path(), 1 << 20);
        let removals: [fn(&Disk); 2] = [
            |disk| assert_eq!(disk.remove(|key| key == "/a"), 0),
            |disk| disk.remove_one("/a"),
        ];
        for remove in removals {
            let (removed, kept) = (disk.begin("/a"), disk.begin("/b"));
            remove(&disk);
            let later = disk.begin("/a");
            disk.store(&removed, &object(b"old")).unwrap();
            assert!(!disk.has("/a"));
            disk.store(&kept, &object(b"kept")).unwrap();
            disk.store(&later, &object(b"new")).unwrap();
            for (key, body) in [("/a", "new"), ("/b", "kept")] {
                assert_eq!(disk.load(key).unwrap().unwrap().body, body);
            }
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
            assert!(disk.lock().writes.is_empty());
            disk.remove(|_| true);
        }
    }

    /// The meta data of an object that says nothing of itself, but for key and length.
    const META_REST: &str = r#""status":200,"headers":[],"stored_unix_ms":0,"fresh_ms":0,"revalidate_ms":0,"stale_ms":0"#;

    #[test]
    fn an_object_whose_headers_fill_a_file_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let disk = open(folder.path(), 1 << 20);
        let mut large = object(b"x");
        let value = HeaderValue::from_bytes(&vec![b'v'; META_LEN_MAX / 4]).unwrap();
        large.headers.insert("x-large", value);
        assert!(disk.store(&disk.begin("/a"), &large).is_err());
        assert!(!disk.has("/a"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_torn_file_is_never_an_object() {
        let folder = tempfile::tempdir().unwrap();
        let body: Vec<u8> = (0..5000).map(|index| index as u8).collect();
        let whole = {
            let disk = open(folder.path(), 1 << 20);
            disk.store(&disk.begin("/a"), &object(&body)).unwrap();
            fs::read(disk.file_of("/a")).unwrap()
        };
        let file = open(folder.path(), 1 << 20).file_of("/a");
        for at in [0, 8, 41, HEAD_LEN + 5, whole.len() / 2, whole.len() - 1] {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            for bytes in [&flipped[..], &whole[..at]] {
                fs::write(&file, bytes).unwrap();
                let disk = open(folder.path(), 1 << 20);
                let loaded = disk.load("/a");
                assert!(!matches!(loaded, Ok(Some(_))), "byte {at}");
                assert!(!disk.has("/a"), "byte {at}");
            }
        }
        let text = format!("\"body_len\":{}", u64::MAX);
        let told = fuzzing::file_of(format!(r#"{{"key":"/a",{META_REST},{text}}}"#).as_bytes());
        fs::write(&file, told).unwrap();
        assert_eq!(open(folder.path(), 1 << 20).size(), (0, 0));
        fs::write(file.with_extension(SUFFIX_UNFINISHED), &whole).unwrap();
        assert_eq!(open(folder.path(), 1 << 20).size(), (0, 0));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
