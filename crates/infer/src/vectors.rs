//! Vector instructions: which of those that the processor has are used.

use std::sync::atomic::{AtomicU8, Ordering};

/// Vector instructions that this processor has. Scores do not depend on them,
/// only the time does.
///
/// There is no value for instructions that it lacks, so that a value is the
/// proof that functions compiled for them may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vectors(Level);

/// From least to most; each has all that those before it have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Portable = 1,
    /// AVX2, FMA, BMI1 and BMI2.
    Avx2,
    /// AVX-512 F, BW and VL.
    Avx512,
    /// And VBMI.
    Avx512Vbmi,
}

/// What [`Vectors::used`] answers; 0 until it was asked the first time.
static USED: AtomicU8 = AtomicU8::new(0);

const LEVELS: [Level; 4] = [Level::Portable, Level::Avx2, Level::Avx512, Level::Avx512Vbmi];

impl Vectors {
    /// All that the processor has, from least to most; the first needs nothing.
    #[must_use]
    pub fn available() -> Vec<Self> {
        LEVELS.into_iter().take_while(|level| level.detected()).map(Self).collect()
    }

    /// By its name, where the processor has it: `portable`, `avx2`, `avx512`,
    /// `avx512vbmi`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::available().into_iter().find(|vectors| vectors.name() == name)
    }

    /// See [`Vectors::named`].
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Vbmi => "avx512vbmi",
        }
    }

    /// What scoring uses: the most that there is, unless less was asked for.
    #[must_use]
    pub fn used() -> Self {
        let used = USED.load(Ordering::Relaxed);
        match LEVELS.get(usize::from(used).wrapping_sub(1)) {
            Some(level) => Self(*level),
            None => {
                let most =
                    Self(LEVELS.into_iter().take_while(|level| level.detected()).last().unwrap_or(Level::Portable));
                most.use_at_most();
                most
            }
        }
    }

    /// Scoring in this process uses these from now on: to measure, or to
    /// compare with another machine.
    pub fn use_at_most(self) {
        USED.store(self.0 as u8, Ordering::Relaxed);
    }

    /// AVX2, FMA, BMI1 and BMI2.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn avx2(self) -> bool {
        self.0 >= Level::Avx2
    }

    /// AVX-512 F, BW and VL, and what [`Self::avx2`] says.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn avx512(self) -> bool {
        self.0 >= Level::Avx512
    }

    /// AVX-512 VBMI, and what [`Self::avx512`] says.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn avx512vbmi(self) -> bool {
        self.0 >= Level::Avx512Vbmi
    }
}

impl Level {
    /// Whether the processor has it, given that it has all before it.
    #[cfg(target_arch = "x86_64")]
    fn detected(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        match self {
            Self::Portable => true,
            Self::Avx2 => has!("avx2") && has!("fma") && has!("bmi1") && has!("bmi2"),
            Self::Avx512 => has!("avx512f") && has!("avx512bw") && has!("avx512vl"),
            Self::Avx512Vbmi => has!("avx512vbmi"),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn detected(self) -> bool {
        self == Self::Portable
    }
}
