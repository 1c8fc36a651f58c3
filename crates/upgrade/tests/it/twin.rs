//! What a twin reads of its source.

use pgleap_upgrade::{
    pg::Session,
    twin::{Hidden, hidden},
};

use crate::bed::{Bed, LONG, client, end, guard, small};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_of_others_are_counted_where_a_role_may_not_see_them() {
    let mut spec = small(15, 18, "hidden");
    spec.source_settings.push(("shared_preload_libraries".into(), "pg_stat_statements".into()));
    let bed = Bed::start(spec).await;
    let _guard = guard(&bed.lab);
    let config = bed.lab.directly(bed.lab.source_port, "shop");
    let session = client(&config).await;
    let looker = "CREATE EXTENSION pg_stat_statements SCHEMA public; CREATE ROLE looker LOGIN PASSWORD 'looks'";
    session.batch_execute(looker).await.unwrap();
    session.batch_execute("SELECT count(*) FROM pgbench_accounts").await.unwrap();
    let databases = ["shop".to_owned()];
    let seen = async |config: tokio_postgres::Config| {
        let session = Session::open(&config, "source".into(), LONG).await.unwrap();
        hidden(&session, "public", &databases).await.unwrap()
    };
    let mut looker = config.clone();
    looker.user("looker").password("looks");
    assert_eq!(seen(config).await, Hidden::default(), "a superuser sees all");
    let little = seen(looker).await;
    assert!(little.statements > 0 && little.share > 0.5 && little.share <= 1.0, "{little:?}");
    end(bed.lab).await;
}
