//! Functions with the same code become one where rustc links with its own LLD:
//! a binary of query engines has thousands of them. Another linker might not
//! know the option.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let other = is_set("RUSTC_LINKER") || flags.contains("linker") || flags.contains("fuse-ld");
    if std::env::var("TARGET").as_deref() == Ok("x86_64-unknown-linux-gnu") && !other {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}
