//! `Scan`: a graph that runs once for every step of the first dimension of
//! some inputs. Distances to all training points are written with it.

use super::super::graph::Program;
use super::super::node::{Inputs, Run, Settings};
use super::super::tensor::{Tensor, volume};
use super::shape::around;
use crate::error::{Error, Result};

/// One step of a tensor.
fn step(input: &Tensor, at: usize) -> Result<Tensor> {
    let (_, _, size) = around(&input.shape, 0);
    let mut data = super::super::tensor::Data::empty(input.kind(), size);
    data.append(&input.data, at * size..(at + 1) * size)?;
    Tensor::new(input.shape.get(1..).unwrap_or_default().to_vec(), data)
}

/// Prepares the operator. Values of the graph around it, which its own graph
/// uses, are further inputs behind its own.
pub fn build(settings: &mut Settings<'_>) -> Result<Run> {
    if settings.version < 9 {
        return Err(Error::invalid("before version 9 it is not supported"));
    }
    let scanned = usize::try_from(settings.int("num_scan_inputs")?.unwrap_or(0)).unwrap_or(0);
    for name in ["scan_input_axes", "scan_output_axes", "scan_input_directions", "scan_output_directions"] {
        if settings.ints(name)?.iter().any(|v| *v != 0) {
            return Err(Error::invalid(format!("its attribute `{name}` is not supported")));
        }
    }
    let own = settings.own_inputs;
    let states = own.checked_sub(scanned).filter(|_| scanned > 0);
    let states = states.ok_or_else(|| Error::data("it scans none of its inputs"))?;
    let body = settings.graph("body")?;
    if body.inputs.len() != own || body.outputs.len() < states || settings.node.inputs.len() < own {
        return Err(Error::data("its graph has another number of inputs or outputs"));
    }
    let mut names: Vec<String> = body.inputs.iter().map(|input| input.name.clone()).collect();
    names.extend(settings.node.inputs.iter().skip(own).cloned());
    let mut samples = std::collections::HashMap::new();
    for (at, name) in names.iter().enumerate() {
        let sample =
            settings.node.inputs.get(at).and_then(|name| settings.samples.get(name).or(settings.constants.get(name)));
        let Some(sample) = sample else { continue };
        let sample = if (states..own).contains(&at) {
            if sample.shape.first().is_none_or(|size| *size == 0) {
                continue;
            }
            step(sample, 0)?
        } else {
            sample.clone()
        };
        samples.insert(name.clone(), sample);
    }
    let outputs = body.outputs.len();
    let program = Program::prepare(body, &names, samples, settings.versions, settings.words)?;
    Ok(Box::new(move |inputs: Inputs<'_>, words| {
        let count = inputs.get(states)?.shape.first().copied().unwrap_or(0);
        let mut state = (0..states).map(|k| inputs.get(k).cloned()).collect::<Result<Vec<_>>>()?;
        let mut rows: Vec<Option<Tensor>> = vec![None; outputs - states];
        for at in 0..count {
            let mut parts = Vec::with_capacity(own - states);
            for k in states..own {
                let input = inputs.get(k)?;
                if input.shape.first() != Some(&count) {
                    return Err(Error::invalid("its inputs differ in their number of steps"));
                }
                parts.push(step(input, at)?);
            }
            let mut given: Vec<&Tensor> = state.iter().chain(&parts).collect();
            for k in own..inputs.0.len() {
                given.push(inputs.get(k)?);
            }
            let mut results = program.run(&given, words)?.into_iter();
            state = results.by_ref().take(states).collect();
            for (all, result) in rows.iter_mut().zip(results) {
                match all {
                    None => {
                        let shape = [&[count], result.shape.as_slice()].concat();
                        volume(&shape)?;
                        *all = Some(Tensor { shape, data: result.data });
                    }
                    Some(all) => {
                        if all.shape.get(1..) != Some(result.shape.as_slice()) {
                            return Err(Error::invalid("its steps differ in their shape"));
                        }
                        all.data.append(&result.data, 0..result.len())?;
                    }
                }
            }
        }
        for all in rows {
            state.push(all.ok_or_else(|| Error::invalid("it has no step"))?);
        }
        Ok(state)
    }))
}
