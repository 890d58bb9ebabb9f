//! A process that is killed, or whose disk is full: everything acknowledged
//! is there, and the feed has no gap.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use canopy_domain::{Address, Id, Reader};
use canopy_store::{Store, StoreError, StoreOptions};

use crate::fixture::{TABLE, all, check_gapless, commit, open, options};

/// Tells a test to be the child, and where.
const DIR: &str = "CANOPY_STORE_TEST_DIR";
/// Has the child rotate all keys meanwhile.
const ROTATE: &str = "CANOPY_STORE_TEST_ROTATE";
/// Has the child end itself once it has submitted something under a new key.
const ABORT: &str = "CANOPY_STORE_TEST_ABORT";

fn partition(n: u8) -> Address {
    Address::org(Id::from_bytes([7; 16])).project(Id::from_bytes([n; 16]))
}

/// Whose feed the child trims all the time.
const TRIMMED: u8 = 2;

/// Commits to three partitions until it cannot; prints what was acknowledged.
async fn commit_until_stopped(dir: &Path) {
    let store = Store::open(StoreOptions { feed_retention_ms: 1, ..options(dir) }).unwrap();
    let mut tasks = Vec::new();
    for n in 0..3u8 {
        let mut writer = store.writer(&partition(n), &[]).await.unwrap();
        tasks.push(tokio::spawn(async move {
            loop {
                let first = writer.next_seq();
                let tickets: Vec<_> = (first..first + 20)
                    .map(|seq| writer.submit(commit(&[(&seq.to_be_bytes(), Some(&[n; 300]))])))
                    .collect();
                // Its failure is that of the next commit.
                if n == TRIMMED && writer.trim_feed(commit(&[]).time_ms + 1).is_err() {
                    assert!(writer.is_failed());
                }
                for ticket in tickets {
                    match ticket.await {
                        Ok(seq) => println!("ack {n} {seq}"),
                        Err(error) => {
                            println!("failed {n} {}", matches!(error, StoreError::DiskFull { .. }));
                            assert!(writer.is_failed());
                            return;
                        }
                    }
                }
            }
        }));
    }
    if std::env::var_os(ROTATE).is_some() {
        // Until it is killed: partitions have keys by now, or soon.
        loop {
            let root = store.rotate_root_key().await.unwrap();
            let org = partition(0).org_address().unwrap();
            let mut versions = vec![root];
            if let Ok(version) = store.rotate_org_key(Some(&org)).await {
                versions.push(version);
            }
            for n in 0..3 {
                versions.extend(store.rotate_vault_key(&partition(n)).await.ok());
            }
            println!("rotated {versions:?}");
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// Submits much under the old key and a commit under the new one, and dies: groups that were committed
/// between know of the new key, whose own commit is still to come.
async fn abort_in_rotation(dir: &Path) {
    let mut options = options(dir);
    options.group_commits_max = 1;
    let store = Store::open(options).unwrap();
    let mut writer = store.writer(&partition(0), &[]).await.unwrap();
    let mut submit = || {
        let seq = writer.next_seq();
        writer.submit(commit(&[(&seq.to_be_bytes(), Some(&[0; 300]))]))
    };
    let mut first = submit().await.unwrap() + 1;
    loop {
        let mut queue: Vec<_> = (0..400).map(|_| submit()).collect();
        store.rotate_vault_key(&partition(0)).await.unwrap();
        queue.push(submit());
        // The next but one that becomes durable from here on, for one may be under way.
        let durable = store.reader(&partition(0)).await.unwrap().snapshot().await.unwrap().seq().unwrap();
        let waiting = queue.split_off(queue.len().min((durable + 1).saturating_sub(first) as usize));
        if let Some(next) = waiting.into_iter().nth(1) {
            println!("ack 0 {}", next.await.unwrap());
            std::process::abort();
        }
        first += 401;
    }
}

/// This test, run again as a child that commits.
fn child(dir: &Path, shell: &str) -> Child {
    let program = std::env::current_exe().unwrap();
    let script = format!("{shell} exec \"$0\" crash::the_child --exact --nocapture --test-threads 1");
    Command::new("sh")
        .args(["-c", &script])
        .arg(program)
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Does nothing unless it was started by one of the tests below.
#[tokio::test(flavor = "multi_thread")]
async fn the_child() {
    if let Some(dir) = std::env::var_os(DIR) {
        if std::env::var_os(ABORT).is_some() {
            abort_in_rotation(Path::new(&dir)).await;
        }
        commit_until_stopped(Path::new(&dir)).await;
    }
}

/// Highest acknowledged seq by partition.
fn acknowledged(line: &str, acks: &mut [u64; 3]) -> bool {
    // The test harness prints on the same line.
    let Some((_, ack)) = line.split_once("ack ") else {
        return false;
    };
    let mut words = ack.split(' ').map(|word| word.parse::<u64>().unwrap());
    let (n, seq) = (words.next().unwrap() as usize, words.next().unwrap());
    acks[n] = acks[n].max(seq);
    true
}

async fn check_survived(dir: &Path, acks: &[u64; 3]) {
    let store = open(dir);
    for (n, acked) in (0u8..).zip(acks) {
        let snapshot = store.reader(&partition(n)).await.unwrap().snapshot().await.unwrap();
        assert!(snapshot.seq().unwrap() >= *acked, "partition {n}: {} of {acked}", snapshot.seq().unwrap());
        check_gapless(&snapshot);
        snapshot.check_feed().unwrap();
        assert!(n == TRIMMED || snapshot.floor().unwrap() == 1);
        let rows = all(&snapshot, TABLE);
        assert_eq!(rows.len() as u64, snapshot.seq().unwrap());
        assert!(rows.iter().all(|(_, row)| *row == [n; 300]));
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acks = [0; 3];
    // The first are killed while vaults are being made.
    for lines in [1, 3, 60, 250, 700, 1500] {
        let mut child = child(dir.path(), "");
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let mut seen = 0;
        while seen < lines && output.read_line(&mut line).unwrap() > 0 {
            seen += usize::from(acknowledged(line.trim_end(), &mut acks));
            line.clear();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        // The last line may be cut short.
        for line in rest.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            acknowledged(line.trim_end(), &mut acks);
        }
        check_survived(dir.path(), &acks).await;
    }
    assert!(acks.iter().sum::<u64>() > 1000, "{acks:?}");
    let store = open(dir.path());
    let trimmed = store.reader(&partition(TRIMMED)).await.unwrap().snapshot().await.unwrap();
    assert!(trimmed.floor().unwrap() > 1, "nothing was trimmed");
}

/// Acknowledgements that the last child lives for, at least.
const LAST: usize = 61;

/// Killed at any step of a rotation, every value opens, under the old key or
/// the new one, and the next start finishes what was begun.
#[tokio::test(flavor = "multi_thread")]
async fn rotations_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let (mut acks, mut rotations) = ([0; 3], 0);
    for lines in [1, 2, 90, 7, 150, 33, 260, LAST] {
        let mut child = child(dir.path(), &format!("export {ROTATE}=1;"));
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (mut line, mut seen) = (String::new(), 0);
        // Where rotations are slow, the first ones are killed before they ended.
        while (seen < lines || (lines == LAST && rotations == 0)) && output.read_line(&mut line).unwrap() > 0 {
            seen += usize::from(acknowledged(line.trim_end(), &mut acks));
            rotations += usize::from(line.contains("rotated "));
            line.clear();
        }
        assert!(seen >= lines && (lines != LAST || rotations > 0), "it ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        check_survived(dir.path(), &acks).await;
        let store = open(dir.path());
        let org = partition(0).org_address().unwrap();
        let keys = store.org_keys().unwrap();
        assert_eq!(keys.iter().filter(|key| key.of == org.as_str()).count(), 1, "no rotation is left open: {keys:?}");
        assert!(store.observe().quarantined.is_empty());
    }
}

/// A key that is in use from a later submission on seals nothing of the groups before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_under_keys_that_are_durable() {
    for _ in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let mut acks = [0; 3];
        let output = child(dir.path(), &format!("export {ABORT}=1;")).wait_with_output().unwrap();
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            acknowledged(line, &mut acks);
        }
        assert!(acks[0] > 0, "it died before its time");
        check_survived(dir.path(), &acks).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = child(dir.path(), "");
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("ack ") {
        assert!(output.read_line(&mut line).unwrap() > 0);
    }
    let error = Store::open(options(dir.path())).err().unwrap();
    assert!(matches!(error, StoreError::Locked(_)), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    open(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_commits_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Vaults are made first: a journal starts larger than the limit below.
    let store = open(dir.path());
    for n in 0..3u8 {
        let mut writer = store.writer(&partition(n), &[]).await.unwrap();
        writer.submit(commit(&[(&1u64.to_be_bytes(), Some(&[n; 300]))])).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    // Reading once cuts the journals to their content.
    let mut acks = [0; 3];
    check_survived(dir.path(), &acks).await;
    // Files end at 256 kB (in blocks of 512 bytes); writing beyond is EFBIG.
    let mut child = child(dir.path(), "trap '' XFSZ; ulimit -f 512;");
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut failed = 0;
    for line in output.lines().map(Result::unwrap) {
        acknowledged(&line, &mut acks);
        failed += usize::from(line.contains("failed ") && line.contains("true"));
    }
    child.wait().unwrap();
    assert_eq!(failed, 3, "each partition has a vault of its own, and fails as a full disk");
    assert!(acks.iter().all(|seq| *seq > 20), "{acks:?}");
    check_survived(dir.path(), &acks).await;
}
