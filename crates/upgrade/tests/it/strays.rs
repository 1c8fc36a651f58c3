//! Who writes to the side that is fenced: told of each write, and of nothing that pgleap itself does there.

use pgleap_local::Auth;
use pgleap_upgrade::{
    pg::{Side, marker, signpost},
    switchover::strays::Strays,
    world::Database,
};

use crate::preflight::Bed;

/// 13 and 14 decode transactions without a published change too, with nothing between Begin and Commit.
const MAJORS: [u16; 3] = [13, 14, 15];

#[tokio::test]
async fn stray_writes_are_told_and_pgleaps_own_ddl_is_none() {
    for major in MAJORS {
        let Some(bed) = Bed::start(major, Auth::Trust).await else { continue };
        bed.run("postgres", &["CREATE DATABASE app"]).await;
        bed.run("app", &["CREATE TABLE kept (a int PRIMARY KEY)", "CREATE PUBLICATION pgleap_7f3a FOR ALL TABLES"])
            .await;
        let world = bed.wishes(&bed.pooler("pgbouncer".into(), "pool")).world().await;
        let app = world.source.db("app").await.unwrap();
        app.batch(marker::CREATE).await.unwrap();
        let strays = Strays::watch(&world, Side::Source, &[Database { oid: 1, name: "app".into() }]).await.unwrap();

        signpost::refuse_writes(&app, true).await.unwrap();
        signpost::accept_writes(&app).await.unwrap();
        signpost::refuse_writes(&app, false).await.unwrap();
        assert_eq!(strays.look().await.unwrap(), Vec::<String>::new(), "{major}: a signpost is no stray");
        // a superuser passes the signpost if it says so
        bed.run("app", &["SET session_replication_role = replica; INSERT INTO kept VALUES (1)"]).await;
        let told = strays.look().await.unwrap();
        assert!(told.len() == 1 && told[0].contains("in database `app` committed at"), "{major}: {told:?}");
        assert_eq!(strays.look().await.unwrap(), Vec::<String>::new(), "{major}: told once");
    }
}
