//! A server of its own for each test, stopped and removed with it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pgleap_canary::{Canary, CanaryConfig, Stats};
use pgleap_local::{
    Account, InitOptions, Installation, KillOnDrop, PoolerSpec, Server, StopOnDrop, find, free_port, installed,
};
use tempfile::TempDir;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

pub const DEADLINE: Duration = Duration::from_secs(60);
const PASSWORD: &str = "canary";

pub struct Bed {
    // In this order: the server stops before its directory goes.
    pub server: StopOnDrop,
    pub port: u16,
    fsync: bool,
    dir: TempDir,
}

impl Bed {
    /// A server of the oldest major that every supported system has, with the canary's schema.
    pub async fn new() -> Self {
        Self::with(usual(), false).await
    }

    /// The same, and what it acknowledges is on the disk.
    pub async fn durable() -> Self {
        Self::with(usual(), true).await
    }

    pub async fn with(installation: Installation, fsync: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let account = Account::for_servers(None).unwrap();
        let home = dir.path().join("pg");
        account.create_dir(&home, 0o755).unwrap();
        let server = Server { installation, account, data_dir: home.join("data"), log: home.join("log") };
        server.init(&InitOptions::default()).await.unwrap();
        let bed = Self { server: StopOnDrop(server), port: free_port().unwrap(), fsync, dir };
        bed.start().await;
        pgleap_canary::prepare(&bed.direct()).await.unwrap();
        bed
    }

    pub async fn start(&self) {
        let settings = [
            ("port", self.port.to_string()),
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", self.dir.path().join("pg").display().to_string()),
            ("max_connections", "40".to_owned()),
            ("fsync", if self.fsync { "on" } else { "off" }.to_owned()),
        ];
        let settings: Vec<_> = settings.map(|(name, value)| (name.to_owned(), value)).into();
        self.server.start(&settings, DEADLINE).await.unwrap();
    }

    pub fn direct(&self) -> Config {
        config(self.port, "postgres")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub async fn admin(&self) -> Client {
        client(&self.direct()).await
    }

    /// Starts a pooler in front of the server and returns how clients reach it, and its console.
    pub async fn pooler(&self, bin: &Path) -> (KillOnDrop, Config, Config) {
        let port = free_port().unwrap();
        let spec = PoolerSpec {
            bin: bin.to_owned(),
            dir: self.dir.path().join(format!("pooler-{port}")),
            port,
            account: self.server.account.clone(),
            databases: vec![("app".into(), "127.0.0.1".into(), self.port, "postgres".into())],
            users: vec![("postgres".into(), PASSWORD.into())],
            admin_users: vec!["postgres".into()],
            pool_mode: "transaction".into(),
            // Fewer server connections than clients, so that they are shared.
            extra: vec![("default_pool_size".into(), "3".into())],
        };
        let pooler = KillOnDrop(spec.start().await.unwrap());
        (pooler, config(port, "app"), config(port, "pgbouncer"))
    }

    pub fn config(&self) -> CanaryConfig {
        CanaryConfig {
            connect: self.direct(),
            clients: 4,
            rate: None,
            ledger: None,
            transaction_timeout: Duration::from_secs(20),
            label: "test".to_owned(),
        }
    }
}

fn usual() -> Installation {
    find(15, &[]).or_else(|missing| installed(&[]).pop().ok_or(missing)).unwrap()
}

fn config(port: u16, dbname: &str) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user("postgres").password(PASSWORD).dbname(dbname);
    config
}

pub async fn client(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Returns the first column of the first row.
pub async fn value(client: &Client, sql: &str) -> String {
    let answer = client.simple_query(sql).await.unwrap();
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    row.unwrap_or_else(|| panic!("no value from `{sql}`"))
}

/// Waits until the canary's numbers satisfy `enough`.
pub async fn until(canary: &Canary, what: &str, enough: impl Fn(&Stats) -> bool) -> Stats {
    let begun = Instant::now();
    loop {
        let stats = canary.snapshot();
        if enough(&stats) {
            return stats;
        }
        assert!(begun.elapsed() < DEADLINE, "{what} did not come to pass: {stats:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
