//! What outlives the proxy.

use std::{fs, path::Path, time::Duration};

use crate::support::{HLS, Origin, Proxy, header, playlist, segment};

const KEPT: (&str, &str) = ("cache-control", "max-age=600");

async fn before_disk(origin: &Origin, folder: &Path) -> Proxy {
    let folder = folder.to_owned();
    Proxy::start_with(origin.clone(), move |config| {
        config.disk.directory = Some(folder);
        config.signing_key = Some("BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc".into());
    })
    .await
}

async fn files(folder: &Path, count: usize) -> Vec<std::path::PathBuf> {
    let there = async {
        loop {
            let found: Vec<_> = fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|suffix| suffix == "object"))
                .collect();
            if found.len() >= count {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), there)
        .await
        .unwrap()
}

#[tokio::test]
async fn objects_on_disk_are_served_signed_and_whole_after_a_restart() {
    let (origin, folder) = (Origin::default(), tempfile::tempdir().unwrap());
    origin.put("/live/i.m3u8", &[HLS], playlist(1, 3));
    for number in 1..=3 {
        let path = format!("/live/seg-{number}.m4s");
        origin.put(&path, &[KEPT, ("etag", "\"e\"")], segment(number, 50_000));
    }
    let proxy = before_disk(&origin, folder.path()).await;
    let record = {
        proxy.text("/live/i.m3u8").await;
        let answer = proxy.get("/live/seg-2.m4s").await;
        header(&answer, "shoal-record").to_owned()
    };
    let written = files(folder.path(), 3).await;
    drop(proxy);
    // A crash tore one of them.
    let torn = written
        .iter()
        .find(|path| {
            let bytes = fs::read(path).unwrap();
            let needle = b"seg-3.m4s";
            bytes.windows(needle.len()).any(|window| window == needle)
        })
        .unwrap();
    let mut bytes = fs::read(torn).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0xff;
    fs::write(torn, bytes).unwrap();
    let proxy = before_disk(&origin, folder.path()).await;
    proxy.text("/live/i.m3u8").await;
    for number in 1..=3 {
        let answer = proxy.get(&format!("/live/seg-{number}.m4s")).await;
        assert_eq!(header(&answer, "etag"), "\"e\"");
        if number == 2 {
            assert_eq!(header(&answer, "shoal-record"), record);
        }
        assert_eq!(answer.bytes().await.unwrap(), segment(number, 50_000));
    }
    let counts = [1, 2, 3].map(|number| origin.count(&format!("/live/seg-{number}.m4s")));
    assert_eq!(counts, [1, 1, 2], "only the torn one is fetched again");
}

#[tokio::test]
async fn whatever_a_crash_leaves_in_the_folder_is_no_object() {
    let (origin, folder) = (Origin::default(), tempfile::tempdir().unwrap());
    for number in 1..=4 {
        let path = format!("/live/seg-{number}.m4s");
        origin.put(&path, &[KEPT], segment(number, 50_000));
    }
    let proxy = before_disk(&origin, folder.path()).await;
    for number in 1..=4 {
        proxy.get(&format!("/live/seg-{number}.m4s")).await;
    }
    let written = files(folder.path(), 4).await;
    drop(proxy);
    let whole: Vec<Vec<u8>> = written.iter().map(|file| fs::read(file).unwrap()).collect();
    // Nothing, half, one object's bytes under another one's name; one is left as it was.
    fs::write(&written[0], b"").unwrap();
    fs::write(&written[1], &whole[1][..whole[1].len() / 2]).unwrap();
    fs::write(&written[2], &whole[3]).unwrap();
    fs::write(folder.path().join("0123.part"), &whole[1]).unwrap();
    fs::write(folder.path().join("notes.txt"), "not ours").unwrap();
    let proxy = before_disk(&origin, folder.path()).await;
    for number in 1..=4 {
        let answer = proxy.get(&format!("/live/seg-{number}.m4s")).await;
        assert_eq!(answer.bytes().await.unwrap(), segment(number, 50_000));
    }
    let asked: usize = (1..=4)
        .map(|number| origin.count(&format!("/live/seg-{number}.m4s")))
        .sum();
    assert_eq!(asked, 4 + 3, "only what was torn is fetched again");
    assert_eq!(
        fs::read_to_string(folder.path().join("notes.txt")).unwrap(),
        "not ours"
    );
}

#[tokio::test]
async fn purged_objects_stay_purged_after_a_restart() {
    let (origin, folder) = (Origin::default(), tempfile::tempdir().unwrap());
    origin.put("/vod/a", &[KEPT], "old");
    let start = || {
        let folder = folder.path().to_owned();
        Proxy::start_with(origin.clone(), move |config| {
            config.disk.directory = Some(folder);
            config.admin.token = Some("secret".into());
        })
    };
    let proxy = start().await;
    assert_eq!(proxy.text("/vod/a").await, "old");
    files(folder.path(), 1).await;
    let purge = reqwest::Client::new()
        .post(proxy.url("/.shoal/admin/purge"))
        .bearer_auth("secret")
        .body("{\"urls\":[\"/vod/a\"]}");
    assert_eq!(
        purge.send().await.unwrap().text().await.unwrap(),
        "{\"purged\":1}"
    );
    origin.put("/vod/a", &[KEPT], "new");
    drop(proxy);
    assert_eq!(start().await.text("/vod/a").await, "new");
}
