//! `table erase`: one entity leaves the project.

use std::io::BufRead;

use insightera_engine::erase::{self, Order, Plan, Report};
use insightera_engine::lake::erase::Erased;
use insightera_engine::{Error, Workspace};

use super::Answer;
use crate::cli::ReportFormat;
use crate::printer::Printer;
use crate::resolve::TableErase;
use crate::text;

/// Says what would be erased, asks, and erases.
pub async fn erase(workspace: &Workspace, command: &TableErase, printer: &Printer) -> anyhow::Result<Answer> {
    let order = Order {
        entity: erase::parse_entity(workspace, &command.entity)?,
        reason: command.reason.clone().unwrap_or_default(),
        tables: command.tables.clone(),
    };
    let plan = erase::plan(workspace, &order)?;
    if command.dry_run {
        return match command.format {
            ReportFormat::Json => Answer::json(&plan),
            ReportFormat::Table => Ok(Answer::done(planned(&plan))),
        };
    }
    if !command.yes {
        for line in planned(&plan).lines() {
            printer.message(line);
        }
        confirm(command, printer)?;
    }
    let report = erase::carry_out(workspace, &order, &|what| printer.message(what)).await?;
    let answer = match command.format {
        ReportFormat::Json => Answer::json(&report)?,
        ReportFormat::Table => Answer::done(done(&report)),
    };
    let exit_code = u8::from(!report.is_complete());
    Ok(Answer { exit_code, ..answer })
}

fn confirm(command: &TableErase, printer: &Printer) -> anyhow::Result<()> {
    if !command.terminal {
        return Err(Error::invalid("nobody can be asked whether to erase, and nothing was erased")
            .hint("say --yes, or --dry-run to see what would be erased")
            .into());
    }
    printer.message("This cannot be undone: snapshots, tags and backups of the warehouse do not bring it back.");
    printer.message("Erase it? Type yes:");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim() == "yes" {
        return Ok(());
    }
    Err(Error::invalid("not confirmed: nothing was erased").into())
}

fn tables(found: &[Erased]) -> String {
    let header = ["table", "rows", "data files", "delete files", "snapshots", "tags"];
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|table| {
            let tags: Vec<&str> = table
                .snapshots
                .iter()
                .flat_map(|s| &s.refs)
                .map(String::as_str)
                .filter(|name| *name != "main")
                .collect();
            vec![
                table.table.clone(),
                text::count(table.rows),
                text::count(table.data_files as u64),
                text::count(table.delete_files as u64),
                text::count(table.snapshots.len() as u64),
                if tags.is_empty() { "-".to_owned() } else { tags.join(", ") },
            ]
        })
        .collect();
    text::columns(&header, &[false, true, true, true, true, false], &rows)
}

fn planned(plan: &Plan) -> String {
    let mut out = match (plan.number, plan.completed) {
        (Some(number), true) => format!("erasure {number} was carried out before; it is looked for again\n"),
        (Some(number), false) => format!("erasure {number} was begun and not finished; it goes on\n"),
        _ => String::new(),
    };
    if plan.tables.is_empty() {
        out.push_str("no table of a pipeline holds the entity\n");
    } else {
        out.push_str(&tables(&plan.tables));
    }
    out.push_str(&further(&plan.pipelines, &plan.kept));
    out
}

fn further(pipelines: &[String], kept: &std::collections::BTreeMap<String, u64>) -> String {
    let mut out = String::new();
    if !pipelines.is_empty() {
        out.push_str(&format!("not scored any more by: {}\n", pipelines.join(", ")));
    }
    for (table, rows) in kept {
        out.push_str(&format!(
            "still there: {} rows in {table}, which no pipeline writes; erase them where it is made, or with --table {table}\n",
            text::count(*rows)
        ));
    }
    out
}

fn done(report: &Report) -> String {
    let mut out = format!("erasure {}\n", report.number);
    if report.tables.is_empty() {
        out.push_str("no table of a pipeline held the entity\n");
    } else {
        out.push_str(&tables(&report.tables));
    }
    for table in &report.tables {
        for moved in &table.snapshots {
            if let Some(new) = &moved.new {
                let name = |location: &str| location.rsplit('/').next().unwrap_or_default().to_owned();
                let refs = if moved.refs.is_empty() { String::new() } else { format!(" ({})", moved.refs.join(", ")) };
                out.push_str(&format!(
                    "{} snapshot {}{refs}: {} -> {}\n",
                    table.table,
                    moved.snapshot_id,
                    name(&moved.old),
                    name(new)
                ));
            }
        }
        if table.removed_files > 0 {
            out.push_str(&format!("{}: {} files removed\n", table.table, text::count(table.removed_files)));
        }
        for left in &table.left {
            out.push_str(&format!("{}: not finished: {left}\n", table.table));
        }
    }
    out.push_str(&further(&report.pipelines, &report.kept));
    let proof = &report.proof;
    if proof.ok {
        let rows: u64 = proof.tables.iter().map(|table| table.rows).sum();
        out.push_str(&format!(
            "proof: none of {} rows in {} tables, no trace in the bytes of {} files: {}\n",
            text::count(rows),
            text::count(proof.tables.len() as u64),
            text::count(proof.files),
            report.proof_file
        ));
        if let Some(why) = &proof.bytes_not_searched {
            out.push_str(&format!("bytes were not searched: {why}\n"));
        }
    } else {
        out.push_str(&format!("NOT proven, see {}\n", report.proof_file));
        out.extend(proof.holding.iter().map(|file| format!("  still in {file}\n")));
        out.extend(proof.unreadable.iter().map(|file| format!("  not readable: {file}\n")));
    }
    out
}
