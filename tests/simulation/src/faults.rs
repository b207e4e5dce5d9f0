//! What goes wrong, and how often.

use std::fmt;

use crate::dice::Dice;

/// What can meet a port call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The process ends before the call has its effect.
    CrashBefore,
    /// The process ends after the effect, without hearing the answer.
    CrashAfter,
    /// The process stands still before the call, maybe until long after its lease has ended.
    FreezeBefore,
    /// The process stands still after the effect.
    FreezeAfter,
    /// No answer, and no effect.
    Unanswered,
    /// The effect, and no answer.
    AnswerLost,
    /// Too much at once.
    Throttled,
    /// Another transaction holds one of the items.
    Conflict,
    /// The answer is of some time ago.
    Stale,
    /// The service is down.
    Down,
    /// The caller may not do this now.
    Refused,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 11] = [
        Fault::CrashBefore,
        Fault::CrashAfter,
        Fault::FreezeBefore,
        Fault::FreezeAfter,
        Fault::Unanswered,
        Fault::AnswerLost,
        Fault::Throttled,
        Fault::Conflict,
        Fault::Stale,
        Fault::Down,
        Fault::Refused,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::CrashBefore => "crash before",
            Fault::CrashAfter => "crash after",
            Fault::FreezeBefore => "freeze before",
            Fault::FreezeAfter => "freeze after",
            Fault::Unanswered => "unanswered",
            Fault::AnswerLost => "answer lost",
            Fault::Throttled => "throttled",
            Fault::Conflict => "conflict",
            Fault::Stale => "stale",
            Fault::Down => "down",
            Fault::Refused => "refused",
        })
    }
}

/// How often each fault meets a call, per mille. Each seed draws its own, so that runs differ in kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    per_mille: [u32; Fault::ALL.len()],
}

impl Rates {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let mut rates = Self::default();
        for fault in Fault::ALL {
            // Half of the faults are absent from a run, some are frequent.
            let rate = dice.weighted(&[(4, 0), (3, 5), (2, 20), (1, 60)]);
            rates.per_mille[fault as usize] = match fault {
                // Conflicts come from overlapping transactions, and outages and revocations are planned.
                Fault::Conflict | Fault::Down | Fault::Refused => 0,
                Fault::CrashBefore | Fault::CrashAfter | Fault::FreezeBefore | Fault::FreezeAfter => rate / 2,
                _ => rate,
            };
        }
        rates
    }

    /// How often a fault meets a call of `port`: calls that are rare and matter much meet more of them, and the due
    /// index, which each look asks for every shard, fewer.
    pub(crate) fn of(&self, fault: Fault, port: &str) -> u32 {
        let rate = self.per_mille[fault as usize];
        match port {
            "send_group_messages"
            | "send_welcomes"
            | "generate_data_key"
            | "upload_key_package"
            | "publish_identity_update" => (rate * 12).min(300),
            "key_packages" | "inbox_ids" => (rate * 5).min(300),
            "due" => rate.div_ceil(4),
            _ => rate,
        }
    }
}
