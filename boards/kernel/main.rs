//! The demo's kernel: it boots, prints what it found of the machine, runs the demo, and ends with its result.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel {
    use carveout_boards::demo::run;
    #[cfg(feature = "events")]
    use carveout_boards::kernel::record;
    use carveout_boards::kernel::{bring_up, console, report};
    use carveout_boards::println;
    use carveout_rt::start::BootHandover;

    carveout_rt::entry!(main);

    fn main(handover: BootHandover) -> ! {
        let kernel = bring_up::start(handover);
        report::boot(kernel);
        if !report::audit(kernel) {
            console::exit(1);
        }
        #[cfg(feature = "events")]
        record::begin(kernel);
        let result = run::run(kernel);
        #[cfg(feature = "events")]
        record::end(kernel);
        match result {
            Ok(()) => {
                println!("demo: ok");
                console::exit(0)
            }
            Err(failure) => console::die(format_args!("demo: {failure}")),
        }
    }
}

/// Prints how to run the kernel: on the host there is nothing to boot.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is a kernel: run it with ./qemu-run.sh");
}
