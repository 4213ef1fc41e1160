//! The book's code, and that of the READMEs, as doctests: what a reader copies compiles, and does what the text says.

/// Names the files whose code is compiled and run.
macro_rules! compiled {
    ($($name:ident: $file:literal),* $(,)?) => {
        /// The files whose code is compiled and run, as seen from this folder.
        pub const COMPILED: &[&str] = &[$($file),*];

        $(
            #[cfg(doctest)]
            #[doc = include_str!($file)]
            pub mod $name {}
        )*
    };
}

compiled! {
    readme: "../README.md",
    carveout: "../kernel/carveout/README.md",
    introduction: "src/introduction.md",
    quarrel: "src/quarrel.md",
    comparison: "src/comparison.md",
    architecture: "src/architecture.md",
    memory: "src/memory.md",
    protocol: "src/protocol.md",
    loans: "src/loans.md",
    glossary: "src/glossary.md",
    embedding: "src/embedding.md",
    drivers: "src/drivers.md",
    sharing: "src/sharing.md",
    adapters: "src/adapters.md",
    c: "src/c.md",
    features: "src/features.md",
    plan: "src/plan.md",
    events: "src/events.md",
    shell: "src/shell.md",
    network: "src/network.md",
    boards: "src/boards.md",
    testing: "src/testing.md",
    performance: "src/performance.md",
    limits: "src/limits.md",
}
