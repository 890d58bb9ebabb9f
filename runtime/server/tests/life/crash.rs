//! The binary, killed at random moments: what was acknowledged is there once
//! and in order, what was not is done once when it is asked for again, and
//! what was to happen elsewhere happens.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Caller, message};
use crate::process::{DEADLINE, Process, canopy, run, text};
use canopy_domain::{Id, Wire};
use canopy_proto::chat::v1::subscribe_response::Event;
use canopy_proto::chat::v1::{ChannelPosition, ListMessagesRequest, SubscribeRequest};
use canopy_proto::org::v1::{CreateOrgRequest, GetOrgRequest, ListOrgsRequest, Org};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic::{Code, Status};

const ROUNDS: usize = 6;
const SENDERS: usize = 4;
/// Acknowledged calls before a kill, at most.
const CALLS_MAX: u64 = 150;
const SEED_VARIABLE: &str = "TEST_SEED";

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

fn seed() -> u64 {
    let given = std::env::var(SEED_VARIABLE).ok().and_then(|seed| seed.parse().ok());
    let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |t| t.subsec_nanos().into());
    let seed = given.unwrap_or_else(clock);
    println!("{SEED_VARIABLE}={seed}");
    seed
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("ends before the deadline")
}

/// What a caller asked for; the request id is the text or slug.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Ask {
    Send(String),
    Org(String),
}

async fn ask(caller: &Caller, channel: &str, ask: &Ask) -> Result<String, Status> {
    match ask {
        Ask::Send(text) => {
            let request =
                canopy_proto::chat::v1::SendMessageRequest { request_id: text.clone(), ..message(channel, text) };
            let sent = caller.chat().send_message(request).await?.into_inner();
            Ok(sent.decode().unwrap().name)
        }
        Ask::Org(slug) => {
            let org = Org { slug: slug.clone(), title: slug.clone(), ..Org::default() };
            let request = CreateOrgRequest { org: Some(Wire::new(&org)), request_id: slug.clone() };
            Ok(caller.orgs().create_org(request).await?.into_inner().decode().unwrap().name)
        }
    }
}

/// Acknowledged asks with the names they got, and those in doubt.
#[derive(Default)]
struct Ledger {
    done: Vec<(Ask, String)>,
    doubtful: Vec<Ask>,
}

/// Asks one thing after the other until the server goes.
async fn client(caller: Caller, channel: String, mut next: impl FnMut() -> Ask, calls: Arc<Calls>) -> Ledger {
    let mut ledger = Ledger::default();
    loop {
        let wanted = next();
        match ask(&caller, &channel, &wanted).await {
            Ok(name) => {
                ledger.done.push((wanted, name));
                calls.count();
            }
            Err(_) => {
                ledger.doubtful.push(wanted);
                return ledger;
            }
        }
    }
}

/// Counts acknowledged calls, and tells when there are enough.
struct Calls {
    left: AtomicUsize,
    enough: Notify,
}

impl Calls {
    fn count(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.enough.notify_one();
        }
    }
}

/// Follows a channel from `cursor` until the server goes, or `until` is shown.
async fn read(caller: &Caller, channel: &str, cursor: &mut u64, texts: &mut Vec<String>, until: Option<usize>) {
    let channels = vec![ChannelPosition { name: channel.into(), cursor: Some(*cursor) }];
    let Ok(stream) = caller.chat().subscribe(SubscribeRequest { channels }).await else { return };
    let mut stream = stream.into_inner();
    while until.is_none_or(|until| texts.len() < until) {
        let Ok(Some(response)) = stream.message().await else { return };
        if let Some(Event::Sent(message)) = response.event {
            assert!(response.cursor > *cursor, "nothing is shown twice");
            *cursor = response.cursor;
            texts.push(message.decode().unwrap().text);
        }
    }
}

async fn listed(caller: &Caller, channel: &str) -> Vec<(String, String)> {
    let (mut rows, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListMessagesRequest { parent: channel.into(), page_size: 1000, page_token, ..Default::default() };
        let page = caller.chat().list_messages(request).await.expect("a page").into_inner();
        rows.extend(page.messages.iter().map(|row| row.decode().unwrap()).map(|row| (row.text, row.name)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return rows;
        }
    }
}

async fn org_slugs(caller: &Caller) -> Vec<String> {
    let (mut slugs, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListOrgsRequest { page_size: 1000, page_token, ..Default::default() };
        let page = caller.orgs().list_orgs(request).await.expect("a page").into_inner();
        slugs.extend(page.orgs.iter().map(|org| org.decode().unwrap().slug));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return slugs;
        }
    }
}

/// Nobody calls these orgs: what their commits owe to others arrives all the
/// same.
async fn check_orgs(ada: &Caller, orgs: &BTreeSet<String>) {
    let mut look = tokio::time::interval(Duration::from_millis(10));
    within(async {
        loop {
            look.tick().await;
            let mut slugs = org_slugs(ada).await;
            slugs.sort();
            let shown: BTreeSet<_> = slugs.iter().cloned().collect();
            assert_eq!(shown.len(), slugs.len(), "each is listed once: {slugs:?}");
            if orgs.is_subset(&shown) {
                break;
            }
        }
    })
    .await;
    for slug in orgs {
        let org = Org { slug: slug.clone(), ..Org::default() };
        let again = CreateOrgRequest { org: Some(Wire::new(&org)), request_id: String::new() };
        let status = ada.orgs().create_org(again).await.expect_err("the slug is taken");
        assert_eq!(status.code(), Code::AlreadyExists, "{slug}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_nothing_is_done_twice() {
    let mut random = Random(seed());
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let mut server = Process::plain(&data_dir);
    let nobody = Caller::at(&server.url()).await.unwrap();
    nobody.register("ada@example.org", "").await;
    let mut ada = nobody.log_in("ada@example.org").await;
    ada.create_org("acme").await;
    let project = ada.create_project("org/acme", "web").await.name;
    let channel = ada.create_channel(&project, "general").await;

    let mut names: HashMap<Ask, String> = HashMap::new();
    let mut order: Vec<Vec<Ask>> = vec![Vec::new(); SENDERS];
    let mut orgs: BTreeSet<String> = ["acme".to_owned()].into();
    let (mut cursor, mut followed) = (0, Vec::new());
    for round in 0..ROUNDS {
        let wanted = usize::try_from(1 + random.below(CALLS_MAX)).unwrap();
        let calls = Arc::new(Calls { left: AtomicUsize::new(wanted), enough: Notify::new() });
        let mut clients = JoinSet::new();
        for sender in 0..SENDERS {
            let mut n = 0;
            let next = move || {
                n += 1;
                Ask::Send(format!("{round}-{sender}-{n}"))
            };
            let running = client(ada.clone(), channel.clone(), next, Arc::clone(&calls));
            clients.spawn(async move { (Some(sender), running.await) });
        }
        let mut n = 0;
        let next = move || {
            n += 1;
            Ask::Org(format!("org-{round}-{n}"))
        };
        let running = client(ada.clone(), channel.clone(), next, Arc::clone(&calls));
        clients.spawn(async move { (None, running.await) });
        let reader = {
            let (ada, channel) = (ada.clone(), channel.clone());
            tokio::spawn(async move {
                read(&ada, &channel, &mut cursor, &mut followed, None).await;
                (cursor, followed)
            })
        };

        within(calls.enough.notified()).await;
        // Somewhere between two calls, or within one.
        server.kill_after(Duration::from_micros(random.below(3_000))).await;
        let ledgers: Vec<_> = within(clients.join_all()).await;
        (cursor, followed) = within(reader).await.unwrap();

        server = Process::plain(&data_dir);
        // The token is good at the next start too.
        ada = Caller { channel: Caller::at(&server.url()).await.unwrap().channel, ..ada };
        for (sender, ledger) in ledgers {
            let mut made = ledger.done;
            for doubtful in ledger.doubtful {
                let name = ask(&ada, &channel, &doubtful).await.unwrap_or_else(|e| panic!("{doubtful:?}: {e:?}"));
                made.push((doubtful, name));
            }
            // Repeating what was acknowledged gives the first answer.
            if let Some((first, name)) = made.first() {
                assert_eq!(ask(&ada, &channel, first).await.as_ref().unwrap(), name);
            }
            for (asked, name) in made {
                match (&asked, sender) {
                    (Ask::Org(slug), _) => drop(orgs.insert(slug.clone())),
                    (Ask::Send(_), Some(sender)) => order[sender].push(asked.clone()),
                    (Ask::Send(_), None) => unreachable!("the last client makes orgs"),
                }
                assert_eq!(names.insert(asked, name), None);
            }
        }

        let rows = listed(&ada, &channel).await;
        let texts: Vec<_> = rows.iter().map(|(text, _)| text.clone()).collect();
        assert_eq!(texts.len(), order.iter().map(Vec::len).sum::<usize>(), "round {round}");
        for (text, name) in rows {
            assert_eq!(names.get(&Ask::Send(text.clone())), Some(&name), "{text} as it was acknowledged");
        }
        for (sender, asked) in order.iter().enumerate() {
            let own = |text: &&String| text.split('-').nth(1) == Some(&sender.to_string());
            let shown: Vec<_> = texts.iter().filter(own).map(|text| Ask::Send(text.clone())).collect();
            assert_eq!(shown, *asked, "round {round}: in the order of sending");
        }
        within(read(&ada, &channel, &mut cursor, &mut followed, Some(texts.len()))).await;
        assert_eq!(followed, texts, "round {round}: the follower saw each once");
        check_orgs(&ada, &orgs).await;
    }
    let (status, log) = server.terminate();
    assert!(status.success(), "{status}: {log}");
    check_verified(&data_dir, None);
    // A flipped bit in the largest file of all, which is a vault's.
    let damaged = largest(&data_dir.join("vaults")).expect("vaults");
    let mut bytes = std::fs::read(&damaged).unwrap();
    let at = bytes.iter().rposition(|byte| *byte != 0).unwrap() / 2;
    bytes[at] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    check_verified(&data_dir, Some("1 of "));
}

fn largest(dir: &Path) -> Option<PathBuf> {
    let written = |path: &PathBuf| std::fs::read(path).unwrap().iter().filter(|byte| **byte != 0).count();
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter_map(|path| if path.is_dir() { largest(&path) } else { Some(path) });
    files.max_by_key(written)
}

/// What `canopy local verify` says of a directory that no server has open.
#[track_caller]
fn check_verified(data_dir: &Path, fault: Option<&str>) {
    let mut command = canopy();
    command.args(["local", "verify", "-o", "json", "--set"]).arg(format!("data_dir={}", data_dir.display()));
    let output = run(command);
    let (said, wrong) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.success(), fault.is_none(), "{said}{wrong}");
    let reports: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(reports.iter().any(|report| report["vault"] == "system" && report["rows"].as_u64() > Some(0)), "{said}");
    let unsound = reports.iter().filter(|report| report["faults"] != serde_json::json!([])).count();
    assert_eq!(unsound, usize::from(fault.is_some()), "{said}");
    assert!(wrong.contains(fault.unwrap_or_default()), "{wrong}");
}

/// The address that an org gets: the same for a repeat of the same request.
fn org_address(account: &str, request_id: &str) -> String {
    let mut hash = Sha256::new();
    for part in ["canopy.org.v1.Orgs/CreateOrg", account, request_id] {
        hash.update(part);
        hash.update([0]);
    }
    let digest: [u8; 32] = hash.finalize().into();
    format!("org/{}", Id::from_bytes(*digest.first_chunk().unwrap()))
}

/// Kills within a call that makes an org. Where it was committed, its maker
/// finds it under its slug and in their list, though nobody calls the org
/// itself again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_commit_owes_to_others_is_paid_after_a_kill() {
    let mut random = Random(seed());
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let mut server = Process::plain(&data_dir);
    let nobody = Caller::at(&server.url()).await.unwrap();
    nobody.register("ada@example.org", "").await;
    let mut ada = nobody.log_in("ada@example.org").await;
    let mut orgs: BTreeSet<String> = ["acme".to_owned()].into();
    ask(&ada, "", &Ask::Org("acme".into())).await.unwrap();
    assert!(get_org(&ada, &org_address(&ada.account, "acme")).await, "that is how addresses are made");
    let (mut committed_count, mut answered_count) = (0, 0);
    for n in 0..ROUNDS {
        // How long one takes on a server that is warm: the kill falls into its
        // second half, where it commits and tells others.
        let began = Instant::now();
        ask(&ada, "", &Ask::Org(format!("warm-{n}"))).await.unwrap();
        orgs.insert(format!("warm-{n}"));
        let half_us = u64::try_from(began.elapsed().as_micros()).unwrap() / 2;
        let slug = format!("org-{n}");
        let wanted = Ask::Org(slug.clone());
        let call = tokio::spawn({
            let ada = ada.clone();
            async move { ask(&ada, "", &wanted).await }
        });
        server.kill_after(Duration::from_micros(half_us + random.below(half_us))).await;
        let answered = within(call).await.unwrap().is_ok();
        server = Process::plain(&data_dir);
        ada = Caller { channel: Caller::at(&server.url()).await.unwrap().channel, ..ada };
        let committed = get_org(&ada, &org_address(&ada.account, &slug)).await;
        assert!(committed || !answered, "{slug} was acknowledged");
        committed_count += u32::from(committed);
        answered_count += u32::from(answered);
        if committed {
            orgs.insert(slug);
        }
        check_orgs(&ada, &orgs).await;
        for slug in &orgs {
            assert!(get_org(&ada, &format!("org/{slug}")).await, "{slug} is found by its slug");
        }
    }
    println!("{committed_count} of {ROUNDS} were committed, {answered_count} answered");
    server.kill();
    check_verified(&data_dir, None);
}

async fn get_org(caller: &Caller, name: &str) -> bool {
    match caller.orgs().get_org(GetOrgRequest { name: name.into() }).await {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::NotFound, "{name}: {status:?}");
            false
        }
    }
}
