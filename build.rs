//! Where the kernel starts the program: see `src/netlink/entry.rs`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |key: &str| std::env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    if target("ARCH") == "x86_64" && target("OS") == "linux" {
        println!("cargo:rustc-link-arg-bin=slash32=-Wl,-e,slash32_entry");
    }
}
