//! Threads' own values.

use super::is_model;

/// A thread's own value; the threads of a model, which are no threads of the system, have others.
pub(crate) struct Local<T: 'static> {
    pub(crate) outside: std::thread::LocalKey<T>,
    pub(crate) inside: &'static loom::thread::LocalKey<T>,
}

impl<T> Local<T> {
    pub(crate) fn with<R>(&'static self, what: impl FnOnce(&T) -> R) -> R {
        if is_model() { self.inside.with(what) } else { self.outside.with(what) }
    }
    pub(crate) fn try_with<R>(&'static self, what: impl FnOnce(&T) -> R) -> Result<R, Ended> {
        let found = if is_model() { self.inside.try_with(what).ok() } else { self.outside.try_with(what).ok() };
        found.ok_or(Ended)
    }
}

/// The thread is at its end.
#[derive(Debug)]
pub(crate) struct Ended;

macro_rules! of_threads {
    ($(static $name:ident: $value:ty = const $init:block;)*) => {$(
        static $name: $crate::sync::modelled::Local<$value> = {
            std::thread_local! { static OUTSIDE: $value = const $init; }
            loom::thread_local! { static INSIDE: $value = $init; }
            $crate::sync::modelled::Local { outside: OUTSIDE, inside: &INSIDE }
        };
    )*};
}
pub(crate) use of_threads as thread_local;
