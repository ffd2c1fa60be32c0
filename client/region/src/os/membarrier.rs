//! `membarrier(GLOBAL_EXPEDITED)`: a full barrier on every running thread of every *registered* process.
//!
//! It lets a writer announce itself with a plain store. `PRIVATE_EXPEDITED` reaches one process only and `GLOBAL` takes
//! milliseconds; neither is used. A process registers *before* it publishes slots as asymmetric; registration does not
//! survive `exec` and does survive `fork`.

use crate::error::Error;
use crate::sync::{AtomicU32, Ordering};

const QUERY: libc::c_int = 0;
const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;
/// A process started with this variable set behaves as on a kernel without `membarrier`.
pub const DISABLE_VARIABLE: &str = "HEIRLOOM_NO_MEMBARRIER";

const UNKNOWN: u32 = 0;
const MISSING: u32 = 1;
const THERE: u32 = 2;
static AVAILABLE: AtomicU32 = AtomicU32::new(UNKNOWN);

fn call(command: libc::c_int) -> Result<libc::c_long, std::io::Error> {
    // A model's threads are no threads of the kernel: whatever it offers, nothing is asked of it.
    if cfg!(all(loom, test)) {
        return Ok(libc::c_long::MAX);
    }
    // SAFETY: membarrier takes no pointers.
    match unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) } {
        -1 => Err(std::io::Error::last_os_error()),
        answer => Ok(answer),
    }
}

/// Whether the kernel offers the barrier and nobody has forbidden it ([`DISABLE_VARIABLE`], [`set_available`]).
pub fn is_available() -> bool {
    match AVAILABLE.load(Ordering::Relaxed) {
        UNKNOWN => {
            let needed = libc::c_long::from(GLOBAL_EXPEDITED | REGISTER_GLOBAL_EXPEDITED);
            let there =
                std::env::var_os(DISABLE_VARIABLE).is_none() && call(QUERY).is_ok_and(|all| all & needed == needed);
            AVAILABLE.store(if there { THERE } else { MISSING }, Ordering::Relaxed);
            there
        }
        state => state == THERE,
    }
}

/// For tests of the symmetric gate: behave in this process as on a kernel without the barrier, or as it really is.
#[doc(hidden)]
pub fn set_available(available: bool) {
    AVAILABLE.store(if available { UNKNOWN } else { MISSING }, Ordering::Relaxed);
}

/// Makes this process one that [`barrier`] reaches; false where the kernel cannot.
pub fn register() -> bool {
    is_available() && call(REGISTER_GLOBAL_EXPEDITED).is_ok()
}

/// A full barrier on every running thread of every registered process of the host.
///
/// # Errors
/// `Io`; the caller then knows nothing about what asymmetric writers see.
pub fn barrier() -> Result<(), Error> {
    let refused = |source: std::io::Error| Error::io("membarrier GLOBAL_EXPEDITED", None, source);
    #[cfg(all(loom, test))]
    if let Some(done) = crate::sync::modelled::membarrier() {
        return if done { Ok(()) } else { Err(refused(std::io::ErrorKind::Unsupported.into())) };
    }
    if !is_available() {
        return Err(refused(std::io::ErrorKind::Unsupported.into()));
    }
    call(GLOBAL_EXPEDITED).map(|_| ()).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registered_process_gets_its_barrier() {
        if register() {
            barrier().unwrap();
        } else {
            assert!(barrier().is_err(), "never a barrier that was not made");
        }
    }
}
