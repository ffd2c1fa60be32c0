//! A child under ptrace, stopped where it stopped itself, and stepped from there.

use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::scene::Scene;

/// One child at a time is started while its descriptor has no close-on-exec flag.
static STARTING: Mutex<()> = Mutex::new(());

pub(crate) struct Tracee {
    child: Child,
    pid: Pid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stepped {
    On,
    /// It has stopped itself for the second time.
    Over,
}

impl Tracee {
    /// Starts the child and awaits its first stop. Fails by name where ptrace is not permitted.
    pub(crate) fn start(scene: &mut Scene) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom-test-helper"));
        let (row, incarnation) = scene.seat.map_or((0, 0), |seat| (seat.row, seat.incarnation));
        let fd = scene.liveness.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        command.arg("steps").arg(scene.primitive.word()).arg(scene.path());
        command.args([row.to_string(), incarnation.to_string(), fd.to_string()]).stdin(Stdio::null());
        stay_on_this_processor();
        let child = {
            let _one = STARTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(fd) = &scene.liveness {
                fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).expect("our descriptor");
            }
            let child = command.spawn().expect("the helper");
            // Both sides give it up: the child's mapping alone proves its life.
            scene.liveness = None;
            child
        };
        let pid = Pid::from_raw(child.id().cast_signed());
        let mut tracee = Self { child, pid };
        // The exec of a traced child would stop with SIGTRAP; this one asks for it later, and stops itself.
        match waitpid(pid, None).expect("our child") {
            WaitStatus::Stopped(_, Signal::SIGSTOP) => tracee,
            other => {
                let _ = tracee.child.kill();
                panic!(
                    "expected the helper to stop under ptrace, found {other:?}. Where ptrace is not permitted (a container \
                     without CAP_SYS_PTRACE, a seccomp filter) nothing can be shown here: HEIRLOOM_SKIP_PTRACE=1 says so \
                     and skips it"
                );
            }
        }
    }

    /// One instruction.
    pub(crate) fn step(&mut self) -> Stepped {
        ptrace::step(self.pid, None).expect("a stopped child");
        match waitpid(self.pid, None).expect("our child") {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Stepped::On,
            WaitStatus::Stopped(_, Signal::SIGSTOP) => Stepped::Over,
            other => panic!("expected a stop after one instruction, found {other:?}"),
        }
    }

    /// SIGKILL, and the kernel's word that it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tracer and child take turns: on one processor nobody has to wake another one up. The child inherits it.
fn stay_on_this_processor() {
    let mut here = CpuSet::new();
    if sched_getcpu().and_then(|cpu| here.set(cpu)).is_ok() {
        // Elsewhere it is only slower.
        let _ = sched_setaffinity(Pid::from_raw(0), &here);
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        self.kill();
    }
}
