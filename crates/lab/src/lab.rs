//! Starting and ending the laboratory.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use pgleap_local::{Account, InitOptions, Pooler, PoolerSpec, Server, StopMode, find, find_pgbouncer, free_port, run};
use tokio_postgres::{Config, NoTls};

/// What to build.
#[derive(Debug, Clone)]
pub struct LabSpec {
    /// The source's major version.
    pub from: u16,
    /// The target's major version.
    pub to: u16,
    /// pgbench's scale factor: 100,000 accounts each.
    pub scale: u32,
    /// Where everything goes; made if missing.
    pub dir: PathBuf,
    /// The databases.
    pub databases: Vec<String>,
    /// They stay empty, for somebody else's schema.
    pub empty: bool,
    /// Where to look for programs first.
    pub bindirs: Vec<PathBuf>,
    /// The PgBouncer to use; found if none is named.
    pub pgbouncer: Option<PathBuf>,
    /// Further settings of the source.
    pub source_settings: Vec<(String, String)>,
    /// How many PgBouncers stand in front of the source.
    pub poolers: usize,
    /// Where the source is, as everybody reaches it; anything but the loopback address is another host's.
    pub source_host: String,
    /// Where the target will be.
    pub target_host: String,
    /// Further settings of the poolers.
    pub pooler_settings: Vec<(String, String)>,
    /// The write budget, as in the configuration.
    pub write_pause: String,
    /// A standby of the source, and entries `<database>_ro` that lead to it.
    pub readers: bool,
}

impl LabSpec {
    /// Returns the laboratory of the demo: two databases, the defaults of everything.
    pub fn new(from: u16, to: u16, dir: impl Into<PathBuf>) -> Self {
        Self {
            from,
            to,
            scale: 1,
            dir: dir.into(),
            databases: vec!["shop".into(), "ledger".into()],
            empty: false,
            bindirs: Vec::new(),
            pgbouncer: None,
            source_settings: Vec::new(),
            poolers: 1,
            source_host: HOST.into(),
            target_host: HOST.into(),
            pooler_settings: Vec::new(),
            write_pause: "2s".into(),
            readers: false,
        }
    }
}

/// The laboratory could not be built.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program is missing.
    #[error(transparent)]
    Binaries(#[from] pgleap_local::BinariesError),
    /// No user to run servers as.
    #[error(transparent)]
    Account(#[from] pgleap_local::AccountError),
    /// The source does not start.
    #[error(transparent)]
    Server(#[from] pgleap_local::ServerError),
    /// A standby cannot be made.
    #[error(transparent)]
    Command(#[from] pgleap_local::CommandError),
    /// The pooler does not start.
    #[error(transparent)]
    Pooler(#[from] pgleap_local::PoolerError),
    /// A file cannot be written.
    #[error("cannot write below `{dir}`")]
    Io {
        /// The laboratory's directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A statement failed while tables were made.
    #[error("cannot fill database `{database}`")]
    Fill {
        /// The database.
        database: String,
        /// What the server said.
        #[source]
        source: tokio_postgres::Error,
    },
}

/// A source and PgBouncers in front of it; stopped by [`Lab::stop`], not by being dropped.
#[derive(Debug, Clone)]
pub struct Lab {
    /// What was built.
    pub spec: LabSpec,
    /// Who servers run as.
    pub account: Account,
    /// The source.
    pub source: Server,
    /// The poolers in front of it.
    pub poolers: Vec<Pooler>,
    bouncer: PathBuf,
    /// The source's port.
    pub source_port: u16,
    /// The port that the target will have.
    pub target_port: u16,
    /// The ports of the standby of the source, and of the standby that the target will have.
    pub reader_ports: Option<(u16, u16)>,
}

/// The role pgleap connects as, the application's role, and the pooler's admin; passwords of a laboratory.
pub const ROLES: [(&str, &str); 3] = [("pgleap", "leap:into\\it"), ("app", "app-secret"), ("pooladmin", "pool-secret")];
const START_BUDGET: Duration = Duration::from_secs(60);
const HOST: &str = "127.0.0.1";

impl Lab {
    /// Builds and starts everything.
    ///
    /// # Errors
    /// [`LabError`]; what was started is stopped again.
    pub async fn start(spec: LabSpec) -> Result<Self, LabError> {
        let mut lab = Self::start_servers(spec).await?;
        for number in 0..lab.spec.poolers.max(1) {
            let started = match free_port().map_err(|source| LabError::Io { dir: lab.spec.dir.clone(), source }) {
                Ok(port) => lab.pooler_spec(number, port).start().await.map_err(LabError::from),
                Err(error) => Err(error),
            };
            match started {
                Ok(pooler) => lab.poolers.push(pooler),
                Err(error) => {
                    lab.stop().await;
                    return Err(error);
                }
            }
        }
        Ok(lab)
    }

    /// Builds and starts everything but the poolers, for whoever places those by [`Self::pooler_spec`].
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_servers(spec: LabSpec) -> Result<Self, LabError> {
        let account = Account::for_servers(None)?;
        let installation = find(spec.from, &spec.bindirs)?;
        find(spec.to, &spec.bindirs)?;
        let bouncer = match &spec.pgbouncer {
            Some(path) => path.clone(),
            None => find_pgbouncer(&spec.bindirs)?,
        };
        let io = |source| LabError::Io { dir: spec.dir.clone(), source };
        account.create_dir(&spec.dir, 0o755).map_err(io)?;
        let (source_port, target_port) = (free_port().map_err(io)?, free_port().map_err(io)?);
        let server = Server {
            installation,
            account: account.clone(),
            data_dir: spec.dir.join("source"),
            log: spec.dir.join("source.log"),
        };
        server.init(&InitOptions::default()).await?;
        let sockets = spec.dir.join("s");
        account.create_dir(&sockets, 0o700).map_err(io)?;
        let (listen, from) = if spec.source_host == HOST { (HOST, "127.0.0.1/32") } else { ("*", "samenet") };
        let mut conf = format!(
            "port = {source_port}\nlisten_addresses = '{listen}'\nunix_socket_directories = '{}'\nwal_level = logical\n\
             max_wal_size = '4GB'\nmax_connections = 100\npassword_encryption = 'scram-sha-256'\n\
             wal_retrieve_retry_interval = '200ms'\n",
            sockets.display()
        );
        for (name, value) in &spec.source_settings {
            conf.push_str(&format!("{name} = {}\n", pgleap_local::quote_conf(value)));
        }
        server.append_conf(&conf).map_err(io)?;
        server
            .write_hba(&format!(
                "local all all trust\nhost all all {from} scram-sha-256\nhost replication all {from} scram-sha-256\n"
            ))
            .map_err(io)?;
        server.start(&[], START_BUDGET).await?;
        let lab = Self::furnish(spec, account, server.clone(), bouncer, source_port, target_port).await;
        if lab.is_err() {
            drop(server.stop(StopMode::Immediate, START_BUDGET).await);
        }
        lab
    }

    async fn furnish(
        spec: LabSpec,
        account: Account,
        source: Server,
        bouncer: PathBuf,
        source_port: u16,
        target_port: u16,
    ) -> Result<Self, LabError> {
        let passfile: String = ROLES
            .iter()
            .map(|(user, password)| format!("*:*:*:{user}:{}\n", password.replace('\\', "\\\\").replace(':', "\\:")))
            .collect();
        account
            .write_file(spec.dir.join("passfile"), passfile, 0o600)
            .map_err(|source| LabError::Io { dir: spec.dir.clone(), source })?;
        let sockets = spec.dir.join("s");
        let fill = |database: &str, source| LabError::Fill { database: database.to_owned(), source };
        let mut roles = String::from("CREATE ROLE pgleap SUPERUSER LOGIN; CREATE ROLE app LOGIN;");
        for (user, password) in &ROLES[..2] {
            roles.push_str(&format!("ALTER ROLE {user} PASSWORD '{password}';"));
        }
        let admin = connect(&local(&sockets, source_port, "postgres")).await.map_err(|e| fill("postgres", e))?;
        admin.batch_execute(&roles).await.map_err(|e| fill("postgres", e))?;
        for database in &spec.databases {
            admin
                .batch_execute(&format!("CREATE DATABASE {database} OWNER app"))
                .await
                .map_err(|e| fill(database, e))?;
            if spec.empty {
                continue;
            }
            let session = connect(&local(&sockets, source_port, database)).await.map_err(|e| fill(database, e))?;
            let fill_sql = include_str!("../sql/fill.sql").replace("$SCALE", &spec.scale.to_string());
            let sql = format!(
                "GRANT ALL ON SCHEMA public TO app; SET ROLE app; {}; {fill_sql}",
                include_str!("../sql/schema.sql")
            );
            session.batch_execute(&sql).await.map_err(|e| fill(database, e))?;
        }
        let mut reader_ports = None;
        if spec.readers {
            let io = |source| LabError::Io { dir: spec.dir.clone(), source };
            let ports = (free_port().map_err(io)?, free_port().map_err(io)?);
            Self::start_standby(&spec.dir, "source-standby", &source, source_port, ports.0).await?;
            reader_ports = Some(ports);
        }
        let poolers = Vec::new();
        Ok(Self { spec, account, source, poolers, bouncer, source_port, target_port, reader_ports })
    }

    /// Returns the description of a pooler that leads to the source, for whoever starts it elsewhere than on this host.
    pub fn pooler_spec(&self, number: usize, port: u16) -> PoolerSpec {
        let spec = &self.spec;
        let entry = |name: &String| (name.clone(), spec.source_host.clone(), self.source_port, name.clone());
        let mut databases: Vec<_> = spec.databases.iter().map(entry).collect();
        if let Some((reader_port, _)) = self.reader_ports {
            let entry = |name: &String| (format!("{name}_ro"), spec.source_host.clone(), reader_port, name.clone());
            databases.extend(spec.databases.iter().map(entry));
        }
        PoolerSpec {
            bin: self.bouncer.clone(),
            dir: spec.dir.join(if number == 0 { "pooler".to_owned() } else { format!("pooler{number}") }),
            port,
            account: self.account.clone(),
            databases,
            users: ROLES[1..].iter().map(|(user, password)| ((*user).to_owned(), (*password).to_owned())).collect(),
            admin_users: vec!["pooladmin".into()],
            pool_mode: "transaction".into(),
            extra: spec.pooler_settings.clone(),
        }
    }

    /// Returns the first pooler.
    pub fn pooler(&self) -> &Pooler {
        &self.poolers[0]
    }

    /// Makes a standby of `server`, which listens on `of_port`, and starts it on `port`.
    ///
    /// # Errors
    /// [`LabError`].
    async fn start_standby(
        dir: &Path,
        name: &str,
        server: &Server,
        of_port: u16,
        port: u16,
    ) -> Result<Server, LabError> {
        let standby = Server { data_dir: dir.join(name), log: dir.join(format!("{name}.log")), ..server.clone() };
        let mut backup = server.account.command(server.installation.tool("pg_basebackup"));
        backup
            .args(["--wal-method=stream", "--checkpoint=fast", "--write-recovery-conf", "--pgdata"])
            .arg(&standby.data_dir)
            .arg("--dbname")
            .arg(format!("host={HOST} port={of_port} user={} passfile={}", ROLES[0].0, dir.join("passfile").display()));
        run(backup, START_BUDGET).await?;
        standby
            .append_conf(&format!("port = {port}\nhot_standby = on\n"))
            .map_err(|source| LabError::Io { dir: dir.to_owned(), source })?;
        standby.start(&[], START_BUDGET).await?;
        Ok(standby)
    }

    /// Returns the standby of the source.
    pub fn source_standby(&self) -> Server {
        let dir = &self.spec.dir;
        Server { data_dir: dir.join("source-standby"), log: dir.join("source-standby.log"), ..self.source.clone() }
    }

    /// Makes the standby of the target, which must run.
    ///
    /// # Errors
    /// [`LabError`].
    pub async fn start_target_standby(&self) -> Result<Server, LabError> {
        let port = self.reader_ports.map_or(0, |ports| ports.1);
        Self::start_standby(&self.spec.dir, "target-standby", &self.target()?, self.target_port, port).await
    }

    /// Returns how the application reaches `database` to read only: through the pooler.
    pub fn reading_through_pooler(&self, database: &str) -> Config {
        Self::through(self.pooler(), &format!("{database}_ro"))
    }

    /// Returns how the application reaches `database`: through the pooler.
    pub fn through_pooler(&self, database: &str) -> Config {
        Self::through(self.pooler(), database)
    }

    /// Returns how the application reaches `database` through one of the poolers.
    pub fn through(pooler: &Pooler, database: &str) -> Config {
        let mut config = Config::new();
        config.host(HOST).port(pooler.spec.port).user(ROLES[1].0).password(ROLES[1].1).dbname(database);
        config
    }

    /// Returns how a superuser reaches `database` directly, at the source's port or the target's.
    pub fn directly(&self, port: u16, database: &str) -> Config {
        let mut config = Config::new();
        config.host(self.host_of(port)).port(port).user(ROLES[0].0).password(ROLES[0].1).dbname(database);
        // what follows after a switchover has a read-only default
        config.options("-c default_transaction_read_only=off");
        config
    }

    /// Returns how the application's role would bypass the pooler.
    pub fn bypassing(&self, port: u16, database: &str) -> Config {
        let mut config = Config::new();
        config.host(self.host_of(port)).port(port).user(ROLES[1].0).password(ROLES[1].1).dbname(database);
        config
    }

    fn host_of(&self, port: u16) -> &str {
        if port == self.target_port { &self.spec.target_host } else { &self.spec.source_host }
    }

    /// Returns where the configuration of the upgrade is written.
    pub fn config_path(&self) -> PathBuf {
        self.spec.dir.join("pgleap.toml")
    }

    /// Returns the configuration of the upgrade, for the laboratory.
    pub fn config_text(&self) -> String {
        let dir = self.spec.dir.display();
        let names: Vec<_> = self.spec.databases.iter().map(|name| format!("\"{name}\"")).collect();
        let bindirs: Vec<_> =
            self.spec.bindirs.iter().map(|path| format!("{:?}", path.display().to_string())).collect();
        let poolers: Vec<_> = self
            .poolers
            .iter()
            .map(|pooler| {
                format!(
                    "[[route.pgbouncer]]\n\
                     admin = \"host={HOST} port={} user=pooladmin\"\n\
                     password = {{ passfile = \"passfile\" }}\n\
                     ini = \"{}\"\n\n",
                    pooler.spec.port,
                    pooler.ini_path.display()
                )
            })
            .collect();
        let readers = self.reader_ports.map_or(String::new(), |(from, to)| {
            format!(
                "[readers]\nwindow = \"0s\"\n\n[[readers.pool]]\nfrom = \"host={HOST} port={from}\"\nto = \"host={HOST} port={to}\"\n\n"
            )
        });
        format!(
            "state_dir = \"state\"\n\n\
             [source]\n\
             dsn = \"host={} port={} user=pgleap dbname=postgres\"\n\
             password = {{ passfile = \"passfile\" }}\n\
             databases = [{}]\n\n\
             [target]\n\
             host = \"{}\"\n\
             version = {}\n\
             port = {}\n\
             data_dir = \"{dir}/target\"\n\n\
             [provider]\n\
             kind = \"self_managed\"\n\
             work_dir = \"{dir}/w\"\n\
             bindirs = [{}]\n\n\
             [route]\n\
             kind = \"pgbouncer\"\n\n\
             {}\
             {}\
             [budgets]\n\
             write_pause = \"{}\"\n",
            self.spec.source_host,
            self.source_port,
            names.join(", "),
            self.spec.target_host,
            self.spec.to,
            self.target_port,
            bindirs.join(", "),
            poolers.concat(),
            readers,
            self.spec.write_pause,
        )
    }

    /// Returns the target, as the upgrade makes it.
    ///
    /// # Errors
    /// [`LabError::Binaries`].
    pub fn target(&self) -> Result<Server, LabError> {
        Ok(Server {
            installation: find(self.spec.to, &self.spec.bindirs)?,
            account: self.account.clone(),
            data_dir: self.spec.dir.join("target"),
            log: self.spec.dir.join("target/log/startup.log"),
        })
    }

    /// Stops everything that may run: pooler, source, copy, target.
    pub async fn stop(&self) {
        for pooler in &self.poolers {
            drop(pooler.stop().await);
        }
        let mut servers = vec![self.source.clone()];
        servers.extend(self.target());
        if self.reader_ports.is_some() {
            servers.push(self.source_standby());
            servers.extend(
                self.target().map(|target| Server { data_dir: self.spec.dir.join("target-standby"), ..target }),
            );
        }
        servers.push(Server { data_dir: self.spec.dir.join("w/copy"), ..self.source.clone() });
        for server in servers {
            drop(server.stop(StopMode::Immediate, START_BUDGET).await);
        }
    }

    /// Stops everything and removes the directory.
    ///
    /// # Errors
    /// If something of it cannot be removed.
    pub async fn destroy(&self) -> std::io::Result<()> {
        self.stop().await;
        std::fs::remove_dir_all(&self.spec.dir)
    }
}

fn local(sockets: &Path, port: u16, database: &str) -> Config {
    let mut config = Config::new();
    config.host_path(sockets).port(port).user("postgres").dbname(database);
    config
}

async fn connect(config: &Config) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}
