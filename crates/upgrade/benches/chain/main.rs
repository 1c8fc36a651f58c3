//! What the chain costs, measured against the least that it could cost, in one run on one machine.
//!
//! `cargo bench -p pgleap-upgrade --bench chain [-- stall|fleet|hosts|recover|sync|throughput|plan|footprint|check|warm …]`; each prints a table, then JSON.
//! Ratios are what counts: both sides of each are measured in turn, under the same load, so that whatever else the
//! machine does meets both.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark ends at its first error, and talks to stdout"
)]

mod bare;
mod bed;
mod check;
mod footprint;
mod hosts;
mod phases;
mod plan;
mod recover;
mod stall;
mod sync;
mod table;
mod throughput;
mod warm;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        if wants("stall") {
            stall::run().await;
        }
        if wants("fleet") {
            stall::fleet().await;
        }
        if wants("hosts") {
            hosts::run().await;
        }
        if wants("recover") {
            recover::run().await;
        }
        if wants("sync") {
            sync::run().await;
        }
        if wants("throughput") {
            throughput::run().await;
        }
        if wants("plan") {
            plan::run();
        }
        if wants("footprint") {
            footprint::run().await;
        }
        if wants("warm") {
            warm::run().await;
        }
        if wants("check") {
            check::run().await;
        }
    });
}

/// Reads a number from the environment, such as `PGLEAP_BENCH_SCALE`.
fn option(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}
