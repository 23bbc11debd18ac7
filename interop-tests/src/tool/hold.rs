//! `lab-tool hold SECONDS`: a lab that waits to be killed, for the test that nothing survives that.

use anyhow::Result;

use crate::lab::Lab;

/// Lasts as long as its stdin; prints the lab's directory when all of it runs.
pub fn run(seconds: &str) -> Result<()> {
    let lab = Lab::new("hold")?;
    let sleep = lab.machine("box")?.command("sleep").arg(seconds).spawn("sleep")?;
    println!("{}", lab.dir().display());
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())?;
    sleep.check()
}
