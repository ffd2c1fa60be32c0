//! The types themselves: as large as memory's own, and what is done with them goes where their word is.

use core::sync::atomic as raw;

use super::{Change, Ordering, Place, change_word, load_word, place, set_aside, store_word};

macro_rules! atomic {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $value:ty, $to:expr, $from:expr) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name($raw);

        #[allow(missing_docs, clippy::missing_errors_doc)]
        impl $name {
            pub const fn new(value: $value) -> Self {
                Self(<$raw>::new(value))
            }
            pub fn as_ptr(&self) -> *mut $value {
                self.0.as_ptr()
            }
            pub fn into_inner(self) -> $value {
                self.0.into_inner()
            }
            fn at(&self) -> usize {
                std::ptr::from_ref(self).addr()
            }
            fn initial(&self) -> u64 {
                $to(self.0.load(Ordering::SeqCst))
            }
            pub fn load(&self, order: Ordering) -> $value {
                match place(self.at(), || self.initial()) {
                    Place::Memory => self.0.load(order),
                    Place::Constant(value) => $from(value),
                    Place::Word(word, memory) => $from(load_word(self.at(), &word, memory, order)),
                }
            }
            pub fn store(&self, value: $value, order: Ordering) {
                match place(self.at(), || self.initial()) {
                    Place::Memory => self.0.store(value, order),
                    Place::Constant(_) => set_aside(self.at(), self.initial(), $to(value)),
                    Place::Word(word, memory) => store_word(self.at(), &word, memory, $to(value), order),
                }
            }
            fn change(&self, success: Ordering, failure: Ordering, change: &Change) -> Result<$value, $value> {
                match place(self.at(), || self.initial()) {
                    Place::Memory => loop {
                        let old = self.0.load(Ordering::SeqCst);
                        let Some(new) = change.of($to(old)) else { return Err(old) };
                        if self.0.compare_exchange(old, $from(new), Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                            return Ok(old);
                        }
                    },
                    Place::Constant(old) => match change.of(old) {
                        None => Err($from(old)),
                        Some(new) => {
                            if new != old {
                                set_aside(self.at(), self.initial(), new);
                            }
                            Ok($from(old))
                        }
                    },
                    Place::Word(word, memory) => {
                        change_word(self.at(), &word, memory, success, failure, change).map($from).map_err($from)
                    }
                }
            }
            fn changed(&self, order: Ordering, change: &Change) -> $value {
                self.change(order, Ordering::Relaxed, change).unwrap_or_else(|old| old)
            }
            pub fn swap(&self, new: $value, order: Ordering) -> $value {
                self.changed(order, &Change::Swap($to(new)))
            }
            pub fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.change(success, failure, &Change::Exchange($to(old), $to(new)))
            }
        }
    };
}

macro_rules! numbers {
    ($name:ident, $value:ty) => {
        #[allow(missing_docs, clippy::missing_errors_doc)]
        impl $name {
            pub fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(old, new, success, failure)
            }
            pub fn fetch_add(&self, n: $value, order: Ordering) -> $value {
                self.changed(order, &Change::Add(n.into()))
            }
            pub fn fetch_sub(&self, n: $value, order: Ordering) -> $value {
                self.changed(order, &Change::Sub(n.into()))
            }
            pub fn fetch_or(&self, n: $value, order: Ordering) -> $value {
                self.changed(order, &Change::Or(n.into()))
            }
            pub fn fetch_and(&self, n: $value, order: Ordering) -> $value {
                self.changed(order, &Change::And(n.into()))
            }
            pub fn fetch_xor(&self, n: $value, order: Ordering) -> $value {
                self.changed(order, &Change::Xor(n.into()))
            }
            pub fn fetch_max(&self, n: $value, order: Ordering) -> $value {
                self.changed(order, &Change::Max(n.into()))
            }
            pub fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                mut change: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut old = self.load(fetch);
                while let Some(new) = change(old) {
                    match self.compare_exchange_weak(old, new, set, fetch) {
                        Ok(old) => return Ok(old),
                        Err(found) => old = found,
                    }
                }
                Err(old)
            }
        }
    };
}

atomic!(
    /// A word of 64 bits.
    AtomicU64, raw::AtomicU64, u64, |v: u64| v, |v: u64| v
);
numbers!(AtomicU64, u64);
atomic!(
    /// A word of 32 bits.
    AtomicU32, raw::AtomicU32, u32, u64::from, |v: u64| v as u32
);
numbers!(AtomicU32, u32);
atomic!(
    /// A flag.
    AtomicBool, raw::AtomicBool, bool, u64::from, |v: u64| v != 0
);
