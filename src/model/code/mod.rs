//! The codes of everything that can go wrong in front of a person: `TMB-` and four digits, in one table.
//!
//! Each code has one line of title, a cause and one thing to try; `docs/reference/errors.md` and
//! `tombolo explain TMB-...` are printed from here. A shipped code never changes its meaning. What happened
//! this time, with its values, is a [`Problem`]; the modules' own error enums turn into one where they
//! reach people. Nothing here decides, logs or prints.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

mod reference;
mod setup;
mod traffic;
mod trust;

#[cfg(test)]
mod tests;

pub use reference::reference_page;

/// A stable number for one kind of problem, shown as `TMB-1201`. Only those of the table exist.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Code(u16);

/// What the table says of one code, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeInfo {
    /// The code itself.
    pub code: Code,
    /// The situation, in one line.
    pub title: &'static str,
    /// How it comes to that.
    pub cause: &'static str,
    /// One thing to try, when the problem at hand has nothing more concrete to say.
    pub fix: &'static str,
}

/// The text is not a code of the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a code of this release: codes look like TMB-1201")]
pub struct CodeError(pub String);

impl Code {
    /// The number alone: 1201.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Its row of the table.
    #[must_use]
    pub fn info(self) -> &'static CodeInfo {
        let at = ALL.binary_search_by_key(&self.0, |info| info.code.0);
        &ALL[at.expect("a Code is only made from a row of the sorted table")]
    }

    /// Parses `TMB-1201`, in any case, or the bare digits.
    ///
    /// # Errors
    /// [`CodeError`] when the table has no such code.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        let unknown = || CodeError(text.chars().take(20).collect());
        let prefixed = text.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("TMB-"));
        let digits = if prefixed { &text[4..] } else { text };
        if digits.len() != 4 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(unknown());
        }
        let number: u16 = digits.parse().map_err(|_| unknown())?;
        let at = ALL.binary_search_by_key(&number, |info| info.code.0).map_err(|_| unknown())?;
        Ok(ALL[at].code)
    }

    /// The exit code of a command that ends with this problem: 2 usage, 3 bad state or config, 4 timeout,
    /// 1 for the rest (design section 10).
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::FLAG_INVALID
            | Self::TOKEN_NOT_A_TOKEN
            | Self::TOKEN_LIFE_INVALID
            | Self::TOKEN_USES_INVALID => 2,
            Self::COMMAND_TIMED_OUT | Self::JOIN_TIMED_OUT => 4,
            Self::NO_DAEMON | Self::NO_SUCH_EXPORT | Self::REQUEST_INVALID | Self::PART_FAILED => 1,
            Self(1000..=1199) => 3,
            _ => 1,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TMB-{:04}", self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Code {
    type Err = CodeError;
    fn from_str(text: &str) -> Result<Self, CodeError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Code {
    type Error = CodeError;
    fn try_from(text: String) -> Result<Self, CodeError> {
        Self::parse(&text)
    }
}

impl From<Code> for String {
    fn from(code: Code) -> Self {
        code.to_string()
    }
}

/// Something went wrong, told to a person: which kind, what happened with its values, one thing to try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Which kind of problem.
    pub code: Code,
    /// What happened this time, with the values that matter; one sentence, no full stop.
    pub message: String,
    /// One thing to try, concrete.
    pub fix: String,
}

impl Problem {
    /// A problem with the table's own advice.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), fix: code.info().fix.to_owned() }
    }

    /// The same with advice that names this case's values.
    #[must_use]
    pub fn with_fix(self, fix: impl Into<String>) -> Self {
        Self { fix: fix.into(), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}\n  try: {}", self.code, self.message, self.fix)
    }
}

impl std::error::Error for Problem {}

const COUNT: usize = setup::TABLE.len() + trust::TABLE.len() + traffic::TABLE.len();

/// Every code of this release, in ascending order.
pub const ALL: &[CodeInfo] = &{
    let mut all = [setup::TABLE[0]; COUNT];
    let parts = [setup::TABLE, trust::TABLE, traffic::TABLE];
    let (mut part, mut filled) = (0, 0);
    while part < parts.len() {
        let mut row = 0;
        while row < parts[part].len() {
            all[filled] = parts[part][row];
            row += 1;
            filled += 1;
        }
        part += 1;
    }
    all
};

/// Declares a part of the table: each row is a constant of [`Code`] and an entry of `TABLE`.
macro_rules! codes {
    ($($name:ident = $number:literal, $title:literal, $cause:literal, $fix:literal;)*) => {
        impl Code {
            $(#[doc = $title] pub const $name: Self = Self($number);)*
        }
        pub(super) const TABLE: &[CodeInfo] = &[
            $(CodeInfo { code: Code::$name, title: $title, cause: $cause, fix: $fix },)*
        ];
    };
}
use codes;
