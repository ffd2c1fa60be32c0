//! Why something was refused or aborted: the protocol's `ErrorReason`, word for word, with exit codes.
//!
//! Whether a reason means "refused, nothing changed" or "aborted, generation unchanged" depends on how far the handover had
//! come: [`Reason::is_refusal`].

use super::record::Phase;
use super::words::words;

words! {
    /// `heirloom.v1.ErrorReason`, as far as an arbiter or its transports can give it.
    Reason {
        /// A name breaks the rules of names.
        InvalidName = "INVALID_NAME",
        /// A field has a value that is not allowed.
        InvalidField = "INVALID_FIELD",
        /// The request id stands for another request.
        RequestIdReused = "REQUEST_ID_REUSED",
        /// No such region.
        RegionNotFound = "REGION_NOT_FOUND",
        /// No such instance is attached.
        InstanceNotFound = "INSTANCE_NOT_FOUND",
        /// No such handover is remembered, or none is running.
        HandoverNotFound = "HANDOVER_NOT_FOUND",
        /// The target is not ready to own.
        TargetNotReady = "TARGET_NOT_READY",
        /// Several instances fit.
        TargetAmbiguous = "TARGET_AMBIGUOUS",
        /// No instance could own.
        NoStandby = "NO_STANDBY",
        /// The handover named is not what stands.
        NothingToRollBack = "NOTHING_TO_ROLL_BACK",
        /// A region format that the other side does not read.
        FormatIncompatible = "FORMAT_INCOMPATIBLE",
        /// A value's schema that the target does not read.
        SchemaUnreadable = "SCHEMA_UNREADABLE",
        /// The name exists as another kind.
        KindMismatch = "KIND_MISMATCH",
        /// The histogram exists with other buckets.
        BucketsMismatch = "BUCKETS_MISMATCH",
        /// The abort came after the commit point.
        AlreadyCommitted = "ALREADY_COMMITTED",
        /// Nobody would take over from the owner.
        OwnerWouldVacate = "OWNER_WOULD_VACATE",
        /// The kernel does not let the arbiter kill the owner and prove its death.
        ForceUnavailable = "FORCE_UNAVAILABLE",
        /// Compare-and-swap on the generation failed.
        GenerationMismatch = "GENERATION_MISMATCH",
        /// Another handover is under way.
        HandoverInProgress = "HANDOVER_IN_PROGRESS",
        /// A hook said no.
        Vetoed = "VETOED",
        /// The target's prepare hook did not answer in time.
        PrepareTimeout = "PREPARE_TIMEOUT",
        /// The target's death was proved.
        TargetDied = "TARGET_DIED",
        /// The owner writes faster than pages can be checked.
        PrecopyNotConverging = "PRECOPY_NOT_CONVERGING",
        /// The owner's flush hook did not answer in time.
        FlushTimeout = "FLUSH_TIMEOUT",
        /// The owner's writers did not leave their sections within the freeze budget.
        FreezeTimeout = "FREEZE_TIMEOUT",
        /// The owner's death was proved.
        OwnerDied = "OWNER_DIED",
        /// Somebody asked for the abort.
        AbortRequested = "ABORT_REQUESTED",
        /// The arbiter stopped or died on the way.
        SidecarRestarted = "SIDECAR_RESTARTED",
        /// The region is at its limit.
        RegionFull = "REGION_FULL",
        /// A table is full.
        TableFull = "TABLE_FULL",
        /// A value is larger than its object allows.
        ValueTooLarge = "VALUE_TOO_LARGE",
        /// A message is larger than allowed.
        MessageTooLarge = "MESSAGE_TOO_LARGE",
        /// The caller may not.
        CallerDenied = "CALLER_DENIED",
        /// The caller did not say who it is.
        CallerUnknown = "CALLER_UNKNOWN",
        /// The arbiter is stopping.
        ShuttingDown = "SHUTTING_DOWN",
        /// The other side cannot be reached.
        Unreachable = "UNREACHABLE",
        /// Bytes in the region are wrong.
        RegionCorrupt = "REGION_CORRUPT",
        /// A checksum over pages is wrong.
        DigestMismatch = "DIGEST_MISMATCH",
        /// The region is held back because of a fault.
        RegionQuarantined = "REGION_QUARANTINED",
        /// Owners die one after the other; the owned state is held back until an explicit handover.
        OwnerCrashLoop = "OWNER_CRASH_LOOP",
        /// The system said no.
        Io = "IO",
    }
}

impl Reason {
    /// Whether a handover that ended so in `phase` counts as refused (nothing had changed) rather than aborted.
    ///
    /// `None`: it never began.
    pub fn is_refusal(self, phase: Option<Phase>) -> bool {
        use Reason::*;
        match self {
            PrecopyNotConverging | FlushTimeout | FreezeTimeout | OwnerDied | AbortRequested | SidecarRestarted => {
                false
            }
            // What a switch that has begun can end with, too.
            TargetNotReady | TargetDied | Vetoed | PrepareTimeout | SchemaUnreadable | KindMismatch
            | ForceUnavailable | RegionFull | TableFull | ValueTooLarge | RegionCorrupt | DigestMismatch
            | RegionQuarantined | Io | Unspecified => matches!(phase, None | Some(Phase::Unspecified | Phase::Prepare)),
            // About the request alone, however far the handover that it speaks of has come.
            _ => true,
        }
    }

    /// The command line's exit code: 2 usage, 3 refused, 4 aborted, 5 no sidecar, 6 corrupt, 1 anything else.
    pub fn exit_code(self, phase: Option<Phase>) -> u8 {
        use Reason::*;
        match self {
            InvalidName | InvalidField | RequestIdReused => 2,
            ShuttingDown | Unreachable => 5,
            RegionCorrupt | DigestMismatch | RegionQuarantined => 6,
            Unspecified | Io => 1,
            _ if self.is_refusal(phase) => 3,
            _ => 4,
        }
    }

    /// Whether the same request may succeed later without a change to code, build or data.
    pub fn is_retryable(self) -> bool {
        use Reason::*;
        matches!(
            self,
            TargetNotReady
                | NoStandby
                | HandoverInProgress
                | PrepareTimeout
                | TargetDied
                | PrecopyNotConverging
                | FlushTimeout
                | FreezeTimeout
                | OwnerDied
                | AbortRequested
                | SidecarRestarted
                | ShuttingDown
                | Unreachable
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_back() {
        for &reason in Reason::ALL {
            assert_eq!(Reason::from_word(reason.as_str()), reason);
            let json = serde_json::to_string(&reason).expect("a word");
            assert_eq!(serde_json::from_str::<Reason>(&json).expect("a word"), reason);
        }
        assert_eq!(serde_json::from_str::<Reason>("\"FROM_A_NEWER_BUILD\"").expect("a word"), Reason::Unspecified);
    }

    #[test]
    fn the_phase_decides_between_refused_and_aborted() {
        assert_eq!(Reason::Vetoed.exit_code(Some(Phase::Prepare)), 3);
        assert_eq!(Reason::Vetoed.exit_code(Some(Phase::Flush)), 4);
        assert_eq!(Reason::TargetDied.exit_code(None), 3);
        assert_eq!(Reason::AbortRequested.exit_code(Some(Phase::Prepare)), 4);
        assert_eq!(Reason::GenerationMismatch.exit_code(None), 3);
        assert_eq!(Reason::TableFull.exit_code(Some(Phase::Freeze)), 4);
        assert_eq!(Reason::AlreadyCommitted.exit_code(Some(Phase::Drain)), 3, "the abort was refused");
        assert_eq!(Reason::OwnerCrashLoop.exit_code(None), 3);
        assert_eq!(Reason::RegionCorrupt.exit_code(Some(Phase::Seal)), 6);
        assert_eq!(Reason::InvalidField.exit_code(None), 2);
    }
}
