//! Points and weights that integrate polynomials from 0 to 1 exactly.

use std::f64::consts::PI;

/// `(point, weight)` of Gauss and Legendre's rule: exact for polynomials of a
/// degree below `2 * count`.
pub fn rule(count: usize) -> Vec<(f64, f64)> {
    let n = count as f64;
    let mut found = vec![(0.5, 1.0); count];
    for at in 0..count.div_ceil(2) {
        // Newton's method on the Legendre polynomial, from Tricomi's estimate.
        let mut x = (PI * (at as f64 + 0.75) / (n + 0.5)).cos();
        let mut slope = 1.0;
        for _ in 0..100 {
            let (mut before, mut value) = (1.0, x);
            for k in 2..=count {
                let k = k as f64;
                (before, value) = (value, ((2.0 * k - 1.0) * x * value - (k - 1.0) * before) / k);
            }
            slope = n * (x * value - before) / (x * x - 1.0);
            let step = value / slope;
            x -= step;
            if step.abs() <= 1e-16 {
                break;
            }
        }
        let weight = 1.0 / ((1.0 - x * x) * slope * slope);
        found[at] = (0.5 - 0.5 * x, weight);
        found[count - 1 - at] = (0.5 + 0.5 * x, weight);
    }
    found
}

/// Points that integrate the paths of so many players.
pub fn points(players: usize) -> usize {
    players.div_ceil(2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_power_that_a_path_can_have_is_integrated_exactly() {
        for players in 1..200 {
            let rule = rule(points(players));
            for power in 0..players {
                let sum: f64 = rule.iter().map(|(t, w)| w * t.powi(power as i32)).sum();
                let wanted = 1.0 / (power as f64 + 1.0);
                assert!((sum - wanted).abs() <= 1e-13 * wanted, "{players} players, power {power}: {sum}");
            }
        }
    }
}
