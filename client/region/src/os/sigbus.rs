//! A page of a region that vanishes (somebody truncated the file, the medium failed) must not kill a sidecar that serves
//! other regions.
//!
//! The handler replaces the faulting page of a registered mapping by a private zero page and notes its offset:
//! [`crate::mapping::Mapping::poisoned`] tells. Any other fault goes to the handler that was there before. Only a process
//! that asks (the sidecar) has it: a service keeps its own handlers.

use super::{fork, registry};
use crate::error::Error;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Once;

struct Former(UnsafeCell<MaybeUninit<libc::sigaction>>);
// SAFETY: written once, under `Once`, before the handler that reads it is able to run.
unsafe impl Sync for Former {}

static FORMER: Former = Former(UnsafeCell::new(MaybeUninit::zeroed()));
static INSTALL: Once = Once::new();

/// Installs the guard for this process; later calls do nothing.
///
/// # Errors
/// `Io` if the system refuses the handler.
pub fn install() -> Result<(), Error> {
    let mut failed = None;
    INSTALL.call_once(|| {
        // SAFETY: all-zero is a valid sigaction (empty mask, no flags).
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        // The former action is fetched first, so that the handler never sees it unset.
        // SAFETY: both pointers are to sigactions of ours; the handler is async-signal-safe.
        let refused = unsafe {
            libc::sigaction(libc::SIGBUS, std::ptr::null(), (*FORMER.0.get()).as_mut_ptr()) != 0
                || libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) != 0
        };
        if refused {
            failed = Some(std::io::Error::last_os_error());
        }
    });
    match failed {
        None => Ok(()),
        Some(source) => Err(Error::io("install the SIGBUS guard", None, source)),
    }
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let fault = unsafe { (*info).si_addr() } as u64;
    let page = fault & !4095;
    let mut mended = false;
    registry::each(|index, base, len| {
        if page >= base && page - base < len && fork::zero_pages(page, 4096) {
            registry::note_lost(index, page - base);
            mended = true;
        }
    });
    if !mended {
        chain(signal, info, context);
    }
}

fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: FORMER was filled before this handler was installed.
    let former = unsafe { (*FORMER.0.get()).assume_init_ref() };
    if former.sa_sigaction == libc::SIG_DFL || former.sa_sigaction == libc::SIG_IGN {
        // The faulting instruction runs again under the default action, which ends the process as it would have.
        // SAFETY: resetting a disposition is async-signal-safe.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    } else if former.sa_flags & libc::SA_SIGINFO != 0 {
        // SAFETY: an action with SA_SIGINFO holds a function of this type.
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            unsafe { std::mem::transmute(former.sa_sigaction) };
        handler(signal, info, context);
    } else {
        // SAFETY: an action without SA_SIGINFO holds a function of this type.
        let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(former.sa_sigaction) };
        handler(signal);
    }
}
