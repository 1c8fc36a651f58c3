//! Guards of another version than pgleap's: refused before anything is paused, and never a riddle.

use std::path::{Path, PathBuf};

use pgleap_local::{Auth, KillOnDrop, free_port};
use pgleap_saga::Class;
use pgleap_upgrade::{
    config,
    guard::{
        Guard, Ward,
        protocol::{self, Answer, PROTOCOL, Reply, VERSION},
        tls::Identity,
    },
    pg::Secret,
    preflight::Severity::Blocker,
};
use tokio::{
    io::{AsyncWriteExt, BufStream},
    net::{TcpListener, UnixStream},
};

use crate::preflight::{Bed, PASSWORD, Wishes, assert_says, assert_silent, poolers};

fn described(port: u16, ini: PathBuf) -> config::Pooler {
    config::Pooler { host: "127.0.0.1".into(), port, user: "postgres".into(), password: None, ini, guard: None }
}

/// Says this to a guard over its own socket, and returns what it answers.
async fn say(stream: &mut BufStream<UnixStream>, line: &str) -> Reply {
    stream.write_all(line.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    protocol::read(stream).await.unwrap().unwrap()
}

#[tokio::test]
async fn guard_refuses_what_it_does_not_know_by_its_version_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let ward = Ward::PgBouncer(described(free_port().unwrap(), dir.path().join("pgbouncer.ini")), None);
    let console = ward.console();
    let socket = dir.path().join("guard.sock");
    let guard = Guard::over([ward], dir.path(), |_| ()).unwrap();
    tokio::spawn(guard.serve(Guard::listen(&socket).unwrap(), None));
    let mut stream = BufStream::new(UnixStream::connect(&socket).await.unwrap());
    let request = |verb: &str| format!("{{\"pooler\":\"{console}\",\"verb\":{verb},\"until_ms\":null}}\n");
    for unknown in [request("\"fly\""), request("{\"hold\":{\"for\":\"ever\"}}"), "fly\n".to_owned()] {
        let reply = say(&mut stream, &unknown).await;
        let Answer::Refused(error) = &reply.answer else { panic!("{reply:?}") };
        assert_eq!(error.class, Class::Blocked, "it will not know the next time");
        assert_eq!(error.message, format!("the guard is pgleap {VERSION}, and cannot read what it was asked"));
        assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("guards are upgraded first")), "{error:?}");
        assert_eq!((reply.protocol, reply.version.as_str()), (PROTOCOL, VERSION));
    }
    let known = say(&mut stream, &request("\"status\"")).await;
    assert!(matches!(known.answer, Answer::Status(_)), "{known:?}");
}

/// Certificates of one authority, for whoever is called by this machine's own address.
fn identity(dir: &Path) -> Identity {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let signed = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let file = |name: &str, text: String| {
        std::fs::write(dir.join(name), text).unwrap();
        dir.join(name)
    };
    Identity {
        certificate: file("guard.pem", signed.pem()),
        key: file("guard.key", key.serialize_pem()),
        authority: file("authority.pem", authority),
    }
}

/// Answers each request with this line, as a guard of another version might; returns where.
async fn guard_that_says(identity: &Identity, line: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, tls) = (listener.local_addr().unwrap().port(), identity.acceptor().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = tls.accept(stream).await else { continue };
            let mut stream = BufStream::new(stream);
            while let Ok(Some(_)) = protocol::read::<serde_json::Value>(&mut stream).await {
                stream.write_all(line.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    });
    port
}

#[tokio::test]
async fn check_finds_guards_of_an_older_version_those_that_answer_otherwise_and_those_without_the_pooler() {
    let Some(bed) = Bed::start(15, Auth::Trust).await else { return };
    bed.run("postgres", &["CREATE DATABASE app"]).await;
    let Some(bin) = poolers().into_iter().next() else { return };
    let spec = bed.pooler(bin, "pool");
    let pooler = KillOnDrop(spec.start().await.unwrap());
    let identity = identity(bed.dir.path());
    let path = |name: &str| bed.dir.path().join(name).display().to_string();
    let (certificate, key, authority) = (path("guard.pem"), path("guard.key"), path("authority.pem"));
    let check = async |port: u16| {
        let route = format!(
            "kind = \"pgbouncer\"\n[[route.pgbouncer]]\nguard = \"127.0.0.1:{port}\"\n\
             admin = \"host=127.0.0.1 port={} user=postgres\"\n\
             [route.tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\nauthority = \"{authority}\"",
            spec.port
        );
        Wishes { route, ..bed.wishes(&spec) }.check().await
    };
    let serve = async |wards: Vec<Ward>| {
        let guard = Guard::over(wards, bed.dir.path(), |_| ()).unwrap();
        let port = free_port().unwrap();
        let door = Guard::listen_on_network(&format!("127.0.0.1:{port}"), &identity).await.unwrap();
        tokio::spawn(guard.serve(door, None));
        port
    };
    let ward = Ward::PgBouncer(described(spec.port, pooler.0.ini_path.clone()), Some(Secret::new(PASSWORD)));
    let report = check(serve(vec![ward]).await).await;
    assert_silent(&report, "guard.refuses");
    assert_silent(&report, "pooler.unreachable");
    let report = check(serve(Vec::new()).await).await;
    assert_says(&report, "guard.refuses", Blocker, &["the guard has no", "name the same pooler"]);

    let old = "{\"now_ms\":1,\"epoch\":0,\"answer\":{\"status\":{\"held\":null,\"decided\":false,\"lapsed\":0}}}\n";
    let report = check(guard_that_says(&identity, old).await).await;
    assert_says(&report, "guard.refuses", Blocker, &["is an older pgleap", VERSION, "guards are upgraded first"]);
    let odd = "{\"now_ms\":1,\"epoch\":0,\"protocol\":99,\"version\":\"99\",\"answer\":\"flown\"}\n";
    let report = check(guard_that_says(&identity, odd).await).await;
    assert_says(&report, "guard.refuses", Blocker, &["answers what pgleap", VERSION, "unknown variant `flown`"]);
}
