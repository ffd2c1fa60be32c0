//! The writer gate: nothing of a generation becomes visible after it was sealed.

use std::rc::Rc;
use std::time::Instant;

use loom::thread;

use super::{Scene, bounds, spawn};
use crate::gate::freezer;
use crate::gate::page::GatePage;
use crate::sync::modelled::{Buffer, Memory, buffer_stores, explore};
use crate::sync::{Ordering, fence};

/// Freezes, waits for nobody, and commits the next generation; what the word was while the gate was closed.
fn switch(scene: &Scene) -> Option<u64> {
    let page = GatePage::of(&scene.mapping).unwrap();
    let open = page.load();
    let frozen = open.next_attempt(open.attempt()).unwrap();
    page.swap(open, frozen).unwrap();
    freezer::barrier(&scene.mapping).unwrap();
    let idle = freezer::wait_idle(&scene.mapping, scene.generation.get(), Instant::now()).is_ok();
    let seen = scene.word().load(Ordering::Relaxed);
    page.swap(frozen, if idle { frozen.committed().unwrap() } else { frozen.thawed() }).unwrap();
    idle.then_some(seen)
}

fn check(scene: &Scene, sealed: Option<u64>, written: u64) {
    fence(Ordering::SeqCst);
    let last = scene.word().load(Ordering::SeqCst);
    assert_eq!(last, sealed.unwrap_or(last), "a write of a generation that was sealed");
    assert_eq!(last, written, "what was acknowledged");
}

/// Two writes, the second after the short way was opened.
fn writes(scene: &Scene) -> u64 {
    (1..=2).fold(0, |last, n| if scene.write(n) { n } else { last })
}

#[test]
fn loom_symmetric_gate() {
    let (scene, _keeper) = Scene::new(false);
    explore("symmetric gate", bounds(Memory::C11, 3), move || {
        let writer = spawn(&scene, |scene| writes(&scene));
        let sealed = switch(&scene);
        let written = writer.join().unwrap();
        check(&scene, sealed, written);
    });
}

#[test]
fn loom_asymmetric_gate() {
    let (scene, _keeper) = Scene::new(true);
    explore("asymmetric gate", bounds(Memory::Tso, 3), move || {
        let buffer = Buffer::new();
        let (stores, memory) = (Rc::clone(&buffer), Rc::clone(&buffer));
        let writer = spawn(&scene, move |scene| {
            buffer_stores(&stores);
            let written = writes(&scene);
            fence(Ordering::SeqCst);
            written
        });
        let memory = thread::spawn(move || memory.drain_some(4));
        let sealed = switch(&scene);
        let written = writer.join().unwrap();
        memory.join().unwrap();
        check(&scene, sealed, written);
    });
}
