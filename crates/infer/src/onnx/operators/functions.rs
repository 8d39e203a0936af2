//! Functions of single precision as ONNX Runtime approximates them: quotients
//! of polynomials for the logistic function and the hyperbolic tangent, a
//! polynomial between powers of two for the exponential. Each multiply-add is
//! rounded once, so the results are its own to the bit where its kernels use
//! the processor's fused instruction.

#[cfg(target_arch = "x86_64")]
use crate::vectors::Vectors;

/// `start * x^n + ...`, by Horner's rule.
#[inline(always)]
fn polynomial(coefficients: &[f32], x: f32) -> f32 {
    let (first, rest) = coefficients.split_first().unwrap_or((&0.0, &[]));
    rest.iter().fold(*first, |sum, coefficient| sum.mul_add(x, *coefficient))
}

/// `1 / (1 + exp(-x))`
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    const ABOVE: [f32; 5] = [4.370_31e-11, 1.156_273_2e-7, 6.085_749e-5, 8.513_771e-3, 2.482_879_5e-1];
    const BELOW: [f32; 6] =
        [6.102_473_7e-13, 5.761_021_4e-9, 6.291_068e-6, 1.701_988_2e-3, 1.168_176_5e-1, 9.931_519e-1];
    let x = x.clamp(-18.0, 18.0);
    let square = x * x;
    (x * polynomial(&ABOVE, square) / polynomial(&BELOW, square) + 0.5).clamp(0.0, 1.0)
}

/// The hyperbolic tangent.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    const ABOVE: [f32; 7] = [
        -2.760_768_4e-16,
        2.000_188e-13,
        -8.604_672e-11,
        5.122_297_3e-8,
        1.485_722_35e-5,
        6.372_619_5e-4,
        4.893_524_6e-3,
    ];
    const BELOW: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_7e-3, 4.893_525e-3];
    let x = x.clamp(-9.0, 9.0);
    let square = x * x;
    x * polynomial(&ABOVE, square) / polynomial(&BELOW, square)
}

/// The exponential.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const COEFFICIENTS: [f32; 7] =
        [1.378_059_4e-3, 8.373_124_5e-3, 4.166_953_6e-2, 1.666_647_2e-1, 4.999_998_5e-1, 1.0, 1.0];
    /// Adding it rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-103.972_084, 88.776_26);
    let power = x.mul_add(std::f32::consts::LOG2_E, ROUND) - ROUND;
    let rest = power.mul_add(-1.428_606_8e-6, power.mul_add(-6.931_457_5e-1, x));
    // In double precision the scale is exact, and what is too large or too
    // small rounds once.
    let scale = f64::from_bits(((1023 + power as i64) as u64) << 52);
    (f64::from(polynomial(&COEFFICIENTS, rest)) * scale) as f32
}

/// One of these functions.
#[derive(Debug, Clone, Copy)]
pub enum Approximated {
    /// [`sigmoid`]
    Sigmoid,
    /// [`tanh`]
    Tanh,
    /// [`exp`]
    Exp,
}

impl Approximated {
    /// By the name of its operator.
    pub fn named(operator: &str) -> Option<Self> {
        Some(match operator {
            "Sigmoid" => Self::Sigmoid,
            "Tanh" => Self::Tanh,
            "Exp" => Self::Exp,
            _ => return None,
        })
    }

    /// Of every value.
    pub fn of(self, values: &[f32]) -> Vec<f32> {
        #[cfg(target_arch = "x86_64")]
        if Vectors::used().avx2() {
            #[expect(unsafe_code, reason = "the processor has what the function is compiled for")]
            // SAFETY: `Vectors` says so only of what the processor has.
            return unsafe { self.of_avx2(values) };
        }
        self.of_plain(values)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn of_avx2(self, values: &[f32]) -> Vec<f32> {
        self.of_plain(values)
    }

    #[inline(always)]
    fn of_plain(self, values: &[f32]) -> Vec<f32> {
        match self {
            Self::Sigmoid => values.iter().map(|v| sigmoid(*v)).collect(),
            Self::Tanh => values.iter().map(|v| tanh(*v)).collect(),
            Self::Exp => values.iter().map(|v| exp(*v)).collect(),
        }
    }
}
