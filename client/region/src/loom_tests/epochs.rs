//! Page epochs: no round misses a write, and no check calls a page corrupt that is being written.

use std::rc::Rc;
use std::time::Instant;

use loom::thread;

use super::{Scene, bounds, spawn};
use crate::digest::marks::{DirtyPages, Tables};
use crate::digest::pages::PageCopy;
use crate::digest::rounds::raise_epoch;
use crate::digest::verify::{PageState, page_state};
use crate::gate::freezer;
use crate::gate::page::GatePage;
use crate::layout::{PAGE, SegmentKind};
use crate::sync::modelled::{Buffer, Memory, buffer_stores, explore};
use crate::sync::{Ordering, fence};

fn page(scene: &Scene) -> u64 {
    (scene.at - scene.mapping.segment(SegmentKind::Owned).offset) / PAGE
}

fn mark(scene: &Scene) -> Option<u64> {
    let page = page(scene);
    DirtyPages::new(&scene.mapping, 0, page).next().filter(|(found, _)| *found == page).map(|(_, mark)| mark)
}

/// One round: the epoch that it has raised, and what it read of the page, if that was to be read. `None`: it was blocked.
fn round(scene: &Scene) -> Option<(u64, Option<u64>)> {
    let epoch = raise_epoch(GatePage::of(&scene.mapping).unwrap()).unwrap();
    freezer::barrier(&scene.mapping).unwrap();
    let generation = scene.generation.get();
    freezer::wait_grace(&scene.mapping, generation, epoch as u32, Instant::now()).ok()?;
    let is_old = mark(scene).is_some_and(|mark| mark < epoch);
    Some((epoch, is_old.then(|| scene.word().load(Ordering::Relaxed))))
}

/// After everything: the page is as it was digested, or marked for the next round.
fn check(scene: &Scene, round: Option<(u64, Option<u64>)>) {
    fence(Ordering::SeqCst);
    let Some((epoch, read)) = round else { return };
    let (last, is_marked) = (scene.word().load(Ordering::SeqCst), mark(scene).is_some_and(|mark| mark >= epoch));
    assert!(is_marked || last == read.unwrap_or(0), "a write that the round missed: {last}, digested {read:?}");
}

#[test]
fn loom_rounds_with_announced_sections() {
    let (scene, _keeper) = Scene::new(false);
    explore("rounds, symmetric", bounds(Memory::C11, 3), move || {
        let writer = spawn(&scene, |scene| (1..=2).for_each(|n| assert!(scene.write(n))));
        let round = round(&scene);
        writer.join().unwrap();
        check(&scene, round);
    });
}

#[test]
fn loom_rounds_with_a_barrier() {
    let (scene, _keeper) = Scene::new(true);
    explore("rounds, asymmetric", bounds(Memory::Tso, 3), move || {
        let buffer = Buffer::new();
        let (stores, memory) = (Rc::clone(&buffer), Rc::clone(&buffer));
        let writer = spawn(&scene, move |scene| {
            buffer_stores(&stores);
            (1..=2).for_each(|n| assert!(scene.write(n)));
            fence(Ordering::SeqCst);
        });
        let memory = thread::spawn(move || memory.drain_some(4));
        let round = round(&scene);
        writer.join().unwrap();
        memory.join().unwrap();
        check(&scene, round);
    });
}

#[test]
fn loom_a_page_under_the_pen_is_not_corrupt() {
    let (scene, _keeper) = Scene::new(false);
    explore("verification", bounds(Memory::C11, 3), move || {
        let writer = spawn(&scene, |scene| assert!(scene.write(1)));
        // Nothing was digested yet, and nothing written: the last round is the one before the first.
        let tables = Tables::of(&scene.mapping);
        let last_round = GatePage::of(&scene.mapping).unwrap().epoch().load(Ordering::Relaxed) - 1;
        let state = page_state(&scene.mapping, tables, last_round, page(&scene), &mut PageCopy::new()).unwrap();
        assert!(matches!(state, PageState::Empty | PageState::Dirty), "{state:?}");
        writer.join().unwrap();
    });
}
