//! Support vector machines of `ai.onnx.ml`, in single precision. Decision
//! values add up in double precision, as in ONNX Runtime; pairwise
//! probabilities are coupled by the method of Wu, Lin and Weng (2004).

use super::super::node::{Classes, Inputs, Run, Settings};
use super::super::tensor::{Data, Tensor, volume};
use super::functions::tanh;
use super::linear::Linear;
use super::scores::{Second, Transform, logistic};
use crate::error::{Error, Result};

/// Prepares one of these operators.
pub fn build(settings: &mut Settings<'_>) -> Result<Option<Run>> {
    Ok(Some(match settings.node.operator.as_str() {
        "SVMClassifier" => classifier(settings)?,
        "SVMRegressor" => regressor(settings)?,
        _ => return Ok(None),
    }))
}

/// How a row is compared with the support vectors.
#[derive(Debug)]
struct Kernel {
    form: Form,
    linear: Linear,
    vectors: Vec<f32>,
    features: usize,
    count: usize,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Linear,
    Polynomial { degree: f32 },
    Radial { gamma: f32 },
    Sigmoid,
}

impl Kernel {
    fn read(settings: &mut Settings<'_>, vectors: &[f32], count: usize) -> Result<Self> {
        let parameters = settings.floats("kernel_params")?;
        let [gamma, constant, degree] = match *parameters {
            [] => [0.0; 3],
            [gamma, constant, degree] => [gamma, constant, degree],
            _ => return Err(Error::data("its `kernel_params` are not three")),
        };
        let form = match settings.text("kernel_type")?.unwrap_or("LINEAR") {
            "LINEAR" => Form::Linear,
            "POLY" => Form::Polynomial { degree },
            "RBF" => Form::Radial { gamma },
            "SIGMOID" => Form::Sigmoid,
            other => return Err(Error::invalid(format!("its `kernel_type` of `{other}` is not supported"))),
        };
        let (alpha, start) = match form {
            Form::Linear | Form::Radial { .. } => (1.0, Vec::new()),
            _ => (gamma, vec![constant; count]),
        };
        let linear = Linear::new(vectors, start, count)?.times(alpha);
        let features = vectors.len().checked_div(count).unwrap_or(0);
        Ok(Self { form, linear, vectors: vectors.to_vec(), features, count })
    }

    /// `count` values a row.
    fn of(&self, input: &Tensor) -> Result<(usize, Vec<f32>)> {
        let (rows, width) = input.matrix()?;
        volume(&[rows, self.count])?;
        if let Form::Radial { gamma } = self.form {
            if width != self.features {
                return Err(Error::invalid(format!("it wants {} columns and is given {width}", self.features)));
            }
            let mut values = Vec::with_capacity(rows * self.count);
            for row in input.singles()?.chunks_exact(width.max(1)) {
                values.extend(self.vectors.chunks_exact(width.max(1)).map(|vector| {
                    let distance = row.iter().zip(vector).fold(0f32, |sum, (a, b)| sum + (a - b) * (a - b));
                    (-gamma * distance).exp()
                }));
            }
            return Ok((rows, values));
        }
        let (rows, mut values) = self.linear.of(input)?;
        match self.form {
            Form::Polynomial { degree: 2.0 } => values.iter_mut().for_each(|v| *v *= *v),
            Form::Polynomial { degree: 3.0 } => values.iter_mut().for_each(|v| *v = *v * *v * *v),
            Form::Polynomial { degree } => values.iter_mut().for_each(|v| *v = v.powf(degree)),
            Form::Sigmoid => values.iter_mut().for_each(|v| *v = tanh(*v)),
            Form::Linear | Form::Radial { .. } => {}
        }
        Ok((rows, values))
    }
}

fn regressor(settings: &mut Settings<'_>) -> Result<Run> {
    let count = usize::try_from(settings.int("n_supports")?.unwrap_or(0)).unwrap_or(0);
    let coefficients = settings.floats("coefficients")?;
    let rho = settings.floats("rho")?.first().copied().ok_or_else(|| Error::data("it has no `rho`"))?;
    let one_class = settings.flag("one_class", false)?;
    // ONNX Runtime does not apply it.
    Transform::named(settings.text("post_transform")?)?;
    let vectors = settings.floats("support_vectors")?;
    let kernel = if count > 0 {
        Some(Kernel::read(settings, vectors, count)?)
    } else {
        settings.ignore("kernel_type");
        settings.ignore("kernel_params");
        None
    };
    let linear = Linear::new(coefficients, vec![rho], 1)?;
    if kernel.is_some() && coefficients.len() != count {
        return Err(Error::data(format!("{} coefficients for {count} support vectors", coefficients.len())));
    }
    Ok(Box::new(move |inputs: Inputs<'_>, _| {
        let input = inputs.get(0)?;
        let (rows, mut values) = match &kernel {
            None => linear.of(input)?,
            Some(kernel) => {
                let (rows, values) = kernel.of(input)?;
                linear.of(&Tensor::new(vec![rows, kernel.count], Data::F32(values))?)?
            }
        };
        if one_class {
            values.iter_mut().for_each(|v| *v = if *v > 0.0 { 1.0 } else { -1.0 });
        }
        Ok(vec![Tensor::new(vec![rows, 1], Data::F32(values))?])
    }))
}

/// A machine for every pair of classes.
#[derive(Debug)]
struct Pairs {
    classes: usize,
    /// Where each class's support vectors start, and how many it has.
    ranges: Vec<(usize, usize)>,
    count: usize,
    coefficients: Vec<f32>,
    rho: Vec<f32>,
    probabilities: Option<(Vec<f32>, Vec<f32>)>,
}

impl Pairs {
    /// The decision values and votes of a row.
    fn decide(&self, kernel: &[f32], scores: &mut Vec<f32>, votes: &mut [usize]) {
        votes.fill(0);
        scores.clear();
        for i in 0..self.classes {
            for j in i + 1..self.classes {
                let mut sum = 0f64;
                let mut add = |(start, count): (usize, usize), row: usize| {
                    let weights = &self.coefficients[row * self.count + start..][..count];
                    for (weight, value) in weights.iter().zip(&kernel[start..start + count]) {
                        sum += f64::from(weight * value);
                    }
                };
                add(self.ranges[i], j - 1);
                add(self.ranges[j], i);
                sum += f64::from(self.rho[scores.len()]);
                scores.push(sum as f32);
                votes[if sum > 0.0 { i } else { j }] += 1;
            }
        }
    }

    /// Shares of all classes from those of all pairs.
    fn couple(&self, scores: &[f32], a: &[f32], b: &[f32], work: &mut Vec<f32>, shares: &mut [f32]) {
        let n = self.classes;
        work.clear();
        work.resize(2 * n * n + n, 0.0);
        let (r, rest) = work.split_at_mut(n * n);
        let (q, qp) = rest.split_at_mut(n * n);
        let mut pair = 0;
        for i in 0..n {
            for j in i + 1..n {
                let share = 1.0 - logistic(scores[pair] * a[pair] + b[pair]);
                // NaN stays NaN.
                let share = if share < 1e-7 { 1e-7 } else { share };
                let share = if share > 1.0 - 1e-7 { 1.0 - 1e-7 } else { share };
                r[i * n + j] = share;
                r[j * n + i] = 1.0 - share;
                pair += 1;
            }
        }
        for i in 0..n {
            shares[i] = 1.0 / n as f32;
            for j in (0..n).filter(|j| *j != i) {
                q[i * n + i] += r[j * n + i] * r[j * n + i];
                q[i * n + j] = if j < i { q[j * n + i] } else { -r[j * n + i] * r[i * n + j] };
            }
        }
        let enough = 0.005 / n as f32;
        for _ in 0..100 {
            let mut total = 0f32;
            for i in 0..n {
                qp[i] = 0.0;
                for j in 0..n {
                    qp[i] += q[i * n + j] * shares[j];
                }
                total += shares[i] * qp[i];
            }
            let error = qp.iter().fold(0f32, |most, v| if (v - total).abs() > most { (v - total).abs() } else { most });
            if error < enough {
                break;
            }
            for i in 0..n {
                let step = (-qp[i] + total) / q[i * n + i];
                shares[i] += step;
                total = (total + step * (step * q[i * n + i] + 2.0 * qp[i])) / (1.0 + step) / (1.0 + step);
                for j in 0..n {
                    qp[j] = (qp[j] + step * q[i * n + j]) / (1.0 + step);
                    shares[j] /= 1.0 + step;
                }
            }
        }
    }
}

fn classifier(settings: &mut Settings<'_>) -> Result<Run> {
    let classes = Classes::read(settings, "classlabels_ints", "classlabels_strings")?;
    let n = classes.len();
    let transform = Transform::named(settings.text("post_transform")?)?;
    if !(2..=1 << 12).contains(&n) {
        return Err(Error::invalid(format!("a machine of {n} classes is not supported")));
    }
    let mut ranges = Vec::with_capacity(n);
    let mut count = 0usize;
    for size in settings.ints("vectors_per_class")? {
        let size = usize::try_from(*size).ok().filter(|size| *size < 1 << 26);
        let size = size.ok_or_else(|| Error::data("its `vectors_per_class` are impossible"))?;
        ranges.push((count, size));
        count += size;
    }
    let coefficients = settings.floats("coefficients")?.to_vec();
    let rho = settings.floats("rho")?.to_vec();
    let (a, b) = (settings.floats("prob_a")?.to_vec(), settings.floats("prob_b")?.to_vec());
    let vectors = settings.floats("support_vectors")?;
    if count == 0 {
        return Err(Error::invalid("a machine without support vectors is not supported"));
    }
    let pairs = n * (n - 1) / 2;
    if ranges.len() != n || coefficients.len() != (n - 1) * count || rho.len() != pairs || a.len() != b.len() {
        return Err(Error::data("its lists do not go with its classes and support vectors"));
    }
    if !a.is_empty() && a.len() != pairs {
        return Err(Error::data("its `prob_a` are not one a pair of classes"));
    }
    let kernel = Kernel::read(settings, vectors, count)?;
    let machines =
        Pairs { classes: n, ranges, count, coefficients, rho, probabilities: (!a.is_empty()).then_some((a, b)) };
    let second = if transform == Transform::None { Second::Opposite } else { Second::Rest };
    let labels = settings.labels(&classes);
    Ok(Box::new(move |inputs: Inputs<'_>, _| {
        let (rows, kernels) = kernel.of(inputs.get(0)?)?;
        let (mut scores, mut work) = (Vec::new(), Vec::new());
        let (mut votes, mut shares) = (vec![0usize; n], vec![0f32; n]);
        let (mut chosen, mut all) = (Vec::with_capacity(rows), Vec::new());
        for row in kernels.chunks_exact(count) {
            machines.decide(row, &mut scores, &mut votes);
            let most = votes.iter().max().copied().unwrap_or(0);
            chosen.push(votes.iter().position(|v| *v == most).unwrap_or(0));
            match &machines.probabilities {
                Some((a, b)) => {
                    machines.couple(&scores, a, b, &mut work, &mut shares);
                    transform.write(&mut shares, Second::Not, &mut all);
                }
                None => transform.write(&mut scores, second, &mut all),
            }
        }
        let width = all.len().checked_div(rows).unwrap_or(n);
        Ok(vec![labels.of(&chosen)?, Tensor::new(vec![rows, width], Data::F32(all))?])
    }))
}
