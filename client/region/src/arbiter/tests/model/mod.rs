//! The protocol, model-checked: `stateright` explores the very machine, verdict, journal and superblock code that runs, in a
//! world where everybody may die and every message may come late, twice, out of order or never.
//!
//! What is real: `Machine::step`, `policy::judge`, `undo::undo`, `Journal::{load, close_running}`, `restart::first_events`,
//! `superblock::Pair::current`, `GateWord`. What is modelled ([`world`], [`sidecar`]): the region's persistent words, the
//! runner's queue (one event after the other, effects in order, freeze to commit in its own small steps), instances that
//! announce, check, write and leave, and deploy tools that ask, ask again and abort. The sidecar may die between any two
//! things that others can see; a start of it knows nothing but the region.
//!
//! What holds in each state stands in [`truths`]; that the truths are not vacuous, the `sometimes` there and the list of
//! `tests/mutants.toml` show. Each scene bounds what may go wrong, so that it can be explored to its end:
//!
//! ```sh
//! HEIRLOOM_MODEL_STATES=20000000 cargo test --release -p heirloom-region arbiter::tests::model -- --nocapture
//! ```

mod moves;
mod sidecar;
mod truths;
mod world;

use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, UniformChooser};

use world::{Scene, Troubles, World};

/// States of a scene that are visited at most, unless `HEIRLOOM_MODEL_STATES` says otherwise.
const STATES_MAX: usize = 60_000;

fn states_max() -> usize {
    std::env::var("HEIRLOOM_MODEL_STATES").map_or(STATES_MAX, |n| n.parse().expect("a number of states"))
}

/// Explores breadth first, to the end or to the limit; panics with the shortest path to a state that breaks a truth.
fn explore(name: &str, scene: Scene) {
    let began = Instant::now();
    let names = scene.wanted;
    let checker = scene.checker().threads(2).target_state_count(states_max());
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let whole = checker.state_count() < states_max();
    println!(
        "{name}: {} states, {} transitions, depth {}{}, {:.1?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        if whole { ", all of them" } else { "" },
        began.elapsed(),
    );
    for (truth, path) in checker.discoveries() {
        if truths::is_truth(truth) {
            let actions = path.into_actions();
            panic!("{name}: \"{truth}\" is broken after {} steps: {actions:#?}", actions.len());
        }
    }
    for wanted in names.iter().filter(|_| whole) {
        assert!(checker.discovery(wanted).is_some(), "{name}: never met \"{wanted}\": the scene shows nothing of it");
    }
}

#[test]
fn a_handover_with_a_sidecar_that_dies_anywhere() {
    let troubles = Troubles { sidecar_deaths: 2, thaws: 1, ..Troubles::default() };
    let wanted = &["committed", "aborted", "closed as committed by the next sidecar"];
    explore("sidecar deaths", Scene { tools: 1, troubles, wanted, ..Scene::default() });
}

#[test]
fn a_handover_whose_owner_and_target_die_anywhere() {
    let troubles = Troubles { deaths: 2, sidecar_deaths: 1, ..Troubles::default() };
    let wanted = &["committed", "aborted", "promoted"];
    explore("deaths", Scene { tools: 1, troubles, wanted, ..Scene::default() });
}

#[test]
fn two_deploy_tools_at_once() {
    let troubles = Troubles { sidecar_deaths: 1, aborts: 1, vetoes: 1, ..Troubles::default() };
    let wanted = &["committed", "aborted", "both tools' switches committed"];
    explore("two tools", Scene { tools: 2, standbys: 2, troubles, wanted, writers: 0, ..Scene::default() });
}

#[test]
fn rollbacks_that_are_asked_for_twice() {
    let troubles = Troubles { sidecar_deaths: 1, vetoes: 1, ..Troubles::default() };
    let wanted = &["committed", "rolled back", "a rollback aborted", "rolled back already"];
    explore(
        "rollbacks",
        Scene { tools: 1, undoers: 2, writers: 0, generation_max: 5, troubles, wanted, ..Scene::default() },
    );
}

#[test]
fn a_rollback_while_owner_and_target_die_and_others_hand_over() {
    let troubles = Troubles { deaths: 1, sidecar_deaths: 1, ..Troubles::default() };
    let wanted = &["rolled back", "a rollback aborted", "promoted", "handed over again after a rollback"];
    let scene = Scene {
        tools: 2,
        undoers: 1,
        standbys: 2,
        writers: 0,
        generation_max: 5,
        troubles,
        wanted,
        ..Scene::default()
    };
    explore("rollback and deaths", scene);
}

#[test]
fn writers_that_stay_in_their_sections_and_force() {
    let troubles = Troubles { stuck: 2, deadlines: 1, sidecar_deaths: 1, thaws: 1, deaths: 0, ..Troubles::default() };
    let wanted = &["committed", "aborted", "forced"];
    explore("force", Scene { tools: 1, force: true, troubles, wanted, ..Scene::default() });
}

#[test]
fn a_kill_that_is_refused_deposes_nobody() {
    let troubles = Troubles { stuck: 2, deadlines: 2, refusals: 1, ..Troubles::default() };
    let wanted = &["committed", "aborted", "forced"];
    explore("refused", Scene { tools: 2, standbys: 2, force: true, troubles, wanted, ..Scene::default() });
}

#[test]
fn owners_that_leave_and_regions_that_stand_vacant() {
    let troubles = Troubles { leaves: 2, sidecar_deaths: 1, deaths: 1, vetoes: 1, ..Troubles::default() };
    let wanted = &["departed", "succeeded"];
    explore("leaving", Scene { tools: 0, generation: 1, troubles, wanted, ..Scene::default() });
}

#[test]
fn a_region_that_kills_its_owners_is_held_until_somebody_asks() {
    let troubles = Troubles { deaths: 2, loops: 1, sidecar_deaths: 1, ..Troubles::default() };
    let wanted = &["held back", "committed"];
    explore("crash loop", Scene { tools: 1, troubles, wanted, ..Scene::default() });
}

/// Everything at once, far too much to be explored to its end: random walks, with a printed seed.
#[test]
fn walks_through_all_troubles_at_once() {
    let seed = std::env::var("HEIRLOOM_SEED").map_or_else(|_| rand_seed(), |s| s.parse().expect("a number"));
    println!("HEIRLOOM_SEED={seed}");
    let began = Instant::now();
    let checker = Scene::everything().checker().threads(2).target_state_count(states_max());
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).timeout(Duration::from_secs(600));
    let checker = checker.spawn_simulation(seed, UniformChooser).join();
    println!("walks: {} steps, {:.1?}", checker.state_count(), began.elapsed());
    for (truth, path) in checker.discoveries() {
        assert!(!truths::is_truth(truth), "\"{truth}\" is broken (seed {seed}): {:#?}", path.into_actions());
    }
}

fn rand_seed() -> u64 {
    crate::os::random_bytes::<8>().map_or(1, u64::from_le_bytes)
}

/// The model runs as told: a handover without any trouble commits.
#[test]
fn without_troubles_the_tool_gets_what_it_asked_for() {
    let scene = Scene { tools: 1, ..Scene::default() };
    let checker = scene.checker().threads(1).spawn_bfs().join();
    assert!(checker.discovery("committed").is_some());
    let path = checker.discovery("committed").expect("found").into_states();
    let last: &World = path.last().expect("a state");
    assert_eq!(last.gate.generation().get(), 3);
}
