//! The same upgrade by the bare commands: what a person would type, without a check, a proof or a journal.

use std::{path::PathBuf, time::Duration};

use pgleap_local::{InitOptions, Server, StopMode, run};
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::bed::{Bed, DATABASE, connect};

const BUDGET: Duration = Duration::from_secs(3600);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A target made by hand.
pub struct Bare<'a> {
    bed: &'a Bed,
    dir: PathBuf,
    target: Server,
    source_session: Client,
    pub in_sync: Instant,
}

/// Brings a target in sync; calls `begin` at the beginning of each phase.
pub async fn run_by_hand(bed: &Bed, mut begin: impl FnMut(&'static str)) -> Bare<'_> {
    let lab = &bed.lab;
    let (account, source) = (&lab.account, &lab.source);
    let dir = lab.spec.dir.join("bare");
    account.create_dir(&dir, 0o700).unwrap();
    let sockets = dir.join("s");
    account.create_dir(&sockets, 0o700).unwrap();
    let passfile = lab.spec.dir.join("passfile");
    let conninfo = format!("host=127.0.0.1 port={} user=pgleap passfile={}", lab.source_port, passfile.display());

    begin("slot");
    let session = connect(&lab.directly(lab.source_port, DATABASE)).await;
    session.batch_execute("CREATE PUBLICATION bare FOR ALL TABLES").await.unwrap();
    session.query_one("SELECT pg_create_logical_replication_slot('bare', 'pgoutput')", &[]).await.unwrap();

    begin("base backup");
    let copy = Server { data_dir: dir.join("copy"), log: dir.join("copy.log"), ..source.clone() };
    let mut command = account.command(copy.installation.tool("pg_basebackup"));
    command.args(["--wal-method=stream", "--checkpoint=fast", "--no-password", "--pgdata"]).arg(&copy.data_dir);
    command.arg("--dbname").arg(&conninfo);
    run(command, BUDGET).await.unwrap();

    begin("recovery");
    let row = session.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap();
    let boundary: String = row.get(0);
    // recovery ends at the first record at or past it
    session.batch_execute("UPDATE bench_probe SET n = n + 1").await.unwrap();
    account.write_file(copy.data_dir.join("standby.signal"), "", 0o600).unwrap();
    let private = [
        ("port", "5432"),
        ("listen_addresses", ""),
        ("unix_socket_directories", sockets.to_str().unwrap()),
        ("primary_conninfo", &conninfo),
        ("recovery_target_lsn", &boundary),
        ("recovery_target_inclusive", "off"),
        ("recovery_target_action", "promote"),
        ("wal_retrieve_retry_interval", "200ms"),
    ];
    copy.start(&private.map(|(name, value)| (name.to_owned(), value.to_owned())), BUDGET).await.unwrap();
    let mut privately = tokio_postgres::Config::new();
    privately.host_path(&sockets).port(5432).user("postgres").dbname(DATABASE);
    let copied = connect(&privately).await;
    while copied.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap().get(0) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    drop(copied);
    copy.stop(StopMode::Fast, BUDGET).await.unwrap();

    begin("pg_upgrade");
    let mut target = lab.target().unwrap();
    (target.data_dir, target.log) = (dir.join("target"), dir.join("target.log"));
    target.init(&InitOptions::default()).await.unwrap();
    let mut command = account.command(target.installation.tool("pg_upgrade"));
    command.current_dir(&dir).args(["--link", "--username", "postgres", "--old-port", "50432", "--new-port", "50433"]);
    command.arg("--jobs").arg(std::thread::available_parallelism().unwrap().to_string());
    command.arg("--old-datadir").arg(&copy.data_dir).arg("--new-datadir").arg(&target.data_dir);
    command.arg("--old-bindir").arg(&copy.installation.bindir).arg("--new-bindir").arg(&target.installation.bindir);
    command.arg("--socketdir").arg(&sockets);
    run(command, BUDGET).await.unwrap();
    let conf = format!(
        "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nwal_level = logical\n\
         max_wal_size = '4GB'\nmax_connections = 100\n",
        lab.target_port,
        sockets.display()
    );
    target.append_conf(&conf).unwrap();
    target.write_hba(&std::fs::read_to_string(source.data_dir.join("pg_hba.conf")).unwrap()).unwrap();
    target.start(&[], BUDGET).await.unwrap();

    begin("catch-up");
    let subscriber = connect(&lab.directly(lab.target_port, DATABASE)).await;
    let subscribe = format!(
        "CREATE SUBSCRIPTION bare CONNECTION '{conninfo} dbname={DATABASE}' PUBLICATION bare
           WITH (create_slot = false, slot_name = bare, copy_data = false, enabled = false)"
    );
    subscriber.batch_execute(&subscribe).await.unwrap();
    let advance = format!(
        "SELECT pg_replication_origin_advance('pg_' || oid, '{boundary}') FROM pg_subscription WHERE subname = 'bare'"
    );
    subscriber.batch_execute(&advance).await.unwrap();
    subscriber.batch_execute("ALTER SUBSCRIPTION bare ENABLE").await.unwrap();
    let in_sync = bed.in_sync().await;
    Bare { bed, dir, target, source_session: session, in_sync }
}

impl Bare<'_> {
    /// Takes it all back.
    pub async fn remove(self) {
        let subscriber = connect(&self.bed.lab.directly(self.bed.lab.target_port, DATABASE)).await;
        subscriber.batch_execute("ALTER SUBSCRIPTION bare DISABLE").await.unwrap();
        drop(subscriber);
        self.target.stop(StopMode::Immediate, BUDGET).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        // the walsender notices the end of its reader in its own time
        while self.source_session.batch_execute("SELECT pg_drop_replication_slot('bare')").await.is_err() {
            assert!(Instant::now() < deadline, "the slot is still in use");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.source_session.batch_execute("DROP PUBLICATION bare").await.unwrap();
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}
