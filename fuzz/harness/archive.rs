//! A folder of files as one input.
//!
//! `@file PATH LENGTH\n CONTENT \n`, one after the other. Whatever cannot be
//! read so ends the archive: any input is some folder.

/// Path and content.
pub type File = (String, Vec<u8>);

pub fn read(mut input: &[u8]) -> Vec<File> {
    let mut files = Vec::new();
    while let Some(rest) = input.strip_prefix(b"@file ") {
        let Some(end) = rest.iter().position(|b| *b == b'\n') else { break };
        let (head, rest) = (String::from_utf8_lossy(&rest[..end]), &rest[end + 1..]);
        let Some((path, length)) = head.rsplit_once(' ') else { break };
        let length = length.parse().unwrap_or(usize::MAX).min(rest.len());
        files.push((path.to_owned(), rest[..length].to_vec()));
        input = rest[length..].strip_prefix(b"\n").unwrap_or(&rest[length..]);
    }
    files
}

pub fn write(files: &[File]) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, content) in files {
        out.extend_from_slice(format!("@file {path} {}\n", content.len()).as_bytes());
        out.extend_from_slice(content);
        out.push(b'\n');
    }
    out
}
